from __future__ import annotations

import pytest

from airflow_ibkr_plugin.operators.data import chart_label


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("simulator:ibkr_default", "SIMULATED · Apple Inc"),
        ("paper:ibkr_default", ""),
        ("live:simulator", ""),  # a connection may have any name
    ],
)
def test_a_chart_of_prices_that_are_no_markets_says_so(source: str, label: str) -> None:
    assert chart_label({"source": source, "instrument": {"long_name": "Apple Inc"}}) == label
