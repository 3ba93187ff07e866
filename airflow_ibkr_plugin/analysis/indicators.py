"""Technical indicators by TA-Lib: which there are, their parameters, and their values over bars.

An indicator is named in YAML as a mapping, its name beside its parameters: `{name: sma, period: 20}`.
Formulas and warm-up lengths are TA-Lib's own (https://ta-lib.org/functions/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow_ibkr_plugin.errors import BadBars, ConfigError
from airflow_ibkr_plugin.trading.bars import Bar

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Values = NDArray[float64]

Panel = Literal["overlay", "below"]


@dataclass(frozen=True)
class Columns:
    """Bars as float64 columns of equal length, oldest first (TA-Lib takes nothing else)."""

    open: Values
    high: Values
    low: Values
    close: Values
    volume: Values

    def newest(self, count: int) -> Columns:
        """The last so many bars, or all where there are fewer."""
        return Columns(*(column[-count:] for column in (self.open, self.high, self.low, self.close, self.volume)))


def columns(bars: Sequence[Bar]) -> Columns:
    """Turn bars into columns.

    :raises BadBars: there are none, or a price is not a positive number.
    """
    import numpy as np

    if not bars:
        raise BadBars("there are no bars to compute from.", remedy="Ask for a longer duration or check the symbol.")
    table = np.array([(b.open, b.high, b.low, b.close, b.volume) for b in bars], dtype=np.float64)
    wrong = ~np.isfinite(table).all(axis=1) | (table[:, :4] <= 0).any(axis=1)
    if wrong.any():
        first = bars[int(np.argmax(wrong))]
        raise BadBars(
            f"the bar of {first.time.isoformat()} has a price or volume that is not a positive number: {first}.",
            remedy="Fetch the bars again.",
        )
    return Columns(*(np.ascontiguousarray(column) for column in table.T))


@dataclass(frozen=True, kw_only=True)
class Indicator:
    """One kind of indicator.

    :param compute: columns and parameters -> lines by label, each as long as the bars, NaN while warming up.
    :param panel: drawn over the prices, or in a panel of its own below them.
    :param guides: horizontal lines of the panel, such as 30 and 70.
    :param bars_needed: how many bars the first value takes.
    """

    name: str
    compute: Callable[[Columns, Mapping[str, Any]], dict[str, Values]]
    bars_needed: Callable[[Mapping[str, Any]], int]
    parameters: Mapping[str, Any]
    panel: Panel
    guides: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Computed:
    """An indicator's values over given bars. `lines` maps a label such as `SMA 20` to values with leading NaN."""

    name: str
    panel: Panel
    lines: Mapping[str, Values]
    guides: tuple[float, ...] = ()


def _sma(c: Columns, p: Mapping[str, Any]) -> dict[str, Values]:
    import talib

    return {f"SMA {p['period']}": talib.SMA(c.close, timeperiod=p["period"])}


def _ema(c: Columns, p: Mapping[str, Any]) -> dict[str, Values]:
    import talib

    return {f"EMA {p['period']}": talib.EMA(c.close, timeperiod=p["period"])}


def _bollinger(c: Columns, p: Mapping[str, Any]) -> dict[str, Values]:
    import talib

    period, width = p["period"], float(p["deviations"])
    lines = talib.BBANDS(c.close, timeperiod=period, nbdevup=width, nbdevdn=width)
    return dict(zip((f"BB {period}/{width:g} {line}" for line in ("upper", "middle", "lower")), lines, strict=True))


def _rsi(c: Columns, p: Mapping[str, Any]) -> dict[str, Values]:
    import talib

    return {f"RSI {p['period']}": talib.RSI(c.close, timeperiod=p["period"])}


def _macd(c: Columns, p: Mapping[str, Any]) -> dict[str, Values]:
    import talib

    fast, slow, signal = p["fast"], p["slow"], p["signal"]
    if fast >= slow:
        raise ConfigError(f"macd: fast {fast} is not below slow {slow}.", remedy="Swap them.")
    line, average, histogram = talib.MACD(c.close, fastperiod=fast, slowperiod=slow, signalperiod=signal)
    return {f"MACD {fast}/{slow}": line, f"signal {signal}": average, "histogram": histogram}


def _atr(c: Columns, p: Mapping[str, Any]) -> dict[str, Values]:
    import talib

    return {f"ATR {p['period']}": talib.ATR(c.high, c.low, c.close, timeperiod=p["period"])}


def _period(default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 2, "maximum": 1000, "default": default}


def _schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


_DEVIATIONS = {"type": "number", "exclusiveMinimum": 0, "maximum": 10, "default": 2}

INDICATORS: Mapping[str, Indicator] = {
    indicator.name: indicator
    for indicator in (
        Indicator(
            name="sma",
            compute=_sma,
            bars_needed=lambda p: int(p["period"]),
            parameters=_schema(period=_period(20)),
            panel="overlay",
        ),
        Indicator(
            name="ema",
            compute=_ema,
            bars_needed=lambda p: int(p["period"]),
            parameters=_schema(period=_period(20)),
            panel="overlay",
        ),
        Indicator(
            name="bollinger",
            compute=_bollinger,
            bars_needed=lambda p: int(p["period"]),
            parameters=_schema(period=_period(20), deviations=_DEVIATIONS),
            panel="overlay",
        ),
        Indicator(
            name="rsi",
            compute=_rsi,
            bars_needed=lambda p: int(p["period"]) + 1,
            parameters=_schema(period=_period(14)),
            panel="below",
            guides=(30.0, 70.0),
        ),
        Indicator(
            name="macd",
            compute=_macd,
            bars_needed=lambda p: int(p["slow"]) + int(p["signal"]) - 1,
            parameters=_schema(fast=_period(12), slow=_period(26), signal=_period(9)),
            panel="below",
            guides=(0.0,),
        ),
        Indicator(
            name="atr",
            compute=_atr,
            bars_needed=lambda p: int(p["period"]) + 1,
            parameters=_schema(period=_period(14)),
            panel="below",
        ),
    )
}


def list_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a list of indicators, for the parameters of task types that take one."""
    return {
        "type": "array",
        "items": {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"name": {"const": i.name}, **i.parameters["properties"]},
                    "required": ["name"],
                    "additionalProperties": False,
                }
                for i in INDICATORS.values()
            ]
        },
    }


def compute(spec: Mapping[str, Any], bars: Columns) -> Computed:
    """Compute one indicator, parameters that are not given taking their defaults.

    :param spec: `name` and the indicator's parameters, as in YAML.
    :raises ConfigError: no such indicator, or its parameters are wrong.
    :raises BadBars: too few bars for a single value.
    """
    import jsonschema

    given = {key: value for key, value in spec.items() if key != "name"}
    indicator = INDICATORS.get(str(spec.get("name")))
    if indicator is None:
        raise ConfigError(f"no indicator is named {spec.get('name')!r}.", remedy=f"Known: {', '.join(INDICATORS)}.")
    try:
        jsonschema.validate(given, indicator.parameters)
    except jsonschema.ValidationError as error:
        raise ConfigError(
            f"indicator {indicator.name}: {error.json_path.removeprefix('$.')}: {error.message}.",
            remedy=f"Its parameters: {', '.join(indicator.parameters['properties'])}.",
        ) from error
    parameters = {key: given.get(key, s["default"]) for key, s in indicator.parameters["properties"].items()}
    needed = indicator.bars_needed(parameters)
    if len(bars.close) < needed:
        raise BadBars(
            f"indicator {indicator.name} needs {needed} bars for its first value and there are {len(bars.close)}.",
            remedy="Ask for a longer duration or shorten the indicator's period.",
        )
    return Computed(
        name=indicator.name,
        panel=indicator.panel,
        lines=indicator.compute(bars, parameters),
        guides=indicator.guides,
    )
