"""Bars and their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# IBKR's bar sizes, by IBKR's own spelling. Source: TWS API, "Historical Bar Data", valid bar sizes.
BAR_SIZES: dict[str, timedelta] = {
    "1 secs": timedelta(seconds=1),
    "5 secs": timedelta(seconds=5),
    "10 secs": timedelta(seconds=10),
    "15 secs": timedelta(seconds=15),
    "30 secs": timedelta(seconds=30),
    "1 min": timedelta(minutes=1),
    "2 mins": timedelta(minutes=2),
    "3 mins": timedelta(minutes=3),
    "5 mins": timedelta(minutes=5),
    "10 mins": timedelta(minutes=10),
    "15 mins": timedelta(minutes=15),
    "20 mins": timedelta(minutes=20),
    "30 mins": timedelta(minutes=30),
    "1 hour": timedelta(hours=1),
    "2 hours": timedelta(hours=2),
    "3 hours": timedelta(hours=3),
    "4 hours": timedelta(hours=4),
    "8 hours": timedelta(hours=8),
    "1 day": timedelta(days=1),
    "1 week": timedelta(weeks=1),
    "1 month": timedelta(days=31),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One OHLCV bar.

    :param time: start of the bar, aware UTC; for daily and longer bars, midnight UTC of the session date.
    :param volume: shares for TRADES; 0 where IBKR gives none (MIDPOINT, BID, ASK).
    """

    time: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float = 0.0
    wap: float = 0.0
    count: int = 0


def is_intraday(bar_size: str) -> bool:
    """Whether bars of this size carry a time of day."""
    return BAR_SIZES[bar_size] < timedelta(days=1)
