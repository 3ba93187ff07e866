"""The day that IBKR reckons with."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

# IBKR's servers keep their days by New York's time.
_BROKER_ZONE = ZoneInfo("America/New_York")


def broker_day(now: datetime) -> date:
    """The broker's calendar day: IBKR returns executions of the current one only."""
    return now.astimezone(_BROKER_ZONE).date()
