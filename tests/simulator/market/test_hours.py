"""Sessions and IBKR's texts for them, against exchange_calendars and against the product's own parser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import exchange_calendars
import pandas_market_calendars
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.market.hours import (
    EASTERN,
    ExchangeHours,
    ForexHours,
    current,
    hours_text,
    next_open,
)
from airflow_ibkr_plugin.simulator.market.session_tables import _build, _build_in_child, session_tables
from airflow_ibkr_plugin.trading.market_hours import parse_hours

ZONES = {
    "XNYS": "US/Eastern",
    "XTSE": "US/Eastern",
    "XETR": "MET",
    "XLON": "GB-Eire",
    "XSWX": "MET",
    "XTKS": "Japan",
}
MOMENTS = st.integers(
    int(datetime(2000, 1, 3, tzinfo=UTC).timestamp()), int(datetime(2026, 12, 20, tzinfo=UTC).timestamp())
)


@cache
def hours(name: str) -> ExchangeHours:
    return ExchangeHours(name, ZONES[name], 2026)


@cache
def calendar(name: str) -> Any:
    return exchange_calendars.get_calendar(name, start="1999-12-01", end="2027-12-31")


Spans = list[tuple[datetime, datetime]]


@cache
def known_intervals(name: str) -> dict[date, Spans]:
    """What exchange_calendars says, by date."""
    found: dict[date, Spans] = {}
    for row in calendar(name).schedule.itertuples():
        begin, end = row.open.to_pydatetime(), row.close.to_pydatetime()
        if row.break_start == row.break_start:
            found[row.Index.date()] = [(begin, row.break_start.to_pydatetime()), (row.break_end.to_pydatetime(), end)]
        else:
            found[row.Index.date()] = [(begin, end)]
    return found


def intervals(name: str, day: date) -> Spans:
    return known_intervals(name).get(day, [])


@cache
def new_york_elsewhere() -> Spans:
    """What another library says of New York."""
    schedule = pandas_market_calendars.get_calendar("NYSE").schedule("2000-01-01", "2027-01-31")
    return [(row.market_open.to_pydatetime(), row.market_close.to_pydatetime()) for row in schedule.itertuples()]


def test_a_child_process_makes_the_same_tables() -> None:
    names = ["XTSE", "XTKS"]
    assert _build_in_child(names, 2027) == _build(names, 2027)


def test_tables_are_made_once() -> None:
    assert session_tables(["XNYS"], 2029)["XNYS"] is session_tables(["XTSE", "XNYS"], 2029)["XNYS"]


def test_an_unknown_calendar_is_named() -> None:
    with pytest.raises(ConfigError, match=r"NOWHERE.*does not exist"):
        session_tables(["NOWHERE"], 2029)
    with pytest.raises(ValueError, match=r"NOWHERE.*does not exist"):
        _build_in_child(["NOWHERE"], 2029)


def test_a_simulator_at_rest_is_small_and_has_no_pandas() -> None:
    command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", "--port", "0", "--log-level", "ERROR"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "listening"
            running = psutil.Process(process.pid)
            assert running.memory_info().rss < 100e6
            assert not any("pandas" in mapped.path for mapped in running.memory_maps())
        finally:
            process.terminate()


@settings(max_examples=150)
@given(st.sampled_from(sorted(ZONES)), MOMENTS)
def test_liquid_hours_are_those_of_the_calendar(name: str, moment: int) -> None:
    known = hours(name)
    text = hours_text(known, moment, regular=True)
    today = datetime.fromtimestamp(moment, known.zone).date()
    entries = text.split(";")
    assert len(entries) == 6
    parsed = parse_hours(text, known.zone_id)
    expected = [span for n in range(6) for span in intervals(name, today + timedelta(days=n))]
    assert list(parsed.open) == expected
    for n, entry in enumerate(entries):
        day = today + timedelta(days=n)
        assert entry.startswith(f"{day:%Y%m%d}:")
        assert entry.endswith("CLOSED") == (not intervals(name, day))


@settings(max_examples=60)
@given(MOMENTS)
def test_new_york_agrees_with_another_library(moment: int) -> None:
    today = datetime.fromtimestamp(moment, EASTERN).date()
    last = today + timedelta(days=5)
    expected = [span for span in new_york_elsewhere() if today <= span[0].date() <= last]
    assert list(parse_hours(hours_text(hours("XNYS"), moment, regular=True), "US/Eastern").open) == expected


@settings(max_examples=60)
@given(st.sampled_from(sorted(ZONES)), MOMENTS, st.booleans())
def test_what_the_text_says_is_when_it_trades(name: str, moment: int, regular: bool) -> None:
    known = hours(name)
    opened = parse_hours(hours_text(known, moment, regular=regular), known.zone_id).open
    at = datetime.fromtimestamp(moment, UTC)
    inside = any(start <= at < end for start, end in opened)
    assert (current(known, moment, regular=regular) is not None) == inside
    if later := [start for start, _ in opened if start >= at]:
        assert next_open(known, moment, regular=regular) == (moment if inside else int(min(later).timestamp()))


def test_early_closes_and_extended_hours() -> None:
    friday = datetime(2026, 11, 27, 15, tzinfo=UTC).timestamp()
    assert hours_text(hours("XNYS"), friday, regular=True).startswith("20261127:0930-20261127:1300;20261128:CLOSED;")
    assert hours_text(hours("XNYS"), friday, regular=False).startswith("20261127:0400-20261127:1700;20261128:CLOSED;")
    assert hours_text(hours("XETR"), friday, regular=False) == hours_text(hours("XETR"), friday, regular=True)


def test_the_midday_break_of_tokyo() -> None:
    noon = datetime(2026, 11, 20, 3, 0, tzinfo=UTC).timestamp()  # 12:00 in Tokyo
    text = hours_text(hours("XTKS"), noon, regular=True)
    assert text.startswith("20261120:0900-20261120:1130,20261120:1230-20261120:1530;20261121:CLOSED;")
    assert current(hours("XTKS"), noon, regular=True) is None
    assert next_open(hours("XTKS"), noon, regular=True) == noon + 1800


def test_forex_is_open_from_sunday_evening_to_friday() -> None:
    friday = datetime(2026, 11, 20, 16, tzinfo=UTC).timestamp()
    # As recorded from IBKR for EUR.USD: six entries, Saturday closed, Sunday only as Monday's beginning.
    assert hours_text(ForexHours(), friday, regular=True) == (
        "20261119:1715-20261120:1700;20261121:CLOSED;20261122:1715-20261123:1700;20261123:1715-20261124:1700;"
        "20261124:1715-20261125:1700;20261125:1715-20261126:1700"
    )
    assert re.fullmatch(r"(\d{8}:(CLOSED|1715-\d{8}:1700);?){6}", hours_text(ForexHours(), friday, regular=False))
