"""When instruments trade: regular and extended sessions, and IBKR's texts for them."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from airflow_ibkr_plugin.simulator.market.session_tables import session_tables

#: The zone in which IBKR states the times of American markets and of its own day.
EASTERN = ZoneInfo("US/Eastern")

_YEARS_AHEAD = 3
# No exchange closes for longer; the longest known closure of XNYS in this range is a week (September 2001).
_LONGEST_CLOSURE = 30
_EXTENDED_CALENDARS = frozenset({"XNYS", "XNAS", "ARCX"})
# Entries of IBKR's hours texts: what a gateway sends unless it is set to a month.
_ENTRIES = 6


@dataclass(frozen=True, slots=True)
class Session:
    """One trading day. All bounds are epoch seconds, each end exclusive: pre <= open < close <= post.

    :param day: the date that its daily bar carries. :param pause: the midday break within it; nothing trades then.
    """

    day: date
    pre: int
    open: int
    close: int
    post: int
    pause: tuple[int, int] | None = None

    def spans(self, regular: bool) -> tuple[tuple[int, int], ...]:
        """The stretches in which it trades: one, or two around its break."""
        start, end = self.bounds(regular)
        return ((start, end),) if self.pause is None else ((start, self.pause[0]), (self.pause[1], end))

    @property
    def traded(self) -> int:
        """Seconds of the regular session in which it trades."""
        return sum(end - start for start, end in self.spans(regular=True))

    def bounds(self, regular: bool) -> tuple[int, int]:
        """Start and end of the regular, or of the whole extended session."""
        return (self.open, self.close) if regular else (self.pre, self.post)


class Hours(Protocol):
    """When an instrument trades."""

    zone: ZoneInfo
    zone_id: str

    @property
    def first(self) -> date:
        """The date of the first session."""

    def session(self, day: date) -> Session | None:
        """That day's session, None if there is none."""


class ExchangeHours:
    """Sessions of an `exchange_calendars` calendar, with holidays, early closes and midday breaks.

    American stocks trade extended hours from 04:00 to 20:00, until 17:00 on days that close early.
    """

    def __init__(self, calendar: str, zone_id: str, last_year: int) -> None:
        """Load the calendar.

        :raises ConfigError: there is none of that name.
        :raises ZoneInfoNotFoundError: there is no such time zone.
        """
        self.calendar = calendar
        self.zone_id = zone_id
        self.zone = ZoneInfo(zone_id)
        self._last_year = last_year + _YEARS_AHEAD
        self._table = session_tables([calendar], self._last_year)[calendar]
        self._sessions: dict[date, Session | None] = {}

    @property
    def first(self) -> date:
        return date.fromordinal(self._table.days[0])

    @staticmethod
    def load(calendars: Sequence[str], last_year: int) -> None:
        """Load several calendars at once, which takes as long as one; later ones of the same year come for nothing."""
        session_tables(calendars, last_year + _YEARS_AHEAD)

    def session(self, day: date) -> Session | None:
        if day not in self._sessions:
            self._sessions[day] = self._make_session(day)
        return self._sessions[day]

    def _make_session(self, day: date) -> Session | None:
        if day.year > self._last_year:
            self._last_year = day.year + _YEARS_AHEAD
            self._table = session_tables([self.calendar], self._last_year)[self.calendar]
        found = self._table.find(day)
        if found is None:
            return None
        start, end, pause = found
        if self.calendar not in _EXTENDED_CALENDARS:
            return Session(day, start, start, end, end, pause)
        early = datetime.fromtimestamp(end, self.zone).time() < time(16)
        pre = epoch(day, time(4), self.zone)
        post = epoch(day, time(17) if early else time(20), self.zone)
        return Session(day, pre, start, end, post)


class ForexHours:
    """IDEALPRO: from 17:15 of the evening before until 17:00, New York time, Monday to Friday, with no holidays."""

    zone_id = "US/Eastern"
    zone = EASTERN
    first = date(1990, 1, 1)

    def session(self, day: date) -> Session | None:
        if day.weekday() >= 5 or day < self.first:
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
        self.first = self.days[0]
        self._known = set(days)
        self._exchange = exchange

    def session(self, day: date) -> Session | None:
        if day not in self._known:
            return None
        whole = self._exchange.session(day)
        return Session(day, whole.open, whole.open, whole.close, whole.close, whole.pause) if whole else None


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
    """The session that is open at that moment; none during its midday break."""
    session = next(sessions_from(hours, moment), None)
    if session is None:
        return None
    return session if any(start <= moment < end for start, end in session.spans(regular)) else None


def next_open(hours: Hours, moment: float, *, regular: bool) -> int | None:
    """When trading next begins, or that moment if it is open; None if no further session is known."""
    for session in sessions_from(hours, moment):
        for start, end in session.spans(regular):
            if moment < end:
                return max(start, int(moment))
    return None


def hours_text(hours: Hours, moment: float, *, regular: bool) -> str:
    """IBKR's `liquidHours` / `tradingHours` from today on, in the form with both dates (TWS 970 and later).

    `20261120:0930-20261120:1600;20261121:CLOSED;...`; the two halves around a midday break are joined by a comma.
    """
    day = datetime.fromtimestamp(moment, hours.zone).date()
    parts: list[str] = []
    while len(parts) < _ENTRIES:
        session = hours.session(day)
        if session is not None:
            parts.append(",".join(_span_text(span, hours.zone) for span in session.spans(regular)))
        elif not (isinstance(hours, ForexHours) and day.weekday() == 6):
            # A forex Sunday is not closed: Monday's session begins on it.
            parts.append(f"{day:%Y%m%d}:CLOSED")
        day += timedelta(days=1)
    return ";".join(parts)


def _span_text(span: tuple[int, int], zone: ZoneInfo) -> str:
    start, end = (datetime.fromtimestamp(bound, zone) for bound in span)
    return f"{start:%Y%m%d:%H%M}-{end:%Y%m%d:%H%M}"


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
