"""A signal: what an analyst concluded from a chart. It asks; risk disposes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from airflow_ibkr_plugin.errors import InvalidSignal


class Action(StrEnum):
    """What the analyst wants done."""

    BUY = "buy"
    SELL = "sell"
    HOLD = "hold"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A structured signal for one instrument.

    :param symbol: the instrument's name, as in the workflow.
    :param confidence: 0..1.
    :param entry, stop, target: price levels in the instrument's currency; None where the analyst gave none.
    :param horizon_days: how long the view is meant to hold, in calendar days.
    :param as_of: time of the last bar that the analyst saw, aware UTC (broker's clock, not ours).
    :param analyst: who concluded it, such as `rules:momentum` or `llm:openai-chat:gpt-5`.
    """

    symbol: str
    action: Action
    confidence: float
    as_of: datetime
    analyst: str
    entry: float | None = None
    stop: float | None = None
    target: float | None = None
    horizon_days: int | None = None
    rationale: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `as_of` as ISO 8601."""
        return {**asdict(self), "as_of": self.as_of.isoformat()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Signal:
        """Inverse of :meth:`to_dict`.

        :raises InvalidSignal: a field is missing or of the wrong form.
        """
        try:
            return cls(
                **{
                    **value,
                    "action": Action(value["action"]),
                    "as_of": datetime.fromisoformat(value["as_of"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidSignal(f"not a signal: {error}", remedy="See docs/signals.md for the fields.") from error


# How far a level may stand from the market before it is taken for nonsense (another symbol, a lost decimal).
MAX_LEVEL_DISTANCE = 0.5


def validate_signal(signal: Signal, *, reference_price: float, symbol: str) -> Signal:
    """Return the signal if it is consistent in itself and with the market.

    Checks the symbol, the action, the confidence's range, that every level is finite, positive and within
    `MAX_LEVEL_DISTANCE` of the reference price, and that stop and target stand on the right sides of the entry.

    :param reference_price: last known price, same currency as the levels.
    :raises InvalidSignal: with every fault found, so that the analyst can be asked to mend all at once.
    """
    faults: list[str] = []
    if signal.symbol != symbol:
        faults.append(f"symbol is {signal.symbol!r}, the chart shows {symbol!r}")
    if signal.action not in tuple(Action):
        faults.append(f"action {signal.action!r} is none of {', '.join(Action)}")
    if not (math.isfinite(signal.confidence) and 0 <= signal.confidence <= 1):
        faults.append(f"confidence {signal.confidence!r} is not within 0..1")
    if signal.horizon_days is not None and not 0 < signal.horizon_days <= 3650:
        faults.append(f"horizon_days {signal.horizon_days!r} is not within 1..3650")
    levels = {n: v for n in ("entry", "stop", "target") if (v := getattr(signal, n)) is not None}
    for name, level in levels.items():
        if not math.isfinite(level) or level <= 0:
            faults.append(f"{name} {level!r} is not a positive price")
        elif abs(level / reference_price - 1) > MAX_LEVEL_DISTANCE:
            faults.append(f"{name} {level} is more than {MAX_LEVEL_DISTANCE:.0%} away from {reference_price}")
    if signal.action != Action.HOLD and not faults:
        entry = levels.get("entry", reference_price)
        side = 1 if signal.action == Action.BUY else -1
        if "stop" in levels and (entry - levels["stop"]) * side <= 0:
            faults.append(f"stop {levels['stop']} is on the wrong side of the entry {entry} for a {signal.action}")
        if "target" in levels and (levels["target"] - entry) * side <= 0:
            faults.append(f"target {levels['target']} is on the wrong side of the entry {entry} for a {signal.action}")
    if faults:
        raise InvalidSignal("; ".join(faults) + ".", remedy="Ask the analyst again or change the prompt.")
    return signal
