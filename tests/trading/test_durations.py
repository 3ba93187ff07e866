"""What a duration means, and which requests cover it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.trading.bars import BAR_SIZES
from airflow_ibkr_plugin.trading.durations import Duration, period, periods, requests, window

TUESDAY = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)  # 11:00 in New York


@pytest.mark.parametrize("text", ["", "1Y", "0 D", "1 y", "-1 D", "1 Y ", "1 H", "1234567 D", "all"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("duration", "bar_size", "first", "count"),
    [
        ("1 Y", "1 day", date(2025, 3, 11), 251),  # the forming session is one of the periods
        ("1 M", "1 day", date(2026, 2, 11), 19),
        ("2 W", "1 day", date(2026, 2, 25), 10),
        ("5 D", "1 day", date(2026, 3, 3), 6),  # five complete sessions, and the forming one
        ("5 D", "1 hour", date(2026, 3, 4), 5),
        ("1 D", "1 min", date(2026, 3, 10), 1),
        ("4 W", "1 week", date(2026, 2, 9), 5),  # whole weeks
        ("3 M", "1 month", date(2025, 12, 1), 4),
    ],
)
def test_window(duration: str, bar_size: str, first: date, count: int) -> None:
    start, found = window(Duration.parse(duration), TUESDAY, "XNYS", bar_size)
    assert (found[0].date, len(found)) == (first, count)
    assert start == found[0].open


def test_seconds_are_seconds_of_trading() -> None:
    start, found = window(Duration.parse("7200 S"), TUESDAY, "XNYS", "5 mins")  # 5,400 seconds after the open
    assert start == datetime(2026, 3, 9, 19, 30, tzinfo=UTC)
    assert len(found) == 2


def test_days_over_holidays_and_before_the_default_calendar() -> None:
    until = datetime(1999, 7, 6, 22, 0, tzinfo=UTC)  # Monday the 5th was a holiday
    _, found = window(Duration.parse("2 D"), until, "XNYS", "1 day")
    assert [s.date for s in found] == [date(1999, 7, 2), date(1999, 7, 6)]


def test_wrong_combinations() -> None:
    with pytest.raises(ConfigError, match="too short"):
        window(Duration.parse("3600 S"), TUESDAY, "XNYS", "1 day")
    with pytest.raises(ConfigError, match="longer than any history"):
        window(Duration.parse("2026 Y"), TUESDAY, "XNYS", "1 day")
    with pytest.raises(ConfigError, match="knows"):
        window(Duration.parse("60 Y"), TUESDAY, "XNYS", "1 day")


@pytest.mark.parametrize(
    ("duration", "bar_size", "asked"),
    [
        ("1 Y", "1 day", ["254 D"]),
        ("5 Y", "1 day", ["6 Y"]),  # more than 365 days go in years
        ("2 D", "1 min", ["1 D", "1 D"]),
        ("2 W", "5 mins", ["5 D", "5 D"]),
        ("1 D", "5 mins", ["5700 S"]),
        ("3600 S", "5 secs", ["30 S", "3600 S"]),
    ],
)
def test_requests_stay_within_what_ibkr_serves_at_once(duration: str, bar_size: str, asked: list[str]) -> None:
    start, found = window(Duration.parse(duration), TUESDAY, "XNYS", bar_size)
    assert [request.duration for request in requests(start, TUESDAY, found, bar_size)] == asked


def test_nothing_to_ask_where_nothing_trades() -> None:
    saturday = datetime(2026, 3, 7, 12, 0, tzinfo=UTC)
    assert (
        requests(
            saturday,
            saturday + timedelta(hours=3),
            periods(date(2026, 3, 2), date(2026, 3, 13), "XNYS", "1 hour"),
            "1 hour",
        )
        == []
    )


@settings(max_examples=100)
@given(
    bar_size=st.sampled_from([size for size in BAR_SIZES if BAR_SIZES[size] < timedelta(days=1)]),
    hours=st.integers(1, 24 * 40),
    calendar=st.sampled_from(["XNYS", "forex", "XTKS"]),
    minute=st.integers(0, 60 * 24 * 7),
)
def test_intraday_requests_cover_all_trading_time_of_a_stretch(
    bar_size: str, hours: int, calendar: str, minute: int
) -> None:
    until = TUESDAY + timedelta(minutes=minute)
    start = until - timedelta(hours=min(hours, 48) if "secs" in bar_size else hours)
    found = periods(start.date() - timedelta(days=3), until.date() + timedelta(days=2), calendar, bar_size)
    asked = requests(start, until, found, bar_size)
    for session in found:
        for opening, close in session.intervals():
            at, end = max(opening, start), min(close, until)
            for request in sorted(asked, key=lambda request: request.start):
                if request.start <= at < request.end:
                    at = request.end
            assert at >= end


@given(day=st.dates(date(1999, 1, 1), date(2026, 12, 31)), bar_size=st.sampled_from(["1 day", "1 week", "1 month"]))
def test_periods_contain_their_days(day: date, bar_size: str) -> None:
    first, last = period(day, bar_size)
    assert first <= day <= last
    assert period(first, bar_size) == period(last, bar_size) == (first, last)
