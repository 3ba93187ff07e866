"""The sessions of a market by the name of its exchange calendar: holidays, early closes, DST, overnight sessions.

Three sources, each where it is right. `exchange_calendars` for the stock exchanges. `pandas_market_calendars` for CME's
futures, where exchange_calendars reads the daily break as open. A rule of our own for forex, where exchange_calendars'
`24/5` reads Sunday evening as closed and pandas_market_calendars' `FOREX` reads Saturday evening as open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from airflow_ibkr_plugin.errors import ConfigError

FOREX = "forex"

# exchange_calendars' CME calendar, under all its names, reads open during the daily break: these stand in for it.
_CME: Mapping[str, str] = {
    "CMES": "CME Globex Equity",
    "CME": "CME Globex Equity",
    "us_futures": "CME Globex Equity",
    "NYMEX": "CMEGlobex_EnergyAndMetals",
    "COMEX": "CMEGlobex_EnergyAndMetals",
    "CBOT": "CME Globex Interest Rate Products",
}
_FOREX_NAMES = frozenset({"forex", "fx", "24/5"})
# As far back as history is replayed. exchange_calendars starts 20 years ago unless told, which builds twice as fast.
_EARLIEST = date(1990, 1, 1)
_NEW_YORK = "America/New_York"


@dataclass(frozen=True, slots=True)
class Session:
    """One trading day of a market.

    :param date: the day that the session belongs to; an overnight session opens the evening before.
    :param open, close: aware UTC, `open` inclusive, `close` exclusive; early closes respected.
    :param break_start, break_end: the midday break, aware UTC; None where there is none.
    """

    date: date
    open: datetime
    close: datetime
    break_start: datetime | None = None
    break_end: datetime | None = None

    def intervals(self) -> tuple[tuple[datetime, datetime], ...]:
        """The times in which it trades, in order: one, or two around a break."""
        if self.break_start is None or self.break_end is None or self.break_start >= self.break_end:
            return ((self.open, self.close),)
        return ((self.open, self.break_start), (self.break_end, self.close))


class _Calendar(Protocol):
    def sessions(self, first: date, last: date) -> list[Session]: ...


def sessions(start_date: date, end_date: date, calendar: str) -> list[Session]:
    """All sessions of a calendar from one date to another, both inclusive, in order.

    :param calendar: a name that exchange_calendars or pandas_market_calendars knows, such as `XNYS`, or `forex`.
    :raises ConfigError: nobody knows the calendar, or it does not reach that far.
    """
    if end_date < start_date:
        return []
    return _calendar(calendar, early=start_date < _recent()).sessions(start_date, end_date)


def calendar_names() -> list[str]:
    """Every name that :func:`sessions` takes, sorted. Imports both calendar libraries: about a second."""
    import exchange_calendars
    import pandas_market_calendars

    libraries = (
        exchange_calendars.get_calendar_names(include_aliases=True),
        pandas_market_calendars.get_calendar_names(),
    )
    return sorted({*_FOREX_NAMES, *_CME, *(name for names in libraries for name in names)})


def _recent() -> date:
    """From when on exchange_calendars' default calendars surely know; they begin 20 years before today."""
    return datetime.now(UTC).date() - timedelta(days=19 * 365)


@cache
def _calendar(name: str, *, early: bool) -> _Calendar:
    if name.lower() in _FOREX_NAMES:
        return _Forex()
    import exchange_calendars

    if name in _CME:
        return _PandasMarketCalendar(name, _CME[name])
    if name in exchange_calendars.get_calendar_names(include_aliases=True):
        try:
            return _ExchangeCalendar(name, early=early)
        except ValueError as error:  # its special dates and its week may not fit each other, as XTAE's in 4.13.2
            raise ConfigError(
                f"exchange_calendars cannot make its calendar {name}: {str(error)[:80]}...",
                remedy="Install another release of exchange-calendars, or name another calendar of that market.",
            ) from error
    import pandas_market_calendars

    if name in pandas_market_calendars.get_calendar_names():
        return _PandasMarketCalendar(name, name)
    raise ConfigError(
        f"there is no exchange calendar {name!r}.",
        remedy="Use a name that exchange_calendars or pandas_market_calendars knows, such as XNYS, XLON or"
        " CME Globex Equity; or forex.",
    )


class _ExchangeCalendar:
    def __init__(self, name: str, *, early: bool) -> None:
        import exchange_calendars

        self._name = name
        calendar = exchange_calendars.get_calendar(name)
        if early:
            bound = calendar.bound_min()
            start = max(_EARLIEST, bound.date()) if bound is not None else _EARLIEST
            calendar = exchange_calendars.get_calendar(name, start=start.isoformat())
        self._first: date = calendar.first_session.date()
        self._last: date = calendar.last_session.date()
        self._schedule: Any = calendar.schedule

    def sessions(self, first: date, last: date) -> list[Session]:
        # The first session may be some days behind the start of the calendar: those days are known to be closed.
        if first < self._first - timedelta(days=7) or last > self._last:
            raise ConfigError(
                f"the exchange calendar {self._name} knows {self._first} to {self._last}, and {first} to {last} was"
                " asked for.",
                remedy="Check the clock of the gateway and the dates asked for; exchange_calendars ends a year ahead.",
            )
        rows = self._schedule.loc[first.isoformat() : last.isoformat()]
        return [
            _session(day, row["open"], row["close"], row["break_start"], row["break_end"])
            for day, row in zip(rows.index, rows.to_dict("records"), strict=True)
        ]


class _PandasMarketCalendar:
    def __init__(self, name: str, library_name: str) -> None:
        import pandas_market_calendars

        self._name = name
        self._calendar: Any = pandas_market_calendars.get_calendar(library_name)

    def sessions(self, first: date, last: date) -> list[Session]:
        # Its rules have no end, but nobody has announced the holidays of far years.
        limit = datetime.now(UTC).date() + timedelta(days=366)
        if first < _EARLIEST or last > limit:
            raise ConfigError(
                f"the exchange calendar {self._name} is used from {_EARLIEST} to {limit}, and {first} to {last} was"
                " asked for.",
                remedy="Check the clock of the gateway and the dates asked for.",
            )
        rows = self._calendar.schedule(first.isoformat(), last.isoformat())
        return [
            _session(day, row["market_open"], row["market_close"], row.get("break_start"), row.get("break_end"))
            for day, row in zip(rows.index, rows.to_dict("records"), strict=True)
        ]


class _Forex:
    """IDEALPRO: 17:15 of the evening before to 17:00 New York time, Monday to Friday.

    Source: IBKR's exchange listing, IDEALPRO, "Sunday - Friday: 17:15 - 17:00 ET"; closed on 25 December and 1 January.
    """

    def sessions(self, first: date, last: date) -> list[Session]:
        zone = ZoneInfo(_NEW_YORK)
        days = (first + timedelta(days=n) for n in range((last - first).days + 1))
        return [
            Session(
                day,
                datetime.combine(day - timedelta(days=1), time(17, 15), zone).astimezone(UTC),
                datetime.combine(day, time(17, 0), zone).astimezone(UTC),
            )
            for day in days
            if day.weekday() < 5 and (day.month, day.day) not in ((12, 25), (1, 1))
        ]


def _session(day: Any, opening: Any, close: Any, break_start: Any, break_end: Any) -> Session:
    """A session from pandas timestamps; NaT (the only one that differs from itself) and None mean: no break."""
    has_break = break_start is not None and break_start == break_start
    return Session(
        day.date(),
        _moment(opening),
        _moment(close),
        _moment(break_start) if has_break else None,
        _moment(break_end) if has_break else None,
    )


def _moment(stamp: Any) -> datetime:
    moment: datetime = stamp.to_pydatetime()
    return moment.astimezone(UTC)
