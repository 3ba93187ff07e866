"""IBKR's durations: the stretch of time that one means, and the requests that cover a stretch.

Source: TWS API, "Historical Bar Data" (duration units) and "Historical Data Limitations" (step sizes).
"""

from __future__ import annotations

import calendar as months
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.trading.bars import BAR_SIZES, is_intraday
from airflow_ibkr_plugin.trading.calendars import Session, sessions

_DURATION = re.compile(r"([1-9]\d{0,5}) ([SDWMY])")
# The most that one request asks for: trading seconds for bars below a minute, else sessions, where IBKR's table says
# 1 D, 2 D, 1 W and 1 M.
_MOST_SECONDS = {"1 secs": 1800, "5 secs": 3600, "10 secs": 14400, "15 secs": 14400, "30 secs": 28800}
_MOST_SESSIONS = {"1 min": 1, "2 mins": 2, **dict.fromkeys(("3 mins", "5 mins", "10 mins", "15 mins", "20 mins"), 5)}
_MOST_SESSIONS_OF_LARGER = 20
# Up to eight hours are asked for in seconds. Source: the same table.
_LONGEST_IN_SECONDS = timedelta(seconds=28800)
# Less is refused (error 321, "Historical data requested duration is invalid").
_SHORTEST_IN_SECONDS = 30
# IBKR wants more than that in years. Source: TWS API, error 321.
_LONGEST_IN_DAYS = 365


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration in IBKR's words: trading seconds (S), sessions (D), or calendar weeks (W), months (M), years (Y)."""

    count: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read `30 D`.

        :raises ConfigError: it is no duration.
        """
        if not (match := _DURATION.fullmatch(text)):
            raise ConfigError(
                f"{text!r} is not a duration.", remedy="Write a number and one of S, D, W, M, Y: 3600 S, 30 D, 1 Y."
            )
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.count} {self.unit}"


def period(day: date, bar_size: str) -> tuple[date, date]:
    """First and last date of the day, ISO week or month that a bar of that size and date belongs to."""
    if bar_size == "1 week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=6)
    if bar_size == "1 month":
        return day.replace(day=1), day.replace(day=months.monthrange(day.year, day.month)[1])
    return day, day


def periods(first: date, last: date, calendar: str, bar_size: str) -> list[Session]:
    """What the bars of a series stand for, from one date to another; the periods at both ends in whole.

    The sessions; for weekly and monthly bars one `Session` per week or month, dated with its first day, from the first
    opening to the last close in it.

    :raises ConfigError: see :func:`calendars.sessions`.
    """
    days = sessions(period(first, bar_size)[0], period(last, bar_size)[1], calendar)
    if bar_size not in ("1 week", "1 month"):
        return days
    groups: dict[date, list[Session]] = {}
    for day in days:
        groups.setdefault(period(day.date, bar_size)[0], []).append(day)
    return [Session(key, group[0].open, group[-1].close) for key, group in groups.items()]


def window(duration: Duration, until: datetime, calendar: str, bar_size: str) -> tuple[datetime, list[Session]]:
    """The moment at which a duration that ends at `until` begins, and the periods in it that have begun, in order.

    Days count sessions, as at IBKR: complete ones for daily and longer bars; for intraday bars the current one counts.

    :raises ConfigError: see :func:`calendars.sessions`; or a duration in seconds for bars of a day and longer.
    """
    intraday, today = is_intraday(bar_size), until.astimezone(UTC).date()
    if duration.unit == "S" and not intraday:
        raise ConfigError(f"{duration} is too short for bars of {bar_size}.", remedy="Ask for days or more: 30 D.")
    tomorrow = today + timedelta(days=1)  # the session of tomorrow's date may have begun this evening
    if duration.unit in "WMY":
        first = _before(today, duration) + timedelta(days=1)
    else:
        count = duration.count if duration.unit == "D" else duration.count // 3600 + 1
        days = sessions(today - timedelta(days=count * 3 // 2 + 20), tomorrow, calendar)
        begun = [s for s in days if (s.open < until if intraday else s.close <= until)]
        first = begun[-count:][0].date if begun else today
    found = [p for p in periods(first, tomorrow, calendar, bar_size) if p.open < until]
    if duration.unit == "S":
        start, found = _seconds_back(duration.count, until, found)
        return _aligned(start, BAR_SIZES[bar_size]), found
    return (found[0].open if found else until), found


def _aligned(moment: datetime, size: timedelta) -> datetime:
    """The last whole multiple of a bar size, so that no bar is cut. Sessions begin on one too."""
    return moment - timedelta(seconds=moment.timestamp()) % size


def _seconds_back(count: int, until: datetime, found: Sequence[Session]) -> tuple[datetime, list[Session]]:
    left, start, taken = timedelta(seconds=count), until, list[Session]()
    for session in reversed(found):
        taken.insert(0, session)
        for opening, close in reversed(session.intervals()):
            end = min(close, until)
            if end - opening >= left:
                return end - left, taken
            if end > opening:
                left, start = left - (end - opening), opening
    return start, taken


def _before(day: date, duration: Duration) -> date:
    count = duration.count
    if count > 200 and duration.unit == "Y":
        raise ConfigError(f"{duration} is longer than any history.", remedy="Ask for less, such as 10 Y.")
    if duration.unit == "W":
        return day - timedelta(weeks=count)
    year, index = divmod(day.year * 12 + day.month - 1 - count * (12 if duration.unit == "Y" else 1), 12)
    return date(year, index + 1, min(day.day, months.monthrange(year, index + 1)[1]))


@dataclass(frozen=True, slots=True)
class Request:
    """One request for history: the duration to ask for, and the moment at which it ends.

    :param start: what begins before it is not wanted: the first bar of an answer may be cut.
    """

    duration: str
    start: datetime
    end: datetime


def requests(start: datetime, until: datetime, found: Sequence[Session], bar_size: str) -> list[Request]:
    """What to ask the broker for, so that its answers cover a stretch of time; the latest first, each rounded up.

    :param found: the periods of a stretch of time that contains this one, in order.
    """
    inside = [s for s in found if s.open < until and s.close > start]
    if not inside:
        return []
    if is_intraday(bar_size):
        return list(reversed(_intraday(start, until, inside, bar_size)))
    # The first week or month of an answer may be cut: ask for two more. A month has at most 23 sessions.
    extra = {"1 week": 2 * 5, "1 month": 2 * 23}.get(bar_size, 0)
    days = (until - start).days + 1
    # The broker may count holidays that the calendar leaves out (forex).
    count = (len(inside) if bar_size == "1 day" else extra + days) + 1 + len(inside) // 100
    years = math.ceil((days + 2 * extra + 1) / 365)
    return [Request(f"{count} D" if count <= _LONGEST_IN_DAYS else f"{years} Y", start, until)]


def _intraday(start: datetime, until: datetime, inside: Sequence[Session], bar_size: str) -> list[Request]:
    size = BAR_SIZES[bar_size]
    if bar_size in _MOST_SECONDS:
        return list(_in_seconds(start, until, inside, size, timedelta(seconds=_MOST_SECONDS[bar_size])))
    first, last = max(start, inside[0].open), min(until, inside[-1].close)
    if len(inside) == 1 and last - first + size <= _LONGEST_IN_SECONDS:
        return list(_in_seconds(start, until, inside, size, _LONGEST_IN_SECONDS))
    step = _MOST_SESSIONS.get(bar_size, _MOST_SESSIONS_OF_LARGER)
    chunks = [inside[max(at - step, 0) : at] for at in range(len(inside), 0, -step)]
    return [Request(f"{len(c)} D", max(start, c[0].open), min(until, c[-1].close)) for c in reversed(chunks)]


def _in_seconds(
    start: datetime, until: datetime, inside: Sequence[Session], size: timedelta, most: timedelta
) -> Iterator[Request]:
    for session in inside:
        for opening, close in session.intervals():
            begin, end = max(start, opening), min(until, close)
            while begin < end:
                stop = min(begin + most - size, end)
                # One bar more, for the first one of the answer may be cut.
                seconds = math.ceil((stop - begin + size).total_seconds())
                yield Request(f"{max(seconds, _SHORTEST_IN_SECONDS)} S", begin, stop)
                begin = stop
