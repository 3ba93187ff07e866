"""Orders that cannot be are faults of the workflow file, with line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ibkr_plugin.workflows.checks import Checker
from airflow_ibkr_plugin.workflows.loader import load_text


def told(text: str, checker: Checker) -> list[str]:
    (loaded,) = load_text(text.encode(), Path("w.yaml"), checker, None)
    return str(loaded.error.message).splitlines() if loaded.error else []


ORDER = """\
id: trade
symbols: [SPY]
tasks:
  fetch: {type: market_data, for_each: symbol}
  draw: {type: chart, for_each: symbol, needs: [fetch]}
  judge: {type: signal, for_each: symbol, needs: [draw], parameters: {analyst: rules, prompt: trend_following}}
  trade:
    type: order
    for_each: symbol
    needs: [judge]
    parameters:
      sizing: {quantity: 1}
"""
WAIT_TOO_LONG = (
    "wait_seconds {} needs an execution_timeout_seconds of at least {}, and it is {}: the task would be ended"
)

FAULTS = {
    "stop order without its offset": (
        ORDER + "      order_type: STP LMT\n",
        "w.yaml:12:7: the field 'stop_offset' is missing",
    ),
    "trailing stop without a distance": (
        ORDER + "      order_type: TRAIL\n",
        "w.yaml:12:7: it fits none of the allowed forms: 'trail_offset' is a required property",
    ),
    "trailing stop with two distances": (
        ORDER + "      order_type: TRAIL\n      trail_offset: 0.01\n      trail_amount: 1\n",
        "w.yaml:12:7: {'sizing': {'quantity': 1}, 'order_type': 'TRAIL'",
    ),
    "distance of a trailing stop for another type": (
        ORDER + "      trail_offset: 0.01\n",
        "w.yaml:12:7: this field cannot stand here",
    ),
    "limit of a market order": (ORDER + "      limit_offset: 0.01\n", "w.yaml:12:7: this field cannot stand here"),
    "stop of a limit order": (
        ORDER + "      order_type: LMT\n      stop_offset: 0.01\n",
        "w.yaml:12:7: this field cannot stand here",
    ),
    "stop order that does not wait": (
        ORDER + "      order_type: STP\n      stop_offset: 0.01\n      tif: IOC\n",
        "w.yaml:15:12: 'IOC' is not allowed here. Known: DAY, GTC.",
    ),
    "market order outside hours": (ORDER + "      outside_rth: true\n", "w.yaml:13:20: True is not allowed here"),
    "bracket without a stop": (
        ORDER + "      bracket: {target: {offset: 0.02}}\n",
        "w.yaml:13:16: the field 'stop' is missing",
    ),
    "bracket with two distances": (
        ORDER + "      bracket: {stop: {offset: 0.02, amount: 2}}\n",
        "w.yaml:13:23: {'offset': 0.02, 'amount': 2} is valid under each of",
    ),
    "risk per trade without a stop": (
        ORDER.replace("quantity: 1", "risk_per_trade: 0.01"),
        "w.yaml:12:7: the field 'bracket' is missing",
    ),
    "neither cancelled nor left": (
        ORDER + "      on_timeout: wait\n",
        "w.yaml:13:19: 'wait' is not allowed here. Known: cancel, leave.",
    ),
    "stop offset below zero": (
        ORDER + "      order_type: STP\n      stop_offset: -0.01\n",
        "w.yaml:14:20: -0.01 is less than or equal to the minimum of 0",
    ),
    "order that waits longer than its task may run": (
        ORDER + "      wait_seconds: 781\n",
        f"w.yaml:13:21: {WAIT_TOO_LONG.format(781, 901, 900)}",
    ),
    "time-out of an order task too short": (
        ORDER + "    execution_timeout_seconds: 179\n",
        f"w.yaml:13:32: {WAIT_TOO_LONG.format(60, 180, 179)}",
    ),
    "time-out of all tasks too short for an order": (
        ORDER + "defaults: {execution_timeout_seconds: 100}\n",
        f"w.yaml:13:39: {WAIT_TOO_LONG.format(60, 180, 100)}",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_once_with_its_place_and_its_remedy(name: str, checker: Checker) -> None:
    text, expected = FAULTS[name]
    (line,) = told(text, checker)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "more",
    [
        "",
        "      wait_seconds: 780\n",
        "      wait_seconds: 3600\n    execution_timeout_seconds: 3720\n",
        "      wait_seconds: 1000\ndefaults: {execution_timeout_seconds: 1120}\n",
        "      wait_seconds: 60\n    execution_timeout_seconds: 180\ndefaults: {execution_timeout_seconds: 100}\n",
        "      order_type: STP\n      stop_offset: 0.01\n",
        "      tif: GTC\n      on_timeout: leave\n",
        "      order_type: TRAIL\n      trail_offset: 0.01\n      tif: GTC\n",
        "      order_type: TRAIL\n      trail_amount: 1.5\n      stop_offset: 0.02\n",
        "      order_type: LMT\n      tif: IOC\n      outside_rth: true\n",
        "      bracket: {stop: {amount: 2, order_type: TRAIL}, target: {offset: 0.05}}\n",
    ],
)
def test_an_order_that_fits_its_time_out_or_has_its_stop_is_sound(more: str, checker: Checker) -> None:
    assert told(ORDER + more, checker) == []
