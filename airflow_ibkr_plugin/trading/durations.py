"""IBKR's durations: a number and S, D, W, M or Y. Source: TWS API, "Historical Bar Data", valid durations."""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.trading.market_hours import Session

_FORM = re.compile(r"([1-9]\d{0,4}) ([SDWMY])")


def parse_duration(text: str) -> tuple[int, str]:
    """`30 D` as (30, "D").

    :raises ConfigError: it is no duration.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no duration.", remedy="Write a number and S, D, W, M or Y, such as 30 D.")
    return int(found[1]), found[2]


def earliest_day(duration: str, end: datetime) -> date:
    """A day on or before which the history of this duration begins, generous for `D`, which counts sessions."""
    count, unit = parse_duration(duration)
    day = end.date()
    if unit == "S":
        return day - timedelta(days=math.ceil(count / 86400) * 7 + 7)
    if unit == "D":
        # Fewest sessions in a stretch of days: two in seven would be a long closure; ten days are grace for holidays.
        return day - timedelta(days=math.ceil(count * 7 / 5) + 10)
    if unit == "W":
        return day - timedelta(weeks=count) + timedelta(days=1)
    months = day.year * 12 + day.month - 1 - count * (12 if unit == "Y" else 1)
    year, month = divmod(months, 12)
    start = date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
    return start + timedelta(days=1)


def first_session(duration: str, end: datetime, sessions: Sequence[Session]) -> Session | None:
    """The session in which the history of this duration begins, out of those from :func:`earliest_day` to `end`."""
    count, unit = parse_duration(duration)
    begun = [session for session in sessions if session.open < end]
    if unit == "D":
        return begun[-count] if len(begun) >= count else (begun[0] if begun else None)
    if unit == "S":
        left = timedelta(seconds=count)
        for session in reversed(begun):
            left -= min(session.close, end) - session.open
            if left <= timedelta():
                return session
    return begun[0] if begun else None


def covering(start: datetime, end: datetime) -> str:
    """The shortest duration in IBKR's units that surely reaches from `end` back to `start`."""
    days = math.ceil((end - start) / timedelta(days=1)) + 1
    # IBKR takes at most 365 D, and counts sessions, so calendar days are always enough.
    return f"{days} D" if days <= 365 else f"{math.ceil(days / 365)} Y"
