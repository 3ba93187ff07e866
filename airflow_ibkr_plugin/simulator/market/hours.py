"""When instruments trade: regular and extended sessions, and IBKR's texts for them."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

#: The zone in which IBKR states the times of American markets and of its own day.
EASTERN = ZoneInfo("US/Eastern")

_FIRST_DAY = "1990-01-01"
_YEARS_AHEAD = 3
# No exchange closes for longer; the longest known closure of XNYS in this range is a week (September 2001).
_LONGEST_CLOSURE = 30
_EXTENDED_CALENDARS = frozenset({"XNYS", "XNAS", "ARCX"})


@dataclass(frozen=True, slots=True)
class Session:
    """One trading day. All bounds are epoch seconds, each end exclusive: pre <= open < close <= post.

    :param day: the date that its daily bar carries.
    """

    day: date
    pre: int
    open: int
    close: int
    post: int

    def bounds(self, regular: bool) -> tuple[int, int]:
        """Start and end of the regular, or of the whole extended session."""
        return (self.open, self.close) if regular else (self.pre, self.post)


class Hours(Protocol):
    """When an instrument trades."""

    zone: ZoneInfo
    zone_id: str

    def session(self, day: date) -> Session | None:
        """That day's session, None if there is none."""


class ExchangeHours:
    """Sessions of an `exchange_calendars` calendar, with holidays and early closes.

    American stocks trade extended hours from 04:00 to 20:00, until 17:00 on days that close early.
    """

    _loaded: dict[tuple[str, int], dict[date, Session]] = {}  # noqa: RUF012  (one copy for all instruments)

    def __init__(self, calendar: str, zone_id: str, last_year: int) -> None:
        self.calendar = calendar
        self.zone_id = zone_id
        self.zone = ZoneInfo(zone_id)
        self._last_year = last_year + _YEARS_AHEAD
        self._sessions = self._load()

    def session(self, day: date) -> Session | None:
        if day.year > self._last_year:
            self._last_year = day.year + _YEARS_AHEAD
            self._sessions = self._load()
        return self._sessions.get(day)

    def _load(self) -> dict[date, Session]:
        key = (self.calendar, self._last_year)
        if key not in self._loaded:
            import exchange_calendars

            calendar = exchange_calendars.get_calendar(self.calendar, start=_FIRST_DAY, end=f"{self._last_year}-12-31")
            schedule = calendar.schedule
            days = [stamp.date() for stamp in schedule.index]
            opens = [int(stamp.timestamp()) for stamp in schedule["open"]]
            closes = [int(stamp.timestamp()) for stamp in schedule["close"]]
            self._loaded[key] = {
                day: self._extended(day, start, end) for day, start, end in zip(days, opens, closes, strict=True)
            }
        return self._loaded[key]

    def _extended(self, day: date, start: int, end: int) -> Session:
        if self.calendar not in _EXTENDED_CALENDARS:
            return Session(day, start, start, end, end)
        early = datetime.fromtimestamp(end, self.zone).time() < time(16)
        pre = epoch(day, time(4), self.zone)
        post = epoch(day, time(17) if early else time(20), self.zone)
        return Session(day, pre, start, end, post)


class ForexHours:
    """IDEALPRO: from 17:15 of the evening before until 17:00, New York time, Monday to Friday, with no holidays."""

    zone_id = "US/Eastern"
    zone = EASTERN

    def session(self, day: date) -> Session | None:
        if day.weekday() >= 5:
            return None
        start = epoch(day - timedelta(days=1), time(17, 15), EASTERN)
        end = epoch(day, time(17), EASTERN)
        return Session(day, start, start, end, end)


class RecordedHours:
    """The sessions of recorded days only, at their exchange's hours; no extended trading."""

    def __init__(self, days: Sequence[date], exchange: ExchangeHours) -> None:
        self.zone_id = exchange.zone_id
        self.zone = exchange.zone
        self.days = sorted(days)
        self._known = set(days)
        self._exchange = exchange

    def session(self, day: date) -> Session | None:
        if day not in self._known:
            return None
        whole = self._exchange.session(day)
        return Session(day, whole.open, whole.open, whole.close, whole.close) if whole else None


def epoch(day: date, at: time, zone: ZoneInfo) -> int:
    """Epoch seconds of a local wall-clock time."""
    return int(datetime.combine(day, at, zone).timestamp())


def sessions_from(hours: Hours, moment: float) -> Iterator[Session]:
    """Sessions that have not ended at that moment (extended end included), earliest first.

    Ends when no further session is known.
    """
    day = datetime.fromtimestamp(moment, hours.zone).date() - timedelta(days=1)
    while (session := _next(hours, day)) is not None:
        if session.post > moment:
            yield session
        day = session.day + timedelta(days=1)


def sessions_back(hours: Hours, moment: float, regular: bool) -> Iterator[Session]:
    """Sessions that have begun before that moment, latest first."""
    day = datetime.fromtimestamp(moment, hours.zone).date() + timedelta(days=1)
    while (session := _previous(hours, day)) is not None:
        if session.bounds(regular)[0] < moment:
            yield session
        day = session.day - timedelta(days=1)


def current(hours: Hours, moment: float, *, regular: bool) -> Session | None:
    """The session that is open at that moment."""
    session = next(sessions_from(hours, moment), None)
    if session is None:
        return None
    start, end = session.bounds(regular)
    return session if start <= moment < end else None


def next_open(hours: Hours, moment: float, *, regular: bool) -> int | None:
    """When trading next begins, or that moment if it is open; None if no further session is known."""
    for session in sessions_from(hours, moment):
        start, end = session.bounds(regular)
        if moment < end:
            return max(start, int(moment))
    return None


def hours_text(hours: Hours, moment: float, *, regular: bool, days: int = 7) -> str:
    """IBKR's `liquidHours` / `tradingHours` from today on: `20261120:0930-20261120:1600;20261121:CLOSED;...`."""
    today = datetime.fromtimestamp(moment, hours.zone).date()
    parts = []
    for day in (today + timedelta(days=n) for n in range(days)):
        session = hours.session(day)
        if session is not None:
            start, end = (datetime.fromtimestamp(bound, hours.zone) for bound in session.bounds(regular))
            parts.append(f"{start:%Y%m%d:%H%M}-{end:%Y%m%d:%H%M}")
        elif not (isinstance(hours, ForexHours) and day.weekday() == 6):
            # A forex Sunday is not closed: Monday's session begins on it.
            parts.append(f"{day:%Y%m%d}:CLOSED")
    return ";".join(parts)


def tws_time(moment: float, zone: ZoneInfo, zone_id: str) -> str:
    """IBKR's `20261120 15:30:00 US/Eastern`."""
    return f"{datetime.fromtimestamp(moment, zone):%Y%m%d %H:%M:%S} {zone_id}"


def eastern_day(moment: float) -> date:
    """The broker's day: executions and completed orders are those of the current one."""
    return datetime.fromtimestamp(moment, UTC).astimezone(EASTERN).date()


def _next(hours: Hours, day: date) -> Session | None:
    if isinstance(hours, RecordedHours):
        at = bisect.bisect_left(hours.days, day)
        return hours.session(hours.days[at]) if at < len(hours.days) else None
    return _first(hours, (day + timedelta(days=n) for n in range(_LONGEST_CLOSURE)))


def _previous(hours: Hours, day: date) -> Session | None:
    if isinstance(hours, RecordedHours):
        at = bisect.bisect_right(hours.days, day) - 1
        return hours.session(hours.days[at]) if at >= 0 else None
    return _first(hours, (day - timedelta(days=n) for n in range(_LONGEST_CLOSURE)))


def _first(hours: Hours, days: Iterator[date]) -> Session | None:
    return next((session for session in map(hours.session, days) if session is not None), None)
