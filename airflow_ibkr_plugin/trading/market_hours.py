"""When a market is open: IBKR's hours of the contract where they are given, else an exchange calendar.

Calendars are named as `exchange_calendars` (XNYS, XLON, ...) or, where that lacks or misses one (CME's daily break),
as `pandas_market_calendars` (CME_Equity, ...) names them; `FOREX` is IBKR's own week for currencies.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow_ibkr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.trading.instruments import Instrument

FOREX = "FOREX"
_NEW_YORK = ZoneInfo("America/New_York")
# IDEALPRO's week, Sunday 17:15 to Friday 17:00 New York, with a quarter of an hour's pause each day at 17:00.
# Source: IBKR, "Trading hours", IDEALPRO.
_FOREX_OPEN, _FOREX_CLOSE = time(17, 15), time(17, 0)

# Where an instrument is listed or routed to -> the calendar of that market.
_CALENDARS = {
    **dict.fromkeys(("NYSE", "NASDAQ", "ARCA", "AMEX", "BATS", "ISLAND", "IEX", "REPLAY"), "XNYS"),
    "IDEALPRO": FOREX,
    "LSE": "XLON",
    "LSEETF": "XLON",
    "IBIS": "XETR",
    "SBF": "XPAR",
    "AEB": "XAMS",
    "TSEJ": "XTKS",
    "SEHK": "XHKG",
    "TSE": "XTSE",
    "ASX": "XASX",
}
_FIRST_DAY = date(1990, 1, 1)


@dataclass(frozen=True, kw_only=True, order=True)
class Session:
    """One trading session: its date as the exchange names it, and its ends, aware UTC; the close is not in it."""

    date: date
    open: datetime
    close: datetime


def default_calendar(instrument: Instrument) -> str:
    """The calendar of the instrument's market; '' where it is not known."""
    return _CALENDARS.get(instrument.primary_exchange) or _CALENDARS.get(instrument.exchange, "")


def is_open(instrument: Instrument | None, at: datetime, *, calendar: str = "") -> bool | None:
    """Whether the market is open at a time. None where that cannot be told: neither hours nor a calendar.

    The contract's own liquidHours decide for the days that they cover; then the named calendar; then the one of the
    instrument's market.

    :param at: aware; market decisions use the broker's clock.
    :raises ConfigError: there is no calendar of that name, or it does not reach that far.
    """
    if instrument is not None and (hours := _hours(instrument)) and hours.covers(at):
        return any(start <= at < end for start, end in hours.windows)
    name = calendar or (default_calendar(instrument) if instrument is not None else "")
    if not name:
        return None
    day = at.astimezone(UTC).date()
    return any(s.open <= at < s.close for s in sessions(day - timedelta(days=2), day + timedelta(days=2), name))


def next_open(instrument: Instrument | None, at: datetime, *, calendar: str = "") -> datetime | None:
    """The first opening after a time, aware UTC; None where that cannot be told.

    :raises ConfigError: see :func:`is_open`.
    """
    hours = _hours(instrument) if instrument is not None else None
    if hours and hours.covers(at) and (later := [start for start, _ in hours.windows if start > at]):
        return later[0]
    name = calendar or (default_calendar(instrument) if instrument is not None else "")
    if not name:
        return None
    day = at.astimezone(UTC).date()
    # No market closes for longer than this; China's golden weeks come nearest.
    coming = sessions(day - timedelta(days=2), day + timedelta(days=21), name)
    return next((session.open for session in coming if session.open > at), None)


def sessions(start: date, end: date, calendar: str) -> list[Session]:
    """The sessions dated from `start` to `end`, both included, oldest first. A midday break is part of its session.

    :raises ConfigError: there is no calendar of that name, or it does not reach that far.
    """
    if calendar == FOREX:
        return list(_forex_sessions(start, end))
    return _calendar(calendar).between(start, end)


class _Calendar:
    """A third-party calendar, its sessions computed once a process."""

    def __init__(self, name: str, found: list[Session]) -> None:
        self._name = name
        self._sessions = found
        self._dates = [session.date for session in found]

    def between(self, start: date, end: date) -> list[Session]:
        # Two weeks of grace: an exchange's last computed session may well be a holiday's eve.
        if start < _FIRST_DAY or end > self._dates[-1] + timedelta(days=14):
            raise ConfigError(
                f"calendar {self._name} is known from {_FIRST_DAY} to {self._dates[-1]}, not from {start} to {end}.",
                remedy="Ask for less history, or update exchange-calendars.",
            )
        first = bisect_right(self._dates, start - timedelta(days=1))
        return self._sessions[first : bisect_right(self._dates, end)]


@cache
def _calendar(name: str) -> _Calendar:
    import exchange_calendars
    import pandas_market_calendars

    if name in exchange_calendars.get_calendar_names():
        found = exchange_calendars.get_calendar(name)
        if found.first_session.date() > _FIRST_DAY:
            found = exchange_calendars.get_calendar(name, start=max(_FIRST_DAY, _bound(found)))
        return _Calendar(name, _rows(found.schedule[["open", "close"]]))
    if name in pandas_market_calendars.get_calendar_names():
        last = datetime.now(UTC).date() + timedelta(days=365)
        schedule = pandas_market_calendars.get_calendar(name).schedule(_FIRST_DAY, last)
        return _Calendar(name, _rows(schedule[["market_open", "market_close"]]))
    raise ConfigError(
        f"there is no exchange calendar {name!r}.",
        remedy="Use a name of exchange_calendars such as XNYS, of pandas_market_calendars, or FOREX.",
    )


def _bound(calendar: Any) -> date:
    earliest = calendar.bound_min()
    return _FIRST_DAY if earliest is None else earliest.date()


def _rows(schedule: Any) -> list[Session]:
    return [
        Session(date=day.date(), open=opened.to_pydatetime(), close=closed.to_pydatetime())
        for day, opened, closed in schedule.itertuples()
    ]


def _forex_sessions(start: date, end: date) -> Iterator[Session]:
    """Monday's session begins on Sunday; each is named by the day it ends on."""
    for number in range((end - start).days + 1):
        day = start + timedelta(days=number)
        if day.weekday() < 5:
            opened = datetime.combine(day - timedelta(days=1), _FOREX_OPEN, _NEW_YORK)
            closed = datetime.combine(day, _FOREX_CLOSE, _NEW_YORK)
            yield Session(date=day, open=opened.astimezone(UTC), close=closed.astimezone(UTC))


# --- IBKR's hours of a contract ---------------------------------------------------------------------

_CLOSED = re.compile(r"(\d{8}):CLOSED")
_SEGMENT = re.compile(r"(\d{8}):(\d{4})-(?:(\d{8}):)?(\d{4})")


@dataclass(frozen=True)
class _Hours:
    """Windows of aware UTC times, oldest first, and the span in which they are complete."""

    windows: tuple[tuple[datetime, datetime], ...]
    since: datetime
    until: datetime

    def covers(self, at: datetime) -> bool:
        return self.since <= at < self.until


def _hours(instrument: Instrument) -> _Hours | None:
    return parse_hours(instrument.liquid_hours, instrument.time_zone) if instrument.liquid_hours else None


@cache
def parse_hours(text: str, time_zone: str) -> _Hours:
    """Read IBKR's `20261120:0930-20261120:1600;20261121:CLOSED`, also the older `20261120:0930-1600,1700-1800`.

    :raises ConfigError: it is of neither form, or the zone is unknown.
    """
    try:
        zone = ZoneInfo(time_zone)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"IBKR names the time zone {time_zone!r}, which is not known here.") from error
    windows, days = [], []
    for part in filter(None, text.split(";")):
        head = part.partition(":")[0]
        for segment in part.split(","):
            whole = segment if ":" in segment.partition("-")[0] else f"{head}:{segment}"
            if closed := _CLOSED.fullmatch(whole):
                days.append(closed[1])
            elif match := _SEGMENT.fullmatch(whole):
                first, opens, last, closes = match.groups()
                last = last or first
                windows.append((_instant(first, opens, zone), _instant(last, closes, zone)))
                days += [first, last]
            else:
                raise ConfigError(f"IBKR's trading hours {segment!r} are of an unknown form.")
    since = _instant(min(days), "0000", zone)
    until = _instant(max(days), "0000", zone) + timedelta(days=1)
    return _Hours(tuple(sorted(windows)), since, until)


def _instant(day: str, clock: str, zone: ZoneInfo) -> datetime:
    return datetime.strptime(day + clock, "%Y%m%d%H%M").replace(tzinfo=zone).astimezone(UTC)
