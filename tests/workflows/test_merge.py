"""RFC 7396, by its own examples and by its laws; and what an override can never touch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.workflows.merge import merge, refused_fields

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
KEYS = st.sampled_from(["a", "b", "c"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=3)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # Source: RFC 7396, appendix A.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_examples_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


def has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(item is None or has_null(item) for item in value.values())
    return False


@given(JSON, JSON)
def test_merging_changes_neither_argument_and_shares_nothing(target: Any, patch: Any) -> None:
    before = deepcopy((target, patch))
    result = merge(target, patch)
    if isinstance(result, dict):
        for value in result.values():
            if isinstance(value, (dict, list)):
                value.clear()
    assert (target, patch) == before


@given(JSON)
def test_an_empty_patch_keeps_an_object_as_it_is(target: Any) -> None:
    assert merge(target, {}) == (target if isinstance(target, dict) else {})


@given(JSON, JSON)
def test_merging_twice_is_merging_once(target: Any, patch: Any) -> None:
    once = merge(target, patch)
    assert merge(once, patch) == once


@given(OBJECTS, OBJECTS)
def test_the_patch_wins_and_what_it_does_not_name_stays(target: dict[str, Any], patch: dict[str, Any]) -> None:
    result = merge(target, patch)
    for name in target.keys() | patch.keys():
        if name not in patch:
            assert result[name] == target[name]
        elif patch[name] is None:
            assert name not in result
        elif not isinstance(patch[name], dict):
            assert result[name] == patch[name]
        else:
            assert result[name] == merge(target.get(name), patch[name])


@given(JSON, JSON.filter(lambda value: not has_null(value)))
def test_nothing_that_a_patch_without_null_says_is_lost(target: Any, patch: Any) -> None:
    def within(part: Any, whole: Any) -> bool:
        if isinstance(part, dict):
            return isinstance(whole, dict) and all(k in whole and within(v, whole[k]) for k, v in part.items())
        return bool(part == whole)

    assert within(patch, merge(target, patch))


@pytest.mark.parametrize("field", ["id", "mode", "connection", "package", "strategies"])
@pytest.mark.parametrize("value", ["live", None, {}])
def test_an_override_cannot_touch_what_is_fixed(field: str, value: Any) -> None:
    assert field in refused_fields({field: value})[0]


@pytest.mark.parametrize("risk", [None, [], {"order_notional": None}, {"order_notional": {"max": 1}, "x": None}])
def test_an_override_cannot_remove_a_risk_rule(risk: Any) -> None:
    assert "risk" in refused_fields({"risk": risk})[0]


def test_an_override_can_set_parameters() -> None:
    assert refused_fields({"risk": {"order_notional": {"max": 1}}, "symbols": ["IBM"], "schedule": None}) == []
