"""Candlestick charts as PNG: the same bars give the same bytes, on any day and machine with the same libraries.

Drawn with matplotlib's Figure and Agg canvas directly: pyplot would keep global state, and finished charting
libraries are slower or need a browser. Bars stand on an index axis, so nights and holidays leave no holes.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.analysis.axis import compact, date_ticks, level_decimals, price_decimals
from airflow_ibkr_plugin.analysis.chart_header import draw_header
from airflow_ibkr_plugin.analysis.chart_style import DOWN, FAINT, GRID, INK, LEFT, LINES, UP
from airflow_ibkr_plugin.analysis.indicators import Columns, Computed, columns, compute
from airflow_ibkr_plugin.errors import BadBars, ConfigError
from airflow_ibkr_plugin.trading.bars import BAR_SIZES, Bar, is_intraday

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_BARS = 2
# Below, the header's texts would meet.
MIN_SIZE, MAX_SIZE = (600, 400), (4000, 3000)

_DPI = 100
# Margins in pixels: room for the header and two lines of dates; for the price axis see `_right_margin`.
_TOP, _BOTTOM = 48, 38
_GAP = 8
# Heights of the panels, as parts, and in pixels what the lowest must have for its caption and two values.
_PRICE_PARTS, _VOLUME_PARTS, _BELOW_PARTS = 3.4, 0.8, 1.0
_LOWEST_PANEL = 28
# Width in pixels of a digit of the bold last price; its point and commas have half of it.
_BOLD_DIGIT = 8

# The style is set for the whole process, so only one thread may draw at a time.
_drawing = threading.Lock()


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
    shown: int | None = None,
    indicators: Sequence[Mapping[str, Any]] = (),
    label: str = "",
    width: int = 800,
    height: int = 600,
) -> ChartImage:
    """Draw candlesticks, volume (where there is any) and indicators.

    :param bars: oldest first, at least `MIN_BARS`, without two at one time.
    :param shown: how many of the newest bars are drawn; the older ones warm the indicators up. All by default.
    :param indicators: each a `name` with parameters, as `indicators.compute` takes them.
    :param label: origin of the data, printed on the picture, such as `SIMULATED`; cut where there is no room.
    :param width, height: in pixels.
    :raises BadBars: too few bars, bars out of order, or too few for an indicator.
    :raises ConfigError: unknown bar size or indicator, wrong parameters, a size that cannot be drawn, or more
        indicators with a panel of their own than the height has room for.
    """
    _check(bars, symbol, bar_size, width, height)
    table = columns(bars)
    computed = [compute(spec, table) for spec in indicators]
    if shown is not None:
        bars, table = bars[-max(shown, MIN_BARS) :], table.newest(max(shown, MIN_BARS))
        computed = [replace(c, lines={name: v[-len(bars) :] for name, v in c.lines.items()}) for c in computed]

    from matplotlib import style

    # A matplotlibrc of the user or the machine must not change the bytes.
    with _drawing, style.context("default"):
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
    low, high = _range(table, overlays)
    decimals = price_decimals(price for b in bars for price in (b.open, b.high, b.low, b.close))
    axes = _panels(figure, parts, len(bars), size, _right_margin(f"{high:,.{decimals}f}"))

    palette = {name: LINES[i % len(LINES)] for i, name in enumerate(_line_names(overlays))}
    _prices(axes[0], table, overlays, palette, (low, high), decimals)
    remaining = axes[1:]
    if table.volume.any():
        _volume(remaining[0], table)
        remaining = remaining[1:]
    for panel, indicator in zip(remaining, below, strict=True):
        _below(panel, indicator, level_decimals(low, high))

    intraday = is_intraday(bar_size)
    ticks = date_ticks([b.time for b in bars], intraday=intraday, most=max(3, width // 95))
    for panel in axes:
        panel.set_xticks([place for place, _ in ticks], labels=[""] * len(ticks))
    axes[-1].set_xticks([place for place, _ in ticks], labels=[text for _, text in ticks])
    # Centred under the leftmost bars, a label would be cut off by the picture's edge.
    if ticks[0][0] < len(bars) * 0.05:
        axes[-1].get_xticklabels()[0].set_horizontalalignment("left")
    draw_header(figure, bars, symbol, bar_size, label, decimals, size)
    return figure


def _right_margin(widest: str) -> int:
    """Pixels that the price axis takes: the last price, bold, in its box."""
    digits = sum(map(str.isdigit, widest))
    return max(66, 12 + _BOLD_DIGIT * digits + _BOLD_DIGIT // 2 * (len(widest) - digits))


def _panels(figure: Figure, parts: Sequence[float], count: int, size: tuple[int, int], right: int) -> list[Axes]:
    """Axes from top to bottom at fixed pixels: matplotlib's layout engines would cost more than the drawing."""
    width, height = size
    usable = height - _TOP - _BOTTOM - _GAP * (len(parts) - 1)
    if usable * min(parts) / sum(parts) < _LOWEST_PANEL:
        raise ConfigError(
            f"a chart {height} pixels high has no room for {len(parts)} panels.",
            remedy="Name fewer indicators with a panel of their own (rsi, macd, atr).",
        )
    axes, top = [], float(height - _TOP)
    for part in parts:
        tall = usable * part / sum(parts)
        box = (LEFT / width, (top - tall) / height, (width - LEFT - right) / width, tall / height)
        panel = figure.add_axes(box, xlim=(-0.7, count - 0.3))
        panel.grid(True, color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.yaxis.tick_right()
        panel.tick_params(length=0, labelsize=8, labelcolor=FAINT, pad=4)
        for side in panel.spines.values():
            side.set_color(GRID)
        axes.append(panel)
        top -= tall + _GAP
    return axes


def _line_names(indicators: Sequence[Computed]) -> list[str]:
    return list(dict.fromkeys(_family(i, name) for i in indicators for name in i.lines))


def _family(indicator: Computed, line: str) -> str:
    """Lines of one band share a colour and a legend entry."""
    return line.rsplit(" ", 1)[0] if indicator.name == "bollinger" else line


def _range(table: Columns, overlays: Sequence[Computed]) -> tuple[float, float]:
    """The lowest and highest value in the price panel."""
    import numpy as np

    lines = [values for indicator in overlays for values in indicator.lines.values()]
    low = min([float(table.low.min()), *(float(np.nanmin(values)) for values in lines)])
    return low, max([float(table.high.max()), *(float(np.nanmax(values)) for values in lines)])


def _prices(
    axes: Axes,
    table: Columns,
    overlays: Sequence[Computed],
    palette: Mapping[str, str],
    limits: tuple[float, float],
    decimals: int,
) -> None:
    """Candles, overlays and the last price."""
    import numpy as np
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    index = np.arange(len(table.close), dtype=np.float64)
    rising = table.close >= table.open
    colours = np.where(rising, UP, DOWN)
    wicks = np.stack([np.column_stack([index, table.low]), np.column_stack([index, table.high])], axis=1)
    axes.add_collection(LineCollection(list(wicks), colors=list(colours), linewidths=1.0), autolim=False)
    for indicator in overlays:
        is_band = indicator.name == "bollinger"
        for line, values in indicator.lines.items():
            # An average is drawn over a band, whose middle may be the same line.
            width, order = (1.0, 1.9) if is_band else (1.3, 2.0)
            axes.plot(index, values, color=palette[_family(indicator, line)], linewidth=width, zorder=order)
        if is_band:
            upper, middle, lower = indicator.lines
            colour = palette[_family(indicator, middle)]
            axes.fill_between(
                index, indicator.lines[lower], indicator.lines[upper], color=colour, alpha=0.07, linewidth=0
            )
    low, high = limits
    span = max(high - low, high * 1e-4)
    # An unchanged price is still a visible stroke.
    bottom = np.minimum(table.open, table.close)
    top = np.maximum(np.maximum(table.open, table.close), bottom + span * 0.0015)
    axes.add_collection(PolyCollection(_boxes(index, bottom, top), facecolors=list(colours), edgecolors="none"))
    # Headroom at the top is for the legend.
    axes.set_ylim(low - span * 0.05, high + span * (0.16 if overlays else 0.06))
    last, colour = float(table.close[-1]), UP if rising[-1] else DOWN
    bottom_limit, top_limit = axes.get_ylim()
    # A level this near would look out from under the last price.
    near = (top_limit - bottom_limit) * 16 / axes.bbox.height
    locator = MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10])
    axes.yaxis.set_major_locator(locator)
    digits = price_decimals(locator.tick_values(bottom_limit, top_limit))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.{digits}f}" if abs(value - last) > near else "")
    )
    axes.axhline(last, color=colour, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1.5)
    axes.text(
        1.006, last, f"{last:,.{decimals}f}", transform=axes.get_yaxis_transform(), va="center", ha="left",
        fontsize=8, fontweight="bold", color="white", parse_math=False, zorder=10,
        bbox={"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "none"},
    )  # fmt: skip
    _legend(axes, palette)


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
            axes.fill_between(index, 0, np.nan_to_num(values), step="mid", color=FAINT, alpha=0.3, linewidth=0)
        else:
            axes.plot(index, values, color=LINES[(2 + i) % len(LINES)], linewidth=1.2)
        texts.append(f"{line}  {values[-1]:,.{1 if indicator.name == 'rsi' else decimals}f}")
    for guide in indicator.guides:
        axes.axhline(guide, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
    if indicator.name == "rsi":
        axes.axhspan(*indicator.guides, color=LINES[2], alpha=0.06, linewidth=0)
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
        0.008, 0.95, text, transform=axes.transAxes, va="top", ha="left", fontsize=8, color=INK, parse_math=False,
        bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
    )  # fmt: skip


def _legend(axes: Axes, palette: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    if not palette:
        return
    axes.legend(
        handles=[Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in palette.items()],
        loc="upper left", ncols=4, fontsize=8, frameon=True, framealpha=0.75, edgecolor="none", borderpad=0.15,
        borderaxespad=0.3, handlelength=1.4, handletextpad=0.5, columnspacing=1.2, labelcolor=INK,
    )  # fmt: skip
