"""What of an analyst's answer is believed: it must fit itself, the chart and the market."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import InvalidSignal
from airflow_ibkr_plugin.trading.signals import Action, Signal, validate_signal

AS_OF = datetime(2026, 3, 9, tzinfo=UTC)


def signal(**changes: Any) -> Signal:
    fields = {"symbol": "SPY", "action": Action.BUY, "confidence": 0.7, "as_of": AS_OF, "analyst": "rules:test"}
    return Signal(**fields | changes)


def faults(given_signal: Signal, *, reference_price: float = 100.0) -> str:
    """What is wrong with it; '' if nothing is."""
    try:
        passed = validate_signal(given_signal, reference_price=reference_price, symbol="SPY")
    except InvalidSignal as error:
        return error.message
    assert passed is given_signal
    return ""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"confidence": 0.0},
        {"confidence": 1.0},
        {"horizon_days": 1},
        {"horizon_days": 3650},
        {"entry": 150.0},
        {"entry": 50.0},
        {"entry": 100.0, "stop": 95.0, "target": 110.0},
        {"stop": 99.9, "target": 100.1},  # around the market where no entry is named
        {"action": Action.SELL, "entry": 100.0, "stop": 105.0, "target": 90.0},
        {"action": Action.HOLD, "stop": 105.0, "target": 90.0},  # levels of a hold are on no side
    ],
)
def test_a_consistent_signal_passes(fields: dict[str, Any]) -> None:
    assert faults(signal(**fields)) == ""


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"symbol": "QQQ"}, "symbol is 'QQQ', the chart shows 'SPY'"),
        ({"action": "short"}, "action 'short'"),
        ({"confidence": -0.01}, "confidence -0.01"),
        ({"confidence": 1.01}, "confidence 1.01"),
        ({"confidence": float("nan")}, "confidence nan"),
        ({"horizon_days": 0}, "horizon_days 0"),
        ({"horizon_days": 3651}, "horizon_days 3651"),
        ({"entry": 0.0}, "entry 0.0 is not a positive price"),
        ({"stop": float("nan")}, "stop nan is not a positive price"),
        ({"target": float("inf")}, "target inf is not a positive price"),
        ({"entry": 150.01}, "entry 150.01 is more than 50% away"),
        ({"entry": 49.99}, "entry 49.99 is more than 50% away"),
        ({"entry": 100.0, "stop": 100.0}, "stop 100.0 is on the wrong side"),
        ({"entry": 100.0, "target": 100.0}, "target 100.0 is on the wrong side"),
        ({"stop": 100.1}, "stop 100.1 is on the wrong side of the entry 100.0"),
        ({"action": Action.SELL, "stop": 99.9}, "stop 99.9 is on the wrong side"),
        ({"action": Action.SELL, "target": 100.1}, "target 100.1 is on the wrong side"),
    ],
)
def test_a_fault_is_named(fields: dict[str, Any], named: str) -> None:
    assert named in faults(signal(**fields))


def test_all_faults_are_named_at_once() -> None:
    said = faults(signal(symbol="QQQ", confidence=2.0, horizon_days=-1, entry=-5.0))
    assert all(name in said for name in ("symbol", "confidence", "horizon_days", "entry"))


levels = st.none() | st.floats(1, 300)


@given(entry=levels, stop=levels, target=levels, action=st.sampled_from(Action))
def test_what_passes_loses_at_the_stop_and_gains_at_the_target(
    entry: float | None, stop: float | None, target: float | None, action: Action
) -> None:
    passed = not faults(signal(action=action, entry=entry, stop=stop, target=target))
    known = [level for level in (entry, stop, target) if level is not None]
    near = all(50 <= level <= 150 for level in known)
    low, high = (stop, target) if action is Action.BUY else (target, stop)
    middle = 100.0 if entry is None else entry
    ordered = (low is None or low < middle) and (high is None or middle < high)
    assert passed == (near and (ordered or action is Action.HOLD))


def test_it_survives_serialisation() -> None:
    given_signal = signal(entry=100.0, stop=95.5, horizon_days=20, rationale="up")
    assert Signal.from_dict(given_signal.to_dict()) == given_signal


@pytest.mark.parametrize("change", [{"action": "short"}, {"as_of": "yesterday"}, {"as_of": None}, {"conviction": 1}])
def test_what_is_no_signal_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSignal, match="not a signal"):
        Signal.from_dict(signal().to_dict() | change)
    with pytest.raises(InvalidSignal, match="analyst"):
        Signal.from_dict({k: v for k, v in signal().to_dict().items() if k != "analyst"})
