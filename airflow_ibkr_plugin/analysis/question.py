"""What an LLM is told about the bars, in words beside the picture."""

from __future__ import annotations

from airflow_ibkr_plugin.analysis.axis import price_decimals
from airflow_ibkr_plugin.errors import BadBars
from airflow_ibkr_plugin.trading.analysts import AnalysisRequest
from airflow_ibkr_plugin.trading.bars import is_intraday

# Bars listed one by one; older ones only show in the summary and on the chart. About 20 tokens a bar.
LISTED_BARS = 40


def describe(request: AnalysisRequest) -> str:
    """Symbol, period, range, last close, and the newest bars as CSV. No path or URL of the chart.

    :raises BadBars: there are no bars.
    """
    bars = request.bars
    if not bars:
        raise BadBars(
            f"there are no bars of {request.symbol} to ask about.", remedy="Check that the market data task fetched it."
        )
    form = "%Y-%m-%d %H:%M" if is_intraday(request.bar_size) else "%Y-%m-%d"
    high, low = max(b.high for b in bars), min(b.low for b in bars)
    digits = price_decimals(price for b in bars for price in (b.open, b.high, b.low, b.close))
    listed = bars[-LISTED_BARS:]
    rows = [
        f"{b.time.strftime(form)},{b.open:.{digits}f},{b.high:.{digits}f},{b.low:.{digits}f},{b.close:.{digits}f},"
        f"{b.volume:.0f}"
        for b in listed
    ]
    return "\n".join(
        [
            f"symbol: {request.symbol}",
            f"bar size: {request.bar_size} (times are UTC)",
            f"bars on the chart: {len(bars)}, from {bars[0].time.strftime(form)} to {bars[-1].time.strftime(form)}",
            f"highest {high:.{digits}f}, lowest {low:.{digits}f}, last close {bars[-1].close:.{digits}f}",
            f"the last {len(listed)} bars:",
            "time,open,high,low,close,volume",
            *rows,
        ]
    )
