"""A risk rule of our own: momentum is only worth an order while the signal is convinced and fresh.

It sees the signal's figures, never the analyst's text, and it can only deny: it cannot make an order larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule, Verdict, allow, deny

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["min_confidence", "max_age_days"],
    "properties": {
        "min_confidence": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Least confidence of the signal, 0 to 1.",
        },
        "max_age_days": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 366,
            "description": "Most calendar days between the last bar of the signal and now, by the broker's clock.",
        },
        "min_reward_to_risk": {
            "type": "number",
            "minimum": 0,
            "description": "Least ratio of (target - entry) to (entry - stop); a signal without levels is denied.",
        },
    },
}


def conviction(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny an order whose signal is missing, weak, old, from the future, or whose stop is too far for its target."""
    signal = context.signal
    if signal is None:
        return deny("the order has no signal")
    least = float(parameters["min_confidence"])
    # Written so that a confidence that is no number denies.
    if not signal.confidence >= least:
        return deny("the signal is not convinced enough", limit=least, observed=signal.confidence)
    age = context.now - signal.as_of
    longest = timedelta(days=float(parameters["max_age_days"]))
    if not timedelta(0) <= age <= longest:
        return deny("the signal is too old, or from the future", limit=longest, observed=age)
    wanted = parameters.get("min_reward_to_risk")
    if wanted is None:
        return allow(limit=least, observed=signal.confidence)
    ratio = _reward_to_risk(signal.entry, signal.stop, signal.target)
    if ratio is None or not ratio >= float(wanted):
        return deny("the target is too near for the stop", limit=wanted, observed=ratio)
    return allow(limit=wanted, observed=ratio)


def _reward_to_risk(entry: float | None, stop: float | None, target: float | None) -> float | None:
    if entry is None or stop is None or target is None or entry == stop:
        return None
    return (target - entry) / (entry - stop)


CONVICTION = RiskRule(
    name="momentum.conviction",
    check=conviction,
    parameters=PARAMETERS,
    # After the built-in rules that clamp, beside those that only deny.
    order=80,
    description="Denies orders on signals that are weak, old, or risk too much for what they can win.",
)
