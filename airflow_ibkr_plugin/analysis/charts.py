"""Candlestick charts as PNG: the same bars give the same bytes, on any day and machine with the same matplotlib.

Drawn with matplotlib's Figure and Agg canvas directly: pyplot would keep global state, and finished charting
libraries are slower or need a browser. Bars stand on an index axis, so nights and holidays leave no holes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.analysis.axis import compact, date_ticks, price_decimals
from airflow_ibkr_plugin.analysis.indicators import Columns, Computed, columns, compute
from airflow_ibkr_plugin.errors import BadBars, ConfigError
from airflow_ibkr_plugin.trading.bars import BAR_SIZES, Bar, is_intraday

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_BARS = 2
MIN_SIZE, MAX_SIZE = (400, 300), (4000, 3000)

UP, DOWN = "#26a69a", "#ef5350"
_INK, _FAINT, _GRID = "#1f2933", "#66727f", "#e6e9ed"
_LABEL_BACK, _LABEL_INK = "#fff3cd", "#7a4d00"
_LINES = ("#2962ff", "#ff6d00", "#8e24aa", "#00838f", "#6d4c41", "#c2185b")
_DPI = 100
# Margins in pixels: room for the header, the price axis on the right, and two lines of dates.
_LEFT, _RIGHT, _TOP, _BOTTOM = 10, 66, 48, 38
# Heights of the panels, as parts.
_PRICE_PARTS, _VOLUME_PARTS, _BELOW_PARTS = 3.4, 0.8, 1.0


@dataclass(frozen=True, kw_only=True)
class ChartImage:
    """A drawn chart.

    :param sha256: of the PNG's bytes, hexadecimal.
    :param first_bar, last_bar: start times of the outermost bars shown, aware UTC.
    :param label: what is printed on the picture about its origin; '' if nothing.
    """

    png: bytes = field(repr=False)
    sha256: str
    width: int
    height: int
    symbol: str
    bar_size: str
    bars: int
    first_bar: datetime
    last_bar: datetime
    indicators: tuple[Mapping[str, Any], ...] = ()
    label: str = ""


def draw_chart(
    bars: Sequence[Bar],
    *,
    symbol: str,
    bar_size: str,
    indicators: Sequence[Mapping[str, Any]] = (),
    label: str = "",
    width: int = 800,
    height: int = 600,
) -> ChartImage:
    """Draw candlesticks, volume (where there is any) and indicators.

    :param bars: oldest first, at least `MIN_BARS`, without two at one time.
    :param indicators: each a `name` with parameters, as `indicators.compute` takes them.
    :param label: origin of the data, printed on the picture, such as `SIMULATED`.
    :param width, height: in pixels.
    :raises BadBars: too few bars, bars out of order, or too few for an indicator.
    :raises ConfigError: unknown bar size or indicator, wrong parameters, or a size that cannot be drawn.
    """
    _check(bars, symbol, bar_size, width, height)
    table = columns(bars)
    computed = [compute(spec, table) for spec in indicators]

    from matplotlib import style

    # A matplotlibrc of the user or the machine must not change the bytes.
    with style.context("default"):
        figure = _figure(bars, table, computed, symbol, bar_size, label, (width, height))
        target = io.BytesIO()
        # Without this, matplotlib writes its version into the file.
        figure.savefig(target, format="png", dpi=_DPI, metadata={"Software": None})
    png = target.getvalue()
    return ChartImage(
        png=png,
        sha256=hashlib.sha256(png).hexdigest(),
        width=width,
        height=height,
        symbol=symbol,
        bar_size=bar_size,
        bars=len(bars),
        first_bar=bars[0].time,
        last_bar=bars[-1].time,
        indicators=tuple(dict(spec) for spec in indicators),
        label=label,
    )


def _check(bars: Sequence[Bar], symbol: str, bar_size: str, width: int, height: int) -> None:
    if bar_size not in BAR_SIZES:
        raise ConfigError(f"no bar size is named {bar_size!r}.", remedy=f"Known: {', '.join(BAR_SIZES)}.")
    if not (MIN_SIZE[0] <= width <= MAX_SIZE[0] and MIN_SIZE[1] <= height <= MAX_SIZE[1]):
        raise ConfigError(
            f"a chart of {width} x {height} pixels cannot be drawn.",
            remedy=f"Choose {MIN_SIZE[0]}..{MAX_SIZE[0]} by {MIN_SIZE[1]}..{MAX_SIZE[1]}.",
        )
    if len(bars) < MIN_BARS:
        raise BadBars(
            f"a chart of {symbol} takes at least {MIN_BARS} bars and there are {len(bars)}.",
            remedy="Check that the market data task fetched this symbol, or ask for a longer duration.",
        )
    for before, after in pairwise(bars):
        if after.time <= before.time:
            raise BadBars(
                f"the bars of {symbol} are not in order: {after.time.isoformat()} follows {before.time.isoformat()}.",
                remedy="Fetch the bars again.",
            )


def _figure(
    bars: Sequence[Bar],
    table: Columns,
    computed: Sequence[Computed],
    symbol: str,
    bar_size: str,
    label: str,
    size: tuple[int, int],
) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    overlays = [c for c in computed if c.panel == "overlay"]
    below = [c for c in computed if c.panel == "below"]
    parts = [_PRICE_PARTS] + [_VOLUME_PARTS] * bool(table.volume.any()) + [_BELOW_PARTS] * len(below)
    axes = _panels(figure, parts, len(bars), size)

    palette = {name: _LINES[i % len(_LINES)] for i, name in enumerate(_line_names(overlays))}
    decimals = _prices(axes[0], table, overlays, palette)
    remaining = axes[1:]
    if table.volume.any():
        _volume(remaining[0], table)
        remaining = remaining[1:]
    for panel, indicator in zip(remaining, below, strict=True):
        _below(panel, indicator, decimals)

    intraday = is_intraday(bar_size)
    ticks = date_ticks([b.time for b in bars], intraday=intraday, most=max(3, width // 95))
    for panel in axes:
        panel.set_xticks([place for place, _ in ticks], labels=[""] * len(ticks))
    axes[-1].set_xticks([place for place, _ in ticks], labels=[text for _, text in ticks])
    # Centred under the leftmost bars, a label would be cut off by the picture's edge.
    if ticks[0][0] < len(bars) * 0.05:
        axes[-1].get_xticklabels()[0].set_horizontalalignment("left")
    _header(figure, bars, symbol, bar_size, label, decimals, size)
    return figure


def _panels(figure: Figure, parts: Sequence[float], count: int, size: tuple[int, int]) -> list[Axes]:
    """Axes from top to bottom at fixed pixels: matplotlib's layout engines would cost more than the drawing."""
    width, height = size
    gap = 8
    usable = height - _TOP - _BOTTOM - gap * (len(parts) - 1)
    axes, top = [], float(height - _TOP)
    for part in parts:
        tall = usable * part / sum(parts)
        box = (_LEFT / width, (top - tall) / height, (width - _LEFT - _RIGHT) / width, tall / height)
        panel = figure.add_axes(box, xlim=(-0.7, count - 0.3))
        panel.grid(True, color=_GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.yaxis.tick_right()
        panel.tick_params(length=0, labelsize=8, labelcolor=_FAINT, pad=4)
        for side in panel.spines.values():
            side.set_color(_GRID)
        axes.append(panel)
        top -= tall + gap
    return axes


def _line_names(indicators: Sequence[Computed]) -> list[str]:
    return list(dict.fromkeys(_family(i, name) for i in indicators for name in i.lines))


def _family(indicator: Computed, line: str) -> str:
    """Lines of one band share a colour and a legend entry."""
    return line.rsplit(" ", 1)[0] if indicator.name == "bollinger" else line


def _prices(axes: Axes, table: Columns, overlays: Sequence[Computed], palette: Mapping[str, str]) -> int:
    """Candles, overlays and the last price; returns the decimals that prices of this range take."""
    import numpy as np
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    index = np.arange(len(table.close), dtype=np.float64)
    rising = table.close >= table.open
    colours = np.where(rising, UP, DOWN)
    wicks = np.stack([np.column_stack([index, table.low]), np.column_stack([index, table.high])], axis=1)
    axes.add_collection(LineCollection(list(wicks), colors=list(colours), linewidths=1.0), autolim=False)
    low, high = float(table.low.min()), float(table.high.max())
    for indicator in overlays:
        for line, values in indicator.lines.items():
            name = _family(indicator, line)
            axes.plot(index, values, color=palette[name], linewidth=1.0 if name != line else 1.3)
            low, high = min(low, float(np.nanmin(values))), max(high, float(np.nanmax(values)))
        if indicator.name == "bollinger":
            upper, _, lower = indicator.lines.values()
            axes.fill_between(index, lower, upper, color=palette[name], alpha=0.07, linewidth=0)
    decimals = price_decimals(low, high)
    span = max(high - low, high * 1e-4)
    # An unchanged price is still a visible stroke.
    bottom = np.minimum(table.open, table.close)
    top = np.maximum(np.maximum(table.open, table.close), bottom + span * 0.0015)
    axes.add_collection(PolyCollection(_boxes(index, bottom, top), facecolors=list(colours), edgecolors="none"))
    # Headroom at the top is for the legend.
    axes.set_ylim(low - span * 0.05, high + span * (0.16 if overlays else 0.06))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.{decimals}f}"))

    last, colour = float(table.close[-1]), UP if rising[-1] else DOWN
    axes.axhline(last, color=colour, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1.5)
    axes.text(
        1.006, last, f"{last:,.{decimals}f}", transform=axes.get_yaxis_transform(), va="center", ha="left",
        fontsize=8, fontweight="bold", color="white", parse_math=False, zorder=10,
        bbox={"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "none"},
    )  # fmt: skip
    _legend(axes, palette)
    return decimals


def _boxes(index: Any, bottom: Any, top: Any) -> Any:
    """Corners of one upright box around each index: shape (bars, 4, 2)."""
    import numpy as np

    left, right = index - 0.34, index + 0.34
    corners = [(left, bottom), (left, top), (right, top), (right, bottom)]
    return np.stack([np.column_stack(corner) for corner in corners], axis=1)


def _volume(axes: Axes, table: Columns) -> None:
    import numpy as np
    from matplotlib.collections import PolyCollection
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    index = np.arange(len(table.volume), dtype=np.float64)
    colours = np.where(table.close >= table.open, UP, DOWN)
    boxes = _boxes(index, np.zeros_like(index), table.volume)
    axes.add_collection(PolyCollection(boxes, facecolors=list(colours), edgecolors="none", alpha=0.55))
    axes.set_ylim(0, float(table.volume.max()) * 1.25)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value) if value else ""))
    _caption(axes, f"Volume {compact(float(table.volume[-1]))}")


def _below(axes: Axes, indicator: Computed, decimals: int) -> None:
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    texts = []
    for i, (line, values) in enumerate(indicator.lines.items()):
        index = np.arange(len(values), dtype=np.float64)
        if line == "histogram":
            axes.fill_between(index, 0, np.nan_to_num(values), step="mid", color=_FAINT, alpha=0.3, linewidth=0)
        else:
            axes.plot(index, values, color=_LINES[(2 + i) % len(_LINES)], linewidth=1.2)
        texts.append(f"{line}  {values[-1]:,.{1 if indicator.name == 'rsi' else decimals}f}")
    for guide in indicator.guides:
        axes.axhline(guide, color=_FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
    if indicator.name == "rsi":
        axes.axhspan(*indicator.guides, color=_LINES[2], alpha=0.06, linewidth=0)
        axes.set_ylim(0, 100)
        axes.yaxis.set_major_locator(FixedLocator(list(indicator.guides)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    else:
        low, high = axes.get_ylim()
        # Headroom for the caption.
        axes.set_ylim(low, high + (high - low) * 0.35)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.{decimals}f}"))
    _caption(axes, "   ".join(texts))


def _caption(axes: Axes, text: str) -> None:
    axes.text(
        0.008, 0.95, text, transform=axes.transAxes, va="top", ha="left", fontsize=8, color=_INK, parse_math=False,
        bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
    )  # fmt: skip


def _legend(axes: Axes, palette: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    if not palette:
        return
    axes.legend(
        handles=[Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in palette.items()],
        loc="upper left", ncols=4, fontsize=8, frameon=True, framealpha=0.75, edgecolor="none", borderpad=0.15,
        borderaxespad=0.3, handlelength=1.4, handletextpad=0.5, columnspacing=1.2, labelcolor=_INK,
    )  # fmt: skip


def _header(
    figure: Figure,
    bars: Sequence[Bar],
    symbol: str,
    bar_size: str,
    label: str,
    decimals: int,
    size: tuple[int, int],
) -> None:
    """Two lines: what is shown and since when; the last bar's prices and where the data come from."""
    width, height = size
    form = "%d %b %Y %H:%M UTC" if is_intraday(bar_size) else "%d %b %Y"
    last = bars[-1]
    left, right = _LEFT / width, (width - 8) / width
    first_line, second_line = (height - 16) / height, (height - 35) / height
    figure.text(
        left, first_line, f"{symbol} · {bar_size}", fontsize=12, fontweight="bold", color=_INK, va="center",
        parse_math=False,
    )  # fmt: skip
    period = f"{bars[0].time.strftime(form)} to {last.time.strftime(form)} · {len(bars)} bars"
    figure.text(right, first_line, period, fontsize=8, color=_FAINT, va="center", ha="right", parse_math=False)
    change = (last.close / bars[-2].close - 1) * 100
    prices = "   ".join(
        f"{name} {value:,.{decimals}f}"
        for name, value in (("O", last.open), ("H", last.high), ("L", last.low), ("C", last.close))
    )
    figure.text(
        left, second_line, f"{prices}   {change:+.2f} %", fontsize=8, color=UP if change >= 0 else DOWN, va="center",
        parse_math=False,
    )  # fmt: skip
    if label:
        figure.text(
            right - 4 / width, second_line, label, fontsize=8, fontweight="bold", color=_LABEL_INK, va="center",
            ha="right", parse_math=False,
            bbox={"boxstyle": "round,pad=0.3", "facecolor": _LABEL_BACK, "edgecolor": "#e0b84c"},
        )  # fmt: skip
