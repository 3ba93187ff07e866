"""Whether a market is open: holidays, early closes, DST, overnight sessions, and IBKR's own hours before all."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import BrokerError, ConfigError
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec, SecType
from airflow_ibkr_plugin.trading.market_hours import Session, default_calendar, is_open, next_open, sessions

NEW_YORK = ZoneInfo("America/New_York")
SPY = Instrument(symbol="SPY", primary_exchange="ARCA", con_id=756733, min_tick=Decimal("0.01"), time_zone="US/Eastern")
EURUSD = Instrument(
    symbol="EUR",
    sec_type=SecType.FOREX,
    exchange="IDEALPRO",
    con_id=12087792,
    min_tick=Decimal("0.00005"),
    time_zone="US/Eastern",
)
FOREX_HOURS = "20261119:1715-20261120:1700;20261121:CLOSED;20261122:1715-20261123:1700;20261123:1715-20261124:1700"


def new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK)


def moments(first: str, last: str) -> st.SearchStrategy[datetime]:
    start, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (first, last))
    return st.integers(0, int((end - start).total_seconds())).map(lambda seconds: start + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-20T09:29:59", False),
        ("2026-11-20T09:30:00", True),
        ("2026-11-20T15:59:59", True),
        ("2026-11-20T16:00:00", False),
        ("2026-11-21T12:00:00", False),  # Saturday
        ("2026-11-26T12:00:00", False),  # Thanksgiving
        ("2026-11-27T12:59:00", True),  # the day after: closes at 13:00
        ("2026-11-27T13:00:00", False),
        ("2026-07-03T12:00:00", False),  # Independence Day falls on a Saturday: observed on Friday
        ("2018-12-05T12:00:00", False),  # day of mourning for G. H. W. Bush
        ("2001-09-11T12:00:00", False),
        ("1999-01-04T10:00:00", True),  # the first day of the replayed history
    ],
)
def test_new_york_stocks(at: str, expected: bool) -> None:
    assert is_open(SPY, new_york(at)) is expected
    assert is_open(None, new_york(at), calendar="XNYS") is expected


@pytest.mark.parametrize(
    ("day", "opening"),
    [
        (date(2026, 3, 6), "14:30"),  # winter time
        (date(2026, 3, 9), "13:30"),  # the first session of summer time
        (date(2026, 10, 30), "13:30"),
        (date(2026, 11, 2), "14:30"),  # the first session of winter time
    ],
)
def test_stocks_open_at_the_same_local_time_across_dst(day: date, opening: str) -> None:
    start = datetime.fromisoformat(f"{day}T{opening}:00+00:00")
    assert is_open(SPY, start) is True
    assert is_open(SPY, start - timedelta(seconds=1)) is False
    assert next_open(SPY, start - timedelta(hours=3)) == start


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-20T16:59:59", True),  # Friday close
        ("2026-11-20T17:00:00", False),
        ("2026-11-21T20:00:00", False),  # Saturday evening
        ("2026-11-22T17:14:59", False),  # Sunday open
        ("2026-11-22T17:15:00", True),
        ("2026-11-23T00:00:00", True),  # across midnight
        ("2026-11-23T17:05:00", False),  # the daily break
        ("2026-11-26T12:00:00", True),  # Thanksgiving is no holiday
        ("2026-12-25T12:00:00", False),
        ("2026-01-01T12:00:00", False),
        ("2026-11-01T17:15:00", True),  # Sundays on which the clocks change
        ("2026-11-01T17:14:00", False),
        ("2026-03-08T17:15:00", True),
        ("2026-03-08T17:14:00", False),
    ],
)
def test_forex_week(at: str, expected: bool) -> None:
    assert is_open(EURUSD, new_york(at)) is expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-23T16:30:00", False),  # the daily break that exchange_calendars' CMES reads as open (Chicago time)
        ("2026-11-23T17:00:00", True),
        ("2026-11-24T00:30:00", True),
    ],
)
def test_futures_overnight_session(at: str, expected: bool) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=ZoneInfo("America/Chicago"))
    assert is_open(None, moment, calendar="CMES") is expected


def test_midday_break_of_tokyo() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    noon = datetime(2026, 11, 20, 12, 0, tzinfo=tokyo)
    assert is_open(None, noon, calendar="XTKS") is False
    assert next_open(None, noon, calendar="XTKS") == datetime(2026, 11, 20, 12, 30, tzinfo=tokyo)
    assert is_open(None, noon - timedelta(minutes=31), calendar="XTKS") is True


@pytest.mark.parametrize(
    ("hours", "at", "expected"),
    [
        # An early close that no calendar knows.
        ("20261120:0930-20261120:1300;20261121:CLOSED", "2026-11-20T14:00:00", False),
        # A day that the calendar has as open.
        ("20261120:CLOSED", "2026-11-20T10:00:00", False),
        # A day that the calendar has as closed.
        ("20261121:0930-20261121:1600", "2026-11-21T10:00:00", True),
        # Days that the text does not cover: the calendar decides.
        ("20261120:CLOSED", "2026-11-19T10:00:00", True),
        ("20261120:CLOSED", "2026-11-23T10:00:00", True),
        # Saturday is not in the text: the calendar decides, not the neighbours.
        ("20261120:0930-20261120:1600;20261122:0930-20261122:1600", "2026-11-21T10:00:00", False),
        # The old form, several ranges.
        ("20261120:0930-1200,1300-1600", "2026-11-20T12:30:00", False),
        ("20261120:0930-1200,1300-1600", "2026-11-20T13:00:00", True),
        ("20261120:0930-20261120:1200,20261120:1300-20261120:1600", "2026-11-20T12:30:00", False),
        ("20261120:0000-2400", "2026-11-20T23:59:59", True),
        # The end is exclusive.
        ("20261120:0930-20261120:1300", "2026-11-20T12:59:59", True),
        ("20261120:0930-20261120:1300", "2026-11-20T13:00:00", False),
    ],
)
def test_ibkr_hours_win_over_the_calendar(hours: str, at: str, expected: bool) -> None:
    assert is_open(replace(SPY, liquid_hours=hours), new_york(at), calendar="XNYS") is expected


@pytest.mark.parametrize(
    ("hours", "at", "expected"),
    [
        # The text speaks for its day from midnight to midnight, and for no moment more.
        ("20261123:CLOSED", "2026-11-22T23:59:59", True),
        ("20261123:CLOSED", "2026-11-23T00:00:00", False),
        ("20261123:CLOSED", "2026-11-23T23:59:59", False),
        ("20261123:CLOSED", "2026-11-24T00:00:00", True),
        ("20261120:0930-2400", "2026-11-20T08:00:00", False),
        ("20261120:0930-2400", "2026-11-20T09:30:00", True),
    ],
)
def test_ibkr_hours_of_a_day_in_a_market_that_never_sleeps(hours: str, at: str, expected: bool) -> None:
    assert is_open(replace(SPY, liquid_hours=hours), new_york(at), calendar="forex") is expected


def test_a_calendar_that_is_named_stands_in_for_the_exchanges_own() -> None:
    night = new_york("2026-11-20T03:00:00")
    assert is_open(SPY, night) is False
    assert is_open(SPY, night, calendar="forex") is True


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-20T10:00:00", True),
        ("2026-11-20T17:05:00", False),
        ("2026-11-22T12:00:00", False),
        ("2026-11-22T23:00:00", True),
        ("2026-11-23T03:00:00", True),
        ("2026-11-24T17:20:00", True),  # behind the text, which ends with this day's session: the calendar decides
    ],
)
def test_ibkr_overnight_hours(at: str, expected: bool) -> None:
    assert is_open(replace(EURUSD, liquid_hours=FOREX_HOURS), new_york(at)) is expected


def test_between_the_nights_of_two_days_that_follow_each_other_it_is_closed() -> None:
    nights = replace(SPY, liquid_hours="20260309:1800-20260310:0400;20260311:1800-20260312:0400")
    assert is_open(nights, new_york("2026-03-11T12:00:00")) is False  # though the calendar has a session then
    assert is_open(nights, new_york("2026-03-12T12:00:00")) is True  # of which IBKR says nothing


def test_a_break_of_no_length_is_none() -> None:
    opened, noon, closed = (datetime(2026, 3, 10, hour, tzinfo=UTC) for hour in (9, 12, 15))
    day = Session(date(2026, 3, 10), opened, closed, noon, noon)
    assert day.intervals() == ((opened, closed),)


def test_old_overnight_hours_open_on_the_evening_before() -> None:
    friday = replace(EURUSD, liquid_hours="20170623:1715-1700;20170626:1715-1700", time_zone="EST5EDT")
    assert is_open(friday, new_york("2017-06-22T18:00:00")) is True
    assert is_open(friday, new_york("2017-06-23T18:00:00")) is False


def test_trading_hours_stand_in_for_missing_liquid_hours() -> None:
    closed = replace(SPY, trading_hours="20261120:CLOSED")
    assert is_open(closed, new_york("2026-11-20T10:00:00")) is False
    liquid = replace(closed, liquid_hours="20261120:0930-20261120:1600")
    assert is_open(liquid, new_york("2026-11-20T10:00:00")) is True


@pytest.mark.parametrize("zone", ["US/Eastern", "EST", "EST (Eastern Standard Time)", "America/New_York"])
def test_names_of_the_time_zone(zone: str) -> None:
    summer = replace(SPY, liquid_hours="20260720:0930-20260720:1600", time_zone=zone)
    assert is_open(summer, datetime(2026, 7, 20, 13, 30, tzinfo=UTC)) is True
    assert is_open(summer, datetime(2026, 7, 20, 13, 29, tzinfo=UTC)) is False


@pytest.mark.parametrize(
    ("hours", "zone"),
    [
        ("20261120:0930-20261120:1600", "Mars/Olympus"),
        ("20261120", "US/Eastern"),
        ("20261320:0930-1600", "US/Eastern"),
        ("20261120:0930-2561", "US/Eastern"),
        ("20261120:0930-2500", "US/Eastern"),
        ("20261120:0930-20261120:2401", "US/Eastern"),
        ("20261120:0930-20261119:1600", "US/Eastern"),
        ("0930-1600", "US/Eastern"),
    ],
)
def test_unreadable_hours_are_an_error_not_a_guess(hours: str, zone: str) -> None:
    with pytest.raises(BrokerError):
        is_open(replace(SPY, liquid_hours=hours, time_zone=zone), new_york("2026-11-20T10:00:00"))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-20T08:00:00", "2026-11-20T09:30:00"),
        ("2026-11-20T09:30:00", "2026-11-23T09:30:00"),  # opens now: the next one is on Monday
        ("2026-11-25T16:00:00", "2026-11-27T09:30:00"),  # over Thanksgiving
        ("2026-03-07T12:00:00", "2026-03-09T09:30:00"),  # over the change to summer time
    ],
)
def test_next_open(at: str, expected: str) -> None:
    assert next_open(SPY, new_york(at)) == new_york(expected)


def test_next_open_by_ibkr_hours_and_then_the_calendar() -> None:
    short = replace(SPY, liquid_hours="20261120:1100-20261120:1600;20261121:CLOSED;20261122:CLOSED;20261123:CLOSED")
    assert next_open(short, new_york("2026-11-20T08:00:00")) == new_york("2026-11-20T11:00:00")
    assert next_open(short, new_york("2026-11-20T12:00:00")) == new_york("2026-11-24T09:30:00")
    assert next_open(short, new_york("2026-11-20T11:00:00")) == new_york("2026-11-24T09:30:00")  # opens now
    stale = replace(SPY, liquid_hours="20251120:0930-20251120:1600")
    assert next_open(stale, new_york("2026-11-20T12:00:00")) == new_york("2026-11-23T09:30:00")
    assert next_open(replace(EURUSD, liquid_hours=FOREX_HOURS), new_york("2026-11-20T17:00:00")) == new_york(
        "2026-11-22T17:15:00"
    )


@freeze_time("2026-11-20 15:00:00")
def test_what_cannot_be_told_is_not_guessed() -> None:
    unknown = replace(SPY, primary_exchange="NOWHERE")
    now = datetime.now(UTC)
    assert is_open(None, now) is None
    assert is_open(unknown, now) is None
    assert next_open(unknown, now) is None
    assert next_open(replace(unknown, liquid_hours="20261123:0930-20261123:1600"), now) == new_york(
        "2026-11-23T09:30:00"
    )


def test_unknown_calendar_and_dates_out_of_reach_are_errors() -> None:
    with pytest.raises(ConfigError, match="no exchange calendar 'XWRONG'"):
        is_open(None, new_york("2026-11-20T10:00:00"), calendar="XWRONG")
    for calendar in ("XNYS", "CMES"):
        with pytest.raises(ConfigError, match="Check the clock"):
            is_open(None, new_york("2048-06-01T10:00:00"), calendar=calendar)
        with pytest.raises(ConfigError, match="Check the clock"):
            sessions(date(1970, 1, 1), date(1970, 2, 1), calendar)


def test_a_calendar_that_its_library_cannot_make_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, **_: object) -> None:
        raise ValueError("Special dates [...] are not sessions.")

    monkeypatch.setattr("exchange_calendars.get_calendar", broken)
    with pytest.raises(ConfigError, match="cannot make its calendar XICE: Special dates"):
        sessions(date(2026, 11, 2), date(2026, 11, 6), "XICE")


def test_sessions_of_a_week_with_a_holiday_and_an_early_close() -> None:
    week = sessions(date(2026, 11, 21), date(2026, 11, 29), "XNYS")
    assert [s.date.day for s in week] == [23, 24, 25, 27]
    assert week[-1].close == new_york("2026-11-27T13:00:00")
    assert sessions(date(2026, 11, 29), date(2026, 11, 21), "XNYS") == []


def test_sessions_match_twenty_years_of_recorded_history() -> None:
    from arch.data import sp500

    recorded = [day.date() for day in sp500.load().index]
    assert [s.date for s in sessions(recorded[0], recorded[-1], "XNYS")] == recorded


@pytest.mark.parametrize(
    ("spec", "calendar"),
    [
        (InstrumentSpec(symbol="SPY", primary_exchange="ARCA"), "XNYS"),
        (InstrumentSpec(symbol="QQQ", primary_exchange="NASDAQ"), "XNYS"),
        (InstrumentSpec(symbol="RSPX", primary_exchange="REPLAY"), "XNYS"),
        (InstrumentSpec(symbol="VOD", exchange="LSE", currency="GBP"), "XLON"),
        (InstrumentSpec.parse("EUR.USD"), "forex"),
        (InstrumentSpec(symbol="SPY"), ""),  # SMART says nothing about where it is listed
    ],
)
def test_default_calendar(spec: InstrumentSpec, calendar: str) -> None:
    assert default_calendar(spec) == calendar


@settings(max_examples=60)
@given(
    at=moments("1999-01-04", "2026-12-31"),
    calendar=st.sampled_from(["XNYS", "forex", "XTKS", "CMES"]),
)
def test_is_open_and_next_open_agree_with_sessions(at: datetime, calendar: str) -> None:
    around = sessions(at.date() - timedelta(days=20), at.date() + timedelta(days=20), calendar)
    trading = [interval for session in around for interval in session.intervals()]
    assert is_open(None, at, calendar=calendar) is any(start <= at < end for start, end in trading)
    assert next_open(None, at, calendar=calendar) == min(start for start, _ in trading if start > at)
    assert all(first.close <= second.open for first, second in pairwise(around))


@settings(max_examples=60)
@given(at=moments("2026-11-15", "2026-11-30"))
def test_ibkr_hours_that_repeat_the_calendar_change_nothing(at: datetime) -> None:
    text = ";".join(
        f"{s.open.astimezone(NEW_YORK):%Y%m%d:%H%M}-{s.close.astimezone(NEW_YORK):%Y%m%d:%H%M}"
        for s in sessions(date(2026, 11, 18), date(2026, 11, 26), "forex")
    )
    told = replace(EURUSD, liquid_hours=text)
    assert is_open(told, at) is is_open(EURUSD, at)
    assert next_open(told, at) == next_open(EURUSD, at)
