"""The two lines of text above a chart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.analysis.chart_style import DOWN, FAINT, INK, LABEL_BACK, LABEL_INK, LEFT, UP
from airflow_ibkr_plugin.trading.bars import Bar, is_intraday

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_header(
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
    last = bars[-1]
    left, right = LEFT / width, (width - 8) / width
    first_line, second_line = (height - 16) / height, (height - 35) / height
    figure.text(
        left, first_line, f"{symbol} · {bar_size}", fontsize=12, fontweight="bold", color=INK, va="center",
        parse_math=False,
    )  # fmt: skip
    period = f"{_period(bars[0].time, last.time, intraday=is_intraday(bar_size))} · {len(bars)} bars"
    figure.text(right, first_line, period, fontsize=8, color=FAINT, va="center", ha="right", parse_math=False)
    change = (last.close / bars[-2].close - 1) * 100
    prices = "   ".join(
        f"{name} {value:,.{decimals}f}"
        for name, value in (("O", last.open), ("H", last.high), ("L", last.low), ("C", last.close))
    )
    drawn = figure.text(
        left, second_line, f"{prices}   {change:+.2f} %", fontsize=8, color=UP if change >= 0 else DOWN, va="center",
        parse_math=False,
    )  # fmt: skip
    if label:
        text = figure.text(
            right - 4 / width, second_line, label, fontsize=8, fontweight="bold", color=LABEL_INK, va="center",
            ha="right", parse_math=False,
            bbox={"boxstyle": "round,pad=0.3", "facecolor": LABEL_BACK, "edgecolor": "#e0b84c"},
        )  # fmt: skip
        left_end = drawn.get_window_extent().x1 + 12
        while label and text.get_window_extent().x0 < left_end:
            label = label[:-1]
            text.set_text(label.rstrip() + "…")


def _period(first: datetime, last: datetime, *, intraday: bool) -> str:
    """From when to when, both in UTC; the day once where it is one."""
    if not intraday:
        return f"{first:%d %b %Y} to {last:%d %b %Y}"
    end = "%H:%M" if first.date() == last.date() else "%d %b %Y %H:%M"
    return f"{first:%d %b %Y %H:%M} to {last.strftime(end)} UTC"
