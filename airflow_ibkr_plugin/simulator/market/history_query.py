"""What a client asks of history, and what IBKR refuses in it.

Source of rules, their order and their texts: TWS API, "Historical Bar Data" (durations, bar sizes, maximum duration per
bar size) and "Historical Data Limitations"; error texts as gateways send them.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow_ibkr_plugin.simulator.market.hours import EASTERN

#: Seconds of each intraday bar size; IBKR's names.
INTRADAY = {
    "1 secs": 1, "5 secs": 5, "10 secs": 10, "15 secs": 15, "30 secs": 30, "1 min": 60, "2 mins": 120, "3 mins": 180,
    "5 mins": 300, "10 mins": 600, "15 mins": 900, "20 mins": 1200, "30 mins": 1800, "1 hour": 3600, "2 hours": 7200,
    "3 hours": 10800, "4 hours": 14400, "8 hours": 28800,
}  # fmt: skip
DAILY = ("1 day", "1 week", "1 month")
_SHORT = {"1W": "1 week", "1M": "1 month"}
_LEGAL_SIZES = ", ".join((*INTRADAY, "1 day", *_SHORT))

TRADED = ("TRADES", "ADJUSTED_LAST")
SCHEDULE = "SCHEDULE"
#: What is served.
SERVED = (*TRADED, "MIDPOINT", "BID", "ASK", "BID_ASK", SCHEDULE)
# IBKR knows these too; they have no data here.
_OTHERS = (
    "HISTORICAL_VOLATILITY", "OPTION_IMPLIED_VOLATILITY", "INDICATIVE_AUCTION_PRICE_SIZE", "NAV_LAST", "FEE_RATE",
    "YIELD_ASK", "YIELD_BID", "YIELD_BID_ASK", "YIELD_MARK", "YIELD_LAST", "AGGTRADES",
)  # fmt: skip
_KEPT_UP = ("TRADES", "MIDPOINT", "BID", "ASK")
#: From this server version on clients read historicalSchedule. Source: IBKR's own client.
_SCHEDULES_SINCE = 165

# The longest duration of each unit, and what IBKR says beyond it.
_LONGEST = {
    "S": (86_400, "Historical data request for greater than 86400 seconds rejected."),
    "D": (365, "Historical data requests for durations longer than 365 days must be made in years."),
    "W": (52, "Historical data request for durations longer than 52 weeks must be made in years."),
    "M": (12, "Historical data request for durations longer than 12 months must be made in years."),
    "Y": (68, "Historical data requested duration is invalid."),
}
_SHORTEST_SECONDS = 30
# Years that a request may name.
_FIRST_YEAR, _LAST_YEAR = 1978, 3000
# Bars of up to 30 seconds are kept for six months. Source: TWS API, "Unavailable Historical Data".
_SMALL, _SMALL_DAYS = 30, 183

_DURATION = re.compile(r"(\d{1,9})(?: ([SDWMYsdwmy]))?")
_MOMENT = re.compile(r"(?:(\d{8}) +)?(\d{2}:\d{2}:\d{2})(?: +(\D.*))?|(\d{8})-(\d{2}:\d{2}:\d{2})")

#: Sent with a request whose time names no zone; it is answered all the same.
NO_ZONE = (
    2174,
    "Warning: You submitted request with date-time attributes without explicit time zone. Please switch to use"
    " yyyymmdd-hh:mm:ss in UTC or use instrument time zone, like US/Eastern. Implied time zone functionality will be"
    " removed in the next API release",
)
_BAD_MOMENT = (
    "The date, time, or time-zone entered is invalid.\nThe correct format is yyyymmdd hh:mm:ss xx/xxxx\nwhere yyyymmdd"
    " and xx/xxxx are optional.\nE.g.: 20031126 15:59:00 US/Eastern\n\nNote that there is a space between the date and"
    " time,\nand between the time and time-zone.\n\nIf no date is specified, current date is assumed.\nIf no time-zone"
    " is specified, local time-zone is assumed(deprecated).\n\nYou can also provide yyyymmddd-hh:mm:ss time is in UTC."
    "\nNote that there is a dash between the date and time in UTC notation."
)


class BadRequest(Exception):
    """A historical request that IBKR refuses.

    :ivar code: its error code: 321 did not validate, 10314 a time that cannot be read, 162 the data service says no.
    """

    def __init__(self, message: str, code: int = 321) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Query:
    """What a client asks for.

    :param end: epoch seconds, exclusive; already cut to the clock. :param regular: only regular hours.
    :param what: one of those that IBKR knows. :param style: formatDate: 1 text, 2 epoch seconds, 3 text without year.
    :param oldest: epoch seconds before which there is no data of that bar size.
    :param told_end: the end as the answer states it: what was asked for, or now.
    """

    bar_size: str
    duration: tuple[int, str]
    end: float
    regular: bool
    what: str
    style: int = 1
    oldest: int = 0
    told_end: float = 0.0

    @property
    def seconds(self) -> int | None:
        """Of a bar; None for a day and longer."""
        return INTRADAY.get(self.bar_size)


def parse_query(fields: dict[str, Any], now: float, version: int = 10_000) -> Query:
    """The query of a reqHistoricalData message's fields.

    :param now: the gateway's clock, epoch seconds. :param version: the server version of the session.
    :raises BadRequest: a part of it is no value that IBKR knows, or parts of it do not go together.
    """
    asked_end, what = fields["endDateTime"].strip(), fields["whatToShow"].upper()
    moment = parse_moment(asked_end, now, "End")
    duration = _parse_duration(fields["duration"])
    if what == "ADJUSTED_LAST" and asked_end:
        raise BadRequest("End date not supported with adjusted last")
    size = _parse_size(fields["barSize"])
    if what == "ADJUSTED_LAST" and size in ("1 week", "1 month"):
        raise BadRequest("Multi day bar size not supported with adjusted last")
    if what not in (*SERVED, *_OTHERS) or (what == SCHEDULE and version < _SCHEDULES_SINCE):
        raise BadRequest(f"What to show value of {fields['whatToShow']} rejected.")
    if fields["formatDate"] not in (1, 2, 3):
        raise BadRequest(f"Date formatting selection of {fields['formatDate']} rejected.")
    if fields["keepUpToDate"]:
        if asked_end:
            raise BadRequest("End date not supported with live updates")
        if what not in _KEPT_UP:
            raise BadRequest("Source price not supported with live updates")
    if what == SCHEDULE and size != "1 day":
        raise BadRequest("Only daily resolution supported for Schedule requests")
    # The second in which the clock stands is on the tape already.
    latest = int(now) + 1
    return Query(
        bar_size=size,
        duration=duration,
        end=latest if moment is None else min(moment, latest),
        regular=bool(fields["useRTH"]),
        what=what,
        style=fields["formatDate"],
        told_end=now if moment is None else min(moment, now),
        oldest=int(now) - _SMALL_DAYS * 86_400 if INTRADAY.get(size, _SMALL + 1) <= _SMALL else 0,
    )


def duration_start(end: float, duration: tuple[int, str], zone: ZoneInfo) -> float:
    """Where a duration that ends there begins by the calendar, as answers state it; bars may reach further back."""
    count, unit = duration
    if unit == "S":
        return end - count
    moment = datetime.fromtimestamp(end, zone)
    if unit in "DW":
        return (moment - timedelta(days=count * (7 if unit == "W" else 1))).timestamp()
    months = moment.year * 12 + moment.month - 1 - count * (12 if unit == "Y" else 1)
    year, month = months // 12, months % 12 + 1
    day = min(moment.day, calendar.monthrange(year, month)[1])
    return moment.replace(year=year, month=month, day=day).timestamp()


def parse_moment(text: str, now: float, label: str) -> float | None:
    """Epoch seconds of a request's date and time; None if it is empty.

    With a dash it is UTC; else in the zone that it names, or that of the gateway, which is US/Eastern here. A time
    alone is today's.

    :param label: `End` or `Start`, for the error.
    :raises BadRequest: 10314.
    """
    text = text.strip()
    if not text:
        return None
    found = _MOMENT.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        day, clock, zone_name, utc_day, utc_clock = found.groups()
        zone = UTC if utc_day else ZoneInfo(zone_name.strip()) if zone_name else EASTERN
        day = utc_day or day or f"{datetime.fromtimestamp(now, zone):%Y%m%d}"
        if not _FIRST_YEAR <= int(day[:4]) <= _LAST_YEAR:
            raise ValueError(text)
        return datetime.strptime(f"{day} {utc_clock or clock}", "%Y%m%d %H:%M:%S").replace(tzinfo=zone).timestamp()
    except (ValueError, OSError, ZoneInfoNotFoundError):  # OSError: a name such as "America" is a folder
        raise BadRequest(f"{label} Date/Time: {_BAD_MOMENT}", 10314) from None


def lacks_zone(text: str) -> bool:
    """Whether a request's date and time names no zone, which IBKR warns of (:data:`NO_ZONE`)."""
    found = _MOMENT.fullmatch(text.strip())
    return found is not None and not found[3] and not found[4]


def stamp(moment: float, style: int, zone: ZoneInfo, zone_id: str) -> str:
    """A moment as formatDate has it; without the zone's name it has two spaces."""
    if style == 2:
        return str(int(moment))
    local = datetime.fromtimestamp(moment, zone)
    text = f"{local:%Y%m%d %H:%M:%S} {zone_id}" if zone_id else f"{local:%Y%m%d  %H:%M:%S}"
    return text if style == 1 else text[4:]


def bar_stamp(start: int, day: date | None, style: int, zone: ZoneInfo, zone_id: str) -> str:
    """The date of a bar: of a day and longer always `yyyymmdd`."""
    return f"{day:%Y%m%d}" if day is not None else stamp(start, style, zone, zone_id)


def _parse_size(text: str) -> str:
    size = text.lower() if text.lower() in (*INTRADAY, *DAILY) else _SHORT.get(text.upper(), "")
    if not size:
        raise BadRequest(f"Historical data bar size setting is invalid. Legal ones are: {_LEGAL_SIZES}")
    return size


def _parse_duration(text: str) -> tuple[int, str]:
    if not text:
        raise BadRequest("Historical data request duration not specified.")
    found = _DURATION.fullmatch(text)
    if found is None:
        raise BadRequest(
            "When specifying a unit, historical data request duration format is integer{SPACE}unit (S|D|W|M|Y)."
        )
    # A number alone is seconds.
    count, unit = int(found[1]), (found[2] or "S").upper()
    if count < 1 or (unit == "S" and count < _SHORTEST_SECONDS):
        raise BadRequest("Historical data requested duration is invalid.")
    longest, refusal = _LONGEST[unit]
    if count > longest:
        raise BadRequest(refusal)
    return count, unit
