"""What IBKR refuses in a request for history, and how it reads times."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.market.history_query import (
    BadRequest,
    bar_stamp,
    duration_start,
    lacks_zone,
    parse_moment,
    parse_query,
    stamp,
)

NOON = datetime(2026, 11, 20, 17, 0, tzinfo=UTC).timestamp()
ASKED = {
    "barSize": "1 day",
    "duration": "1 D",
    "whatToShow": "TRADES",
    "formatDate": 1,
    "endDateTime": "",
    "useRTH": True,
    "keepUpToDate": False,
}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"barSize": "7 mins"}, "bar size setting is invalid. Legal ones are: 1 secs, 5 secs"),
        ({"barSize": "1 sec"}, "bar size setting is invalid"),
        ({"barSize": "1 hours"}, "bar size setting is invalid"),
        ({"duration": ""}, "duration not specified"),
        ({"duration": "1 X"}, r"integer\{SPACE\}unit"),
        ({"duration": "1D"}, r"integer\{SPACE\}unit"),
        ({"duration": "0 D"}, "duration is invalid"),
        ({"duration": "29 S"}, "duration is invalid"),
        ({"duration": "86401 S"}, "greater than 86400 seconds"),
        ({"duration": "366 D"}, "365 days must be made in years"),
        ({"duration": "53 W"}, "52 weeks must be made in years"),
        ({"duration": "13 M"}, "12 months must be made in years"),
        ({"duration": "69 Y"}, "duration is invalid"),
        ({"whatToShow": "YIELD"}, "What to show value of YIELD rejected"),
        ({"whatToShow": ""}, "What to show value of  rejected"),
        ({"formatDate": 0}, "Date formatting selection of 0 rejected"),
        ({"whatToShow": "ADJUSTED_LAST", "endDateTime": "20261119-21:00:00"}, "not supported with adjusted last"),
        ({"whatToShow": "ADJUSTED_LAST", "barSize": "1W"}, "Multi day bar size"),
        ({"keepUpToDate": True, "endDateTime": "20261119-21:00:00"}, "not supported with live updates"),
        ({"keepUpToDate": True, "whatToShow": "BID_ASK"}, "Source price not supported"),
        ({"whatToShow": "SCHEDULE", "barSize": "1 hour"}, "Only daily resolution"),
    ],
)
def test_what_ibkr_would_not_validate(changes: dict[str, Any], why: str) -> None:
    parse_query(ASKED, NOON)
    with pytest.raises(BadRequest, match=why) as refused:
        parse_query(ASKED | changes, NOON)
    assert refused.value.code == 321


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "20261119",
        "20261120 10:00:00 Mars/Olympus",
        "20261120 10:00:00 America",
        "00010101-00:00:00",
        "99991231-23:59:59",
        "20261340 10:00:00",
        "20261119-25:00:00",
        "20261119-21:00:00 UTC",
        "20261119 21:00",
    ],
)
def test_times_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadRequest, match="End Date/Time: The date, time, or time-zone entered is invalid") as refused:
        parse_query(ASKED | {"endDateTime": text}, NOON)
    assert refused.value.code == 10314


@pytest.mark.parametrize(
    ("text", "expected", "zoned"),
    [
        ("20261119 16:00:00 US/Eastern", datetime(2026, 11, 19, 21, tzinfo=UTC), True),
        ("20261119 22:00:00 MET", datetime(2026, 11, 19, 21, tzinfo=UTC), True),
        ("20261119 16:00:00", datetime(2026, 11, 19, 21, tzinfo=UTC), False),
        ("20261119  16:00:00", datetime(2026, 11, 19, 21, tzinfo=UTC), False),
        ("20261119-21:00:00", datetime(2026, 11, 19, 21, tzinfo=UTC), True),
        ("20261119 21:00:00 UTC", datetime(2026, 11, 19, 21, tzinfo=UTC), True),
        ("10:00:00 US/Eastern", datetime(2026, 11, 20, 15, tzinfo=UTC), True),
        ("20271119 16:00:00", datetime.fromtimestamp(NOON + 1, UTC), False),
    ],
)
def test_end_times(text: str, expected: datetime, zoned: bool) -> None:
    assert parse_query(ASKED | {"endDateTime": text}, NOON).end == expected.timestamp()
    assert lacks_zone(text) is not zoned


def test_names_that_mean_the_same() -> None:
    for text, size in (("1W", "1 week"), ("1 week", "1 week"), ("1M", "1 month"), ("1 Day", "1 day")):
        assert parse_query(ASKED | {"barSize": text}, NOON).bar_size == size
    assert parse_query(ASKED | {"duration": "3600", "barSize": "1 min"}, NOON).duration == (3600, "S")
    assert parse_query(ASKED | {"duration": "2 w"}, NOON).duration == (2, "W")


def test_clients_before_165_cannot_read_schedules() -> None:
    assert parse_query(ASKED | {"whatToShow": "SCHEDULE"}, NOON, 165).what == "SCHEDULE"
    with pytest.raises(BadRequest, match="SCHEDULE rejected"):
        parse_query(ASKED | {"whatToShow": "SCHEDULE"}, NOON, 164)


@given(st.integers(300_000_000, 2_000_000_000), st.sampled_from(["US/Eastern", "Japan", "MET", "UTC"]))
def test_what_is_written_is_read_back(moment: int, zone: str) -> None:
    text = stamp(moment, 1, ZoneInfo(zone), zone)
    read = parse_moment(text, NOON, "End")
    # An hour that the clocks run through twice is written the same way twice.
    assert read in (moment, moment - 3600)
    assert stamp(moment, 2, ZoneInfo(zone), zone) == str(moment)
    assert stamp(moment, 3, ZoneInfo(zone), zone) == text[4:]
    assert stamp(moment, 1, ZoneInfo(zone), "") == text.removesuffix(f" {zone}").replace(" ", "  ")
    assert bar_stamp(moment, date(2026, 11, 20), 2, ZoneInfo(zone), zone) == "20261120"


@pytest.mark.parametrize(
    ("duration", "start"),
    [
        ((3600, "S"), datetime(2026, 3, 31, 15, tzinfo=UTC)),
        ((2, "D"), datetime(2026, 3, 29, 16, tzinfo=UTC)),
        ((4, "W"), datetime(2026, 3, 3, 17, tzinfo=UTC)),  # by the wall clock: daylight saving time began
        ((1, "M"), datetime(2026, 2, 28, 17, tzinfo=UTC)),
        ((2, "Y"), datetime(2024, 3, 31, 16, tzinfo=UTC)),
    ],
)
def test_where_a_duration_begins(duration: tuple[int, str], start: datetime) -> None:
    end = datetime(2026, 3, 31, 16, tzinfo=UTC).timestamp()
    assert duration_start(end, duration, ZoneInfo("US/Eastern")) == start.timestamp()
