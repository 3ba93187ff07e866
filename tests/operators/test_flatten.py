from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.operators.run import flatten

names = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=5)
configs = st.recursive(st.integers() | st.text(max_size=5), lambda inner: st.dictionaries(names, inner), max_leaves=10)


def leaves(value: object) -> int:
    return sum(map(leaves, value.values())) if isinstance(value, dict) and value else 1


@given(st.dictionaries(names, configs, min_size=1))
def test_every_leaf_becomes_one_parameter(config: dict[str, object]) -> None:
    assert len(flatten(config)) == leaves(config)


def test_path_names_the_leaf() -> None:
    assert flatten({"risk": {"order_notional": {"max": 5}}, "mode": "paper"}) == {
        "risk.order_notional.max": "5",
        "mode": "paper",
    }
