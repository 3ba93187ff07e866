"""The offline analyst: fixed rules over the bars. It is no LLM, and it does not look at the picture.

Its confidence says how far the figures stand beyond the threshold. It is not a probability of profit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ibkr_plugin.analysis import parameters
from airflow_ibkr_plugin.analysis.indicators import Columns, columns
from airflow_ibkr_plugin.errors import BadBars, ConfigError
from airflow_ibkr_plugin.trading.analysts import AnalysisRequest, AnalystAnswer
from airflow_ibkr_plugin.trading.signals import MAX_LEVEL_DISTANCE, Action, Signal, validate_signal

MODEL = "offline-rules-v1"
NOT_AN_LLM = "Fixed rules over the bars, not an LLM; the picture was not looked at."

_THRESHOLDS = {"momentum": 0.25, "mean_reversion": 2.0}
# Below this share of the price, movement is rounding of floats and not a movement.
_STILL = 1e-9


@dataclass(frozen=True, kw_only=True)
class _View:
    """What a strategy concluded. `reach` is the distance from neutral in the strategy's own unit, signed up/down."""

    action: Action
    reach: float
    why: str
    target: float | None = None


class RulesAnalyst:
    """Momentum of two moving averages, or reversion to the slow one; stop and target by average true range.

    The same bars and parameters give the same answer. Parameters: `parameters.RULES`.
    """

    def analyse(self, request: AnalysisRequest) -> AnalystAnswer:
        """Conclude from the bars alone; the prompt and the chart are not read.

        :raises ConfigError: `fast` is not below `slow`.
        :raises BadBars: too few bars for the parameters, or prices that are not positive numbers.
        """
        p = parameters.with_defaults(parameters.RULES, request.parameters)
        strategy = str(p["strategy"])
        p.setdefault("threshold", _THRESHOLDS[strategy])
        bars = _usable(request, p)
        figures = _figures(bars, p)
        view = (_momentum if strategy == "momentum" else _mean_reversion)(figures, p)
        stop, target, view = _levels(view, figures, p)
        acts = view.action is not Action.HOLD
        signal = Signal(
            symbol=request.symbol,
            action=view.action,
            confidence=_confidence(view, float(p["threshold"])),
            as_of=request.as_of,
            analyst=f"rules:{strategy}",
            entry=figures["close"] if acts else None,
            stop=stop,
            target=target,
            horizon_days=int(p["horizon_days"]),
            rationale=f"{view.why} {NOT_AN_LLM}",
        )
        validate_signal(signal, reference_price=figures["close"], symbol=request.symbol)
        raw = {"model": MODEL, "note": NOT_AN_LLM, "parameters": p, "figures": figures, "signal": signal.to_dict()}
        return AnalystAnswer(signal=signal, raw=json.dumps(raw, sort_keys=True, allow_nan=False), model=MODEL)


def _usable(request: AnalysisRequest, p: Mapping[str, Any]) -> Columns:
    if p["fast"] >= p["slow"]:
        raise ConfigError(f"rules: fast {p['fast']} is not below slow {p['slow']}.", remedy="Swap them.")
    needed = max(p["slow"], p["atr_period"] + 1)
    if len(request.bars) < needed:
        raise BadBars(
            f"the rules need {needed} bars of {request.symbol} and there are {len(request.bars)}.",
            remedy="Ask for a longer duration, or shorten `slow` or `atr_period`.",
        )
    return columns(request.bars)


def _figures(bars: Columns, p: Mapping[str, Any]) -> dict[str, float]:
    import talib

    window = bars.close[-p["slow"] :]
    return {
        "close": float(bars.close[-1]),
        "fast": float(bars.close[-p["fast"] :].mean()),
        "slow": float(window.mean()),
        "deviation": float(window.std()),
        "atr": float(talib.ATR(bars.high, bars.low, bars.close, timeperiod=p["atr_period"])[-1]),
    }


def _momentum(f: Mapping[str, float], p: Mapping[str, Any]) -> _View:
    if f["atr"] <= _STILL * f["close"]:
        return _View(action=Action.HOLD, reach=0.0, why="Prices do not move.")
    reach = (f["fast"] - f["slow"]) / f["atr"]
    why = f"The {p['fast']}-bar average stands {reach:+.2f} ATR from the {p['slow']}-bar average"
    return _decide(reach, p, why, Action.BUY)


def _mean_reversion(f: Mapping[str, float], p: Mapping[str, Any]) -> _View:
    if min(f["deviation"], f["atr"]) <= _STILL * f["close"]:
        return _View(action=Action.HOLD, reach=0.0, why="Prices do not move.")
    reach = (f["close"] - f["slow"]) / f["deviation"]
    why = f"The close stands {reach:+.2f} standard deviations from the {p['slow']}-bar average"
    return _decide(reach, p, why, Action.SELL, target=f["slow"])


def _decide(reach: float, p: Mapping[str, Any], why: str, above: Action, *, target: float | None = None) -> _View:
    """Act beyond the threshold: `above` when the figure is high, its opposite when it is low."""
    if abs(reach) <= p["threshold"]:
        return _View(action=Action.HOLD, reach=reach, why=f"{why}, within the threshold of {p['threshold']:g}.")
    below = Action.SELL if above is Action.BUY else Action.BUY
    action = above if reach > 0 else below
    return _View(action=action, reach=reach, why=f"{why}, beyond the threshold of {p['threshold']:g}.", target=target)


def _levels(view: _View, f: Mapping[str, float], p: Mapping[str, Any]) -> tuple[float | None, float | None, _View]:
    """Stop and target. Where they fall out of the band that signals allow, the market is too wild: hold, and say so."""
    if view.action is Action.HOLD:
        return None, None, view
    side = 1 if view.action is Action.BUY else -1
    stop = f["close"] - side * p["stop_atr"] * f["atr"]
    target = view.target if view.target is not None else f["close"] + side * p["target_atr"] * f["atr"]
    if max(abs(stop / f["close"] - 1), abs(target / f["close"] - 1)) > MAX_LEVEL_DISTANCE:
        why = f"{view.why} But stop {stop:.6g} or target {target:.6g} lies too far from the market to be used."
        return None, None, _View(action=Action.HOLD, reach=view.reach, why=why)
    return stop, target, view


def _confidence(view: _View, threshold: float) -> float:
    """0.5 at the threshold, rising by what lies beyond it, 0.9 at most; a hold is sure of nothing: 0.5."""
    if view.action is Action.HOLD:
        return 0.5
    return round(0.5 + 0.4 * min(1.0, (abs(view.reach) - threshold) / 2), 4)
