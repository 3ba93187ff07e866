"""Historical bars, cut from the same prices that quotes and fills come from.

Nothing later than the clock is in them: the bar that is forming ends where the clock stands.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import EASTERN, Session, epoch, sessions_back
from airflow_ibkr_plugin.simulator.market.prices import DayBar, Market, quote_sides, volume_until

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.market.prices import Path

#: Seconds of each intraday bar size; IBKR's names.
INTRADAY = {
    "1 secs": 1, "5 secs": 5, "10 secs": 10, "15 secs": 15, "30 secs": 30, "1 min": 60, "2 mins": 120, "3 mins": 180,
    "5 mins": 300, "10 mins": 600, "15 mins": 900, "20 mins": 1200, "30 mins": 1800, "1 hour": 3600, "2 hours": 7200,
    "3 hours": 10800, "4 hours": 14400, "8 hours": 28800,
}  # fmt: skip
DAILY = ("1 day", "1 week", "1 month")
_SHORT = {"1 sec": "1 secs", "1W": "1 week", "1M": "1 month", "1D": "1 day"}
WHAT = ("TRADES", "MIDPOINT", "BID", "ASK", "ADJUSTED_LAST")

#: Most bars of one answer; this limit is the simulator's own, IBKR states none in this form.
MAX_BARS = 100_000

_DURATION = re.compile(r"(\d{1,6}) ?([SDWMY])")
_END = re.compile(r"(\d{8})(?:[ -]{1,2}(\d{2}:\d{2}:\d{2}))?(?: (\S+))?")


class BadRequest(Exception):
    """A historical request that IBKR would not validate; its text is IBKR's or says what is wrong."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    :param start: epoch seconds of its first second. :param day: set for bars of a day and longer: the date it carries.
    :param volume, average, count: -1 where IBKR has none (all but TRADES).
    """

    start: int
    day: date | None
    open: float
    high: float
    low: float
    close: float
    volume: int
    average: float
    count: int


@dataclass(frozen=True, slots=True)
class Query:
    """What a client asks for.

    :param end: epoch seconds, exclusive; already cut to the clock.
    """

    bar_size: str
    duration: tuple[int, str]
    end: float
    regular: bool
    what: str


def parse_query(fields: dict[str, object], now: float) -> Query:
    """The query of a reqHistoricalData message's fields.

    :raises BadRequest: a part of it is no value that IBKR knows.
    """
    size = _SHORT.get(str(fields["barSize"]), str(fields["barSize"]))
    if size not in INTRADAY and size not in DAILY:
        legal = ", ".join((*INTRADAY, *DAILY))
        raise BadRequest(f"Historical data bar size setting is invalid. Legal ones are: {legal}")
    found = _DURATION.fullmatch(str(fields["duration"]).strip().upper())
    if found is None or int(found[1]) == 0:
        raise BadRequest("Historical data query duration is invalid: it is a number and one of S, D, W, M, Y")
    if found[2] == "S" and size in DAILY:
        raise BadRequest(f"Duration in seconds is too short for the bar size {size}")
    if fields["whatToShow"] not in WHAT:
        raise BadRequest(
            f"Historical data type {fields['whatToShow']} is not served; legal ones are: {', '.join(WHAT)}"
        )
    if fields["formatDate"] not in (1, 2):
        raise BadRequest("formatDate is 1 or 2")
    end = _parse_end(str(fields["endDateTime"]).strip())
    return Query(
        bar_size=size,
        duration=(int(found[1]), found[2]),
        # The second in which the clock stands is on the tape already.
        end=min(end, int(now) + 1) if end is not None else int(now) + 1,
        regular=bool(fields["useRTH"]),
        what=str(fields["whatToShow"]),
    )


def bars(market: Market, instrument: Instrument, query: Query) -> list[Bar]:
    """The bars, oldest first.

    :raises BadRequest: more than :data:`MAX_BARS`.
    """
    if query.bar_size in INTRADAY:
        made = _intraday(market, instrument, query)
    else:
        made = [bar for session in _sessions(instrument, query) for bar in _daily(market, instrument, session, query)]
        if query.bar_size != "1 day":
            made = _merge(made, query.bar_size)
    if query.what in ("TRADES", "ADJUSTED_LAST"):
        return made
    return [Bar(b.start, b.day, b.open, b.high, b.low, b.close, -1, -1.0, -1) for b in made]


def _sessions(instrument: Instrument, query: Query) -> list[Session]:
    """Sessions of the duration, oldest first; for a duration in seconds those that hold that many trading seconds."""
    count, unit = query.duration
    begun = sessions_back(instrument.hours, query.end, query.regular)
    if unit == "D":
        taken = [session for _, session in zip(range(count), begun, strict=False)]
    elif unit == "S":
        taken, left = [], count
        while left > 0 and (session := next(begun, None)) is not None:
            start, end = session.bounds(query.regular)
            taken.append(session)
            left -= min(end, int(query.end)) - start
    else:
        last = datetime.fromtimestamp(query.end, instrument.hours.zone).date()
        first = _before(last, count, unit)
        taken = list(_until(begun, first))
    return taken[::-1]


def _until(begun: Iterator[Session], first: date) -> Iterator[Session]:
    for session in begun:
        if session.day <= first:
            return
        yield session


def _before(day: date, count: int, unit: str) -> date:
    if unit == "W":
        return day - timedelta(weeks=min(count, 5000))
    months = day.year * 12 + day.month - 1 - count * (12 if unit == "Y" else 1)
    year, month = max(months // 12, 1), months % 12 + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def _daily(market: Market, instrument: Instrument, session: Session, query: Query) -> Iterator[Bar]:
    bar = market.day_bar(instrument, session.day)
    if bar is None:
        return
    start, end = session.bounds(query.regular)
    stop = min(end, int(query.end))
    if stop == end:
        # Extended trading stays within the regular range, opens at its open and closes at its close.
        path = np.array([bar.open, bar.high, bar.low, bar.close])
    else:
        seen = market.path(instrument, session, start, stop)
        path = np.array([seen[0], seen.max(), seen.min(), seen[-1]])
    first, high, low, last = _sided(instrument, bar, path, query.what).tolist()
    volume = volume_until(bar, session, stop) - volume_until(bar, session, start)
    yield Bar(start, session.day, first, high, low, last, volume, _average(first, high, low, last), _trades(volume))


def _intraday(market: Market, instrument: Instrument, query: Query) -> list[Bar]:
    size = INTRADAY[query.bar_size]
    sessions = _sessions(instrument, query)
    count, unit = query.duration
    spans = [(s, s.bounds(query.regular)[0], min(s.bounds(query.regular)[1], int(query.end))) for s in sessions]
    if unit == "S" and spans:
        surplus = sum(stop - start for _, start, stop in spans) - count
        session, start, stop = spans[0]
        spans[0] = (session, start + max(surplus, 0), stop)
    if sum(stop - start for _, start, stop in spans) // size > MAX_BARS:
        raise BadRequest(f"Time length exceed max: more than {MAX_BARS} bars; ask for a shorter duration")
    return [bar for span in spans for bar in _cut(market, instrument, query, size, *span)]


def _cut(
    market: Market, instrument: Instrument, query: Query, size: int, session: Session, start: int, stop: int
) -> Iterator[Bar]:
    bar = market.day_bar(instrument, session.day)
    if bar is None:
        return
    path = _sided(instrument, bar, market.path(instrument, session, start, stop), query.what)
    # Bars are aligned to local midnight, so the first of a session may be shorter (09:30 to 10:00 of an hour).
    midnight = epoch(datetime.fromtimestamp(start, instrument.hours.zone).date(), time(0), instrument.hours.zone)
    first = start + size - (start - midnight) % size
    starts = [start, *range(first, stop, size)]
    offsets = np.array(starts) - start
    highs = np.maximum.reduceat(path, offsets).tolist()
    lows = np.minimum.reduceat(path, offsets).tolist()
    ends = [*starts[1:], stop]
    before = volume_until(bar, session, start)
    for at, end, high, low in zip(starts, ends, highs, lows, strict=True):
        upto = volume_until(bar, session, end)
        first_price, last_price = float(path[at - start]), float(path[end - 1 - start])
        average = _average(first_price, high, low, last_price)
        yield Bar(at, None, first_price, high, low, last_price, upto - before, average, _trades(upto - before))
        before = upto


def _merge(days: list[Bar], size: str) -> list[Bar]:
    """Weeks and months; each carries the date of its last day."""
    groups: dict[tuple[int, int], list[Bar]] = {}
    for bar in days:
        assert bar.day is not None
        week = bar.day.isocalendar()
        key = (week.year, week.week) if size == "1 week" else (bar.day.year, bar.day.month)
        groups.setdefault(key, []).append(bar)
    merged = []
    for group in groups.values():
        first, last = group[0], group[-1]
        high, low = max(b.high for b in group), min(b.low for b in group)
        volume = sum(b.volume for b in group)
        average = _average(first.open, high, low, last.close)
        merged.append(
            Bar(first.start, last.day, first.open, high, low, last.close, volume, average, sum(b.count for b in group))
        )
    return merged


def _sided(instrument: Instrument, bar: DayBar, path: Path, what: str) -> Path:
    if what == "BID":
        return quote_sides(instrument, bar, path)[0]
    if what == "ASK":
        return quote_sides(instrument, bar, path)[1]
    return path


def _average(first: float, high: float, low: float, last: float) -> float:
    # The volume-weighted average is not simulated trade by trade; this stands within the bar.
    return min(max(round((first + high + low + last) / 4, 6), low), high)


def _trades(volume: int) -> int:
    return -(-volume // 100)


def _parse_end(text: str) -> float | None:
    if not text:
        return None
    found = _END.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        day, clock, zone = found.groups()
        # With a dash the time is UTC; with no zone it is that of the gateway, which is US/Eastern here.
        zoned = ZoneInfo(zone) if zone else UTC if "-" in text else EASTERN
        moment = datetime.strptime(f"{day} {clock or '23:59:59'}", "%Y%m%d %H:%M:%S").replace(tzinfo=zoned)
        return moment.timestamp()
    except (ValueError, ZoneInfoNotFoundError):
        raise BadRequest(
            "The date, time, or time-zone entered is invalid. The correct format is yyyymmdd hh:mm:ss xx/xxxx"
            " where yyyymmdd and xx/xxxx are optional. E.g.: 20031126 15:59:00 US/Eastern"
        ) from None
