"""Whether the market of an instrument is open, and when it opens next.

IBKR's own hours of the contract decide for the days that they cover; the calendar of its exchange for all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow_ibkr_plugin.errors import BrokerError
from airflow_ibkr_plugin.trading.calendars import FOREX, Session, sessions
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec

__all__ = ["FOREX", "Session", "default_calendar", "is_open", "next_open", "sessions"]

# IBKR's exchange names -> the calendar that they keep. Source: IBKR, "Exchange Listings"; MIC codes of ISO 10383.
_CALENDARS: Mapping[str, str] = {
    **dict.fromkeys(("NYSE", "NASDAQ", "ISLAND", "ARCA", "AMEX", "BATS", "IEX", "PINK", "OTCLNKECN"), "XNYS"),
    "REPLAY": "XNYS",  # the simulated gateway's replay of recorded US sessions
    **dict.fromkeys(("IDEALPRO", "FXCONV"), FOREX),
    **dict.fromkeys(("TSE", "VENTURE"), "XTSE"),
    **dict.fromkeys(("LSE", "LSEETF"), "XLON"),
    **dict.fromkeys(("IBIS", "IBIS2"), "XETR"),
    "FWB": "XFRA",
    "SBF": "XPAR",
    "AEB": "XAMS",
    "ENEXT.BE": "XBRU",
    "EBS": "XSWX",
    "BVME": "XMIL",
    "BM": "XMAD",
    "SFB": "XSTO",
    "CPH": "XCSE",
    "HEX": "XHEL",
    "OSE": "XOSL",
    "VSE": "XWBO",
    "TSEJ": "XTKS",
    "SEHK": "XHKG",
    "SGX": "XSES",
    "KSE": "XKRX",
    "ASX": "XASX",
    "MEXI": "XMEX",
    "WSE": "XWAR",
    "BUX": "XBUD",
    "PRA": "XPRA",
    "JSE": "XJSE",
    "TASE": "XTAE",
    "BOVESPA": "BVMF",
    "NSE": "XBOM",
    "CME": "CMES",
}
# IBKR's short names that the time zone database lacks, or has as a fixed offset without DST.
_ZONES: Mapping[str, str] = {
    "EST": "America/New_York",
    "CST": "America/Chicago",
    "MST": "America/Denver",
    "PST": "America/Los_Angeles",
    "BST": "Europe/London",
    "CEST": "Europe/Paris",
    "JST": "Asia/Tokyo",
    "HKT": "Asia/Hong_Kong",
    "AET": "Australia/Sydney",
}
# Longer than any closure of the exchanges above since 1990: Seoul was closed for ten days at the end of 1992.
_HORIZON = timedelta(days=14)
_DAY = timedelta(days=1)
_RANGE = re.compile(r"(?:(\d{8}):)?(\d{4})-(?:(\d{8}):)?(\d{4})")


def default_calendar(instrument: InstrumentSpec) -> str:
    """Name of the exchange calendar of an instrument, by its listing exchange; '' if it is not known."""
    return _CALENDARS.get(instrument.primary_exchange) or _CALENDARS.get(instrument.exchange, "")


def is_open(instrument: Instrument | None, at: datetime, *, calendar: str = "") -> bool | None:
    """Whether the regular (liquid) market is open at a moment; None if it cannot be told: no hours and no calendar.

    :param at: aware; for a decision to trade, the broker's clock.
    :param calendar: exchange calendar for what IBKR's hours do not cover; '' for that of the instrument's exchange.
    :raises ConfigError: nobody knows the calendar, or it does not reach that far.
    :raises BrokerError: the instrument's hours cannot be read.
    """
    hours = _broker_hours(instrument)
    if hours and hours.covers(at):
        return any(start <= at < end for start, end in hours.open)
    if not (name := _calendar_name(instrument, calendar)):
        return None
    return any(start <= at < end for start, end in _calendar_intervals(at, at, name))


def next_open(instrument: Instrument | None, at: datetime, *, calendar: str = "") -> datetime | None:
    """The first moment after `at` at which the market opens (again, after a break); aware UTC.

    None if it cannot be told. Parameters and errors as in :func:`is_open`.
    """
    hours = _broker_hours(instrument)
    known = [start for start, _ in hours.open if start > at] if hours else []
    if name := _calendar_name(instrument, calendar):
        # What IBKR covers is IBKR's to say. It covers some days in one piece, so its next opening, if it is there
        # and the calendar has none before it, is the next one.
        until = min(known, default=at + _HORIZON)
        known += [
            start
            for start, _ in _calendar_intervals(at, until, name)
            if start > at and not (hours and hours.covers(start))
        ]
    return min(known, default=None)


def _calendar_name(instrument: Instrument | None, calendar: str) -> str:
    return calendar or (default_calendar(instrument) if instrument else "")


def _calendar_intervals(start: datetime, end: datetime, calendar: str) -> Iterator[tuple[datetime, datetime]]:
    # A session may begin on the day before its date, and a date in UTC may be the next one at the exchange.
    for session in sessions(start.astimezone(UTC).date() - _DAY, end.astimezone(UTC).date() + _DAY, calendar):
        yield from session.intervals()


# --- IBKR's text ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _BrokerHours:
    """IBKR's hours as moments: when it is open, and for which stretches of time the text speaks at all."""

    open: tuple[tuple[datetime, datetime], ...]
    covered: tuple[tuple[datetime, datetime], ...]

    def covers(self, at: datetime) -> bool:
        return any(start <= at < end for start, end in self.covered)


def _broker_hours(instrument: Instrument | None) -> _BrokerHours | None:
    text = (instrument.liquid_hours or instrument.trading_hours) if instrument else ""
    return parse_hours(text, instrument.time_zone) if instrument and text else None


@lru_cache(maxsize=256)
def parse_hours(text: str, time_zone: str) -> _BrokerHours:
    """Read IBKR's liquidHours or tradingHours.

    `20261120:0930-20261120:1600;20261121:CLOSED`, several ranges of a day joined by commas; before TWS 970 without the
    end date (`20170623:1715-1700`), where a range that ends before it starts opens on the evening before its date.

    A day is covered from midnight to midnight of the exchange; an overnight session covers itself, and between two
    sessions on days that follow each other the market is covered as closed.

    :param time_zone: IBKR's timeZoneId: an IANA name, or a short one such as `EST`, perhaps followed by a comment.
    :raises BrokerError: the text or the zone cannot be read.
    """
    zone = _zone(time_zone)
    opened: list[tuple[datetime, datetime]] = []
    covered: list[tuple[datetime, datetime]] = []
    for segment in filter(None, (part.strip() for part in text.split(";"))):
        label, _, rest = segment.partition(":")
        if rest.upper() == "CLOSED":
            covered.append(_whole_day(_date(label, text), zone))
            continue
        day = ""
        for piece in segment.split(","):
            if not (match := _RANGE.fullmatch(piece.strip())) or not (day := match[1] or day):
                raise _unreadable(text)
            start, end = _at(day, match[2], zone, text), _at(match[3] or day, match[4], zone, text)
            if end <= start and not match[3]:
                start = _at(day, match[2], zone, text, shift=-1)
            if end <= start:
                raise _unreadable(text)
            opened.append((start.astimezone(UTC), end.astimezone(UTC)))
            overnight = start.date() != end.date() and end.time() != time()
            covered.append((start, end) if overnight else _whole_day(start.date(), zone))
    return _BrokerHours(open=tuple(sorted(opened)), covered=_joined(covered))


def _joined(pieces: list[tuple[datetime, datetime]]) -> tuple[tuple[datetime, datetime], ...]:
    """The pieces in order, those joined that lie on the same day or on days that follow each other."""
    joined: list[tuple[datetime, datetime]] = []
    for start, end in sorted(pieces):
        last_day = (joined[-1][1] - timedelta.resolution).date() if joined else date.min
        if joined and start.date() - last_day <= _DAY:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple((start.astimezone(UTC), end.astimezone(UTC)) for start, end in joined)


def _whole_day(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    return datetime.combine(day, time(), zone), datetime.combine(day + _DAY, time(), zone)


def _date(digits: str, text: str) -> date:
    try:
        return datetime.strptime(digits, "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise _unreadable(text) from error


def _at(digits: str, clock: str, zone: ZoneInfo, text: str, *, shift: int = 0) -> datetime:
    hours, minutes = int(clock[:2]), int(clock[2:])
    if (hours, minutes) > (24, 0) or minutes > 59:
        raise _unreadable(text)
    day = _date(digits, text) + timedelta(days=shift + hours // 24)  # 2400 is midnight at the end of the day
    return datetime.combine(day, time(hours % 24, minutes), zone)


def _zone(name: str) -> ZoneInfo:
    short = name.split(" ", 1)[0]
    try:
        return ZoneInfo(_ZONES.get(short, short))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise BrokerError(
            f"the broker gives trading hours in the time zone {name!r}, which nobody knows.",
            remedy="Install a current tzdata package; if that does not help, report the name.",
        ) from error


def _unreadable(text: str) -> BrokerError:
    return BrokerError(f"the broker's trading hours cannot be read: {text!r}.", remedy="Report this text.")
