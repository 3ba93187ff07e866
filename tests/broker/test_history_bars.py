"""Which bars a request means: their sizes, the market's hours, the broker's clock; and what cannot be asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.history import BarsRequest, BarsResult
from airflow_ibkr_plugin.errors import BadBars, ConfigError
from airflow_ibkr_plugin.trading.instruments import Instrument

Fetch = Callable[..., BarsResult]
TUESDAY = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)  # 11:00 in New York, where the simulated clock starts


def test_forex_over_the_weekend_and_christmas(fetch: Fetch, broker: Any, instruments: dict[str, Instrument]) -> None:
    pair = instruments["EUR.USD"]
    daily = fetch(BarsRequest(what="MIDPOINT"), pair)
    assert {bar.time.weekday() for bar in daily.bars} == {0, 1, 2, 3, 4}
    hourly = fetch(BarsRequest(what="MIDPOINT", bar_size="1 hour", duration="5 D"), pair)
    assert hourly.last == TUESDAY - timedelta(hours=1)
    asked = len(broker.asked)
    fetch(BarsRequest(what="MIDPOINT", bar_size="1 hour", duration="5 D"), pair)
    fetch(BarsRequest(what="MIDPOINT"), pair)
    assert len(broker.asked) == asked


@pytest.mark.parametrize(
    ("bar_size", "duration", "count"),
    [
        ("1 week", "1 Y", 52),
        ("1 month", "2 Y", 24),
        ("4 hours", "10 D", 18),
        ("3 hours", "40 D", 3 * 39),  # in two requests, each ends with a bar that the close cuts short
        ("1 hour", "10 D", 65),
        ("5 mins", "2 W", 9 * 78 + 18),
        ("1 min", "2 D", 390 + 90),
        ("30 secs", "3600 S", 120),
        ("5 secs", "7200 S", 1440),
    ],
)
def test_every_kind_of_bar_is_complete_and_cached(
    fetch: Fetch, broker: Any, bar_size: str, duration: str, count: int
) -> None:
    broker.clock = TUESDAY
    request = BarsRequest(bar_size=bar_size, duration=duration)
    first = fetch(request)
    assert (len(first.bars), first.report.warnings) == (count, ())
    asked = len(broker.asked)
    assert fetch(request).bars == first.bars
    assert len(broker.asked) == asked


def test_intraday_tail(fetch: Fetch, broker: Any) -> None:
    request = BarsRequest(bar_size="5 mins", duration="2 D")
    broker.clock = TUESDAY - timedelta(minutes=30)
    fetch(request)
    broker.clock = TUESDAY - timedelta(minutes=26)
    fetch(request)  # nothing new is complete
    assert len(broker.asked) == 1
    broker.clock = TUESDAY - timedelta(minutes=19)
    result = fetch(request)
    assert result.last == TUESDAY - timedelta(minutes=25)
    assert [duration for duration, _ in broker.asked[1:]] == ["1860 S"]
    assert result.fetched == 5  # two new, three of overlap


def test_a_bar_that_has_ended_just_now_may_still_be_under_way(fetch: Fetch, broker: Any) -> None:
    request = BarsRequest(bar_size="5 mins", duration="1 D")
    broker.tamper = lambda bars: [bar for bar in bars if bar.time < TUESDAY - timedelta(minutes=5)]
    broker.clock = TUESDAY + timedelta(seconds=29)
    assert fetch(request).last == TUESDAY - timedelta(minutes=10)
    broker.clock = TUESDAY + timedelta(seconds=30)
    with pytest.raises(BadBars, match="1 more were complete"):
        fetch(request)


def test_extended_hours(fetch: Fetch) -> None:
    result = fetch(BarsRequest(bar_size="1 hour", duration="3 D", use_rth=False))
    assert {bar.time.hour for bar in result.bars} > {13, 14, 20, 23}


def test_a_clock_that_was_set_back(fetch: Fetch, broker: Any) -> None:
    fetch()
    broker.clock = datetime(2026, 2, 2, 22, 0, tzinfo=UTC)
    result = fetch(BarsRequest(duration="1 M"))
    assert result.last == datetime(2026, 2, 2, tzinfo=UTC)
    assert len(broker.asked) == 1


def test_a_clock_that_was_set_back_asks_for_nothing_of_the_future(fetch: Fetch, broker: Any) -> None:
    broker.clock = datetime(2026, 3, 9, 22, 0, tzinfo=UTC)
    fetch(BarsRequest(duration="3 D"))
    broker.clock = datetime(2026, 3, 4, 22, 0, tzinfo=UTC)
    assert fetch(BarsRequest(duration="3 D")).last == datetime(2026, 3, 4, tzinfo=UTC)
    assert [end for _, end in broker.asked[1:]] == [None]  # the broker's now


def test_the_exchanges_own_calendar_comes_first(fetch: Fetch) -> None:
    assert len(fetch(BarsRequest(duration="5 D", calendar="XTKS")).bars) == 5


def test_an_end_in_the_future_is_now(fetch: Fetch) -> None:
    later = fetch(BarsRequest(duration="5 D", end=TUESDAY + timedelta(days=30)))
    assert later.last == datetime(2026, 3, 9, tzinfo=UTC)
    assert later.bars == fetch(BarsRequest(duration="5 D")).bars


def test_a_bar_of_all_hours_is_complete_when_extended_trading_ends(fetch: Fetch, broker: Any) -> None:
    broker.clock = datetime(2026, 3, 7, 0, 59, 59, tzinfo=UTC)  # Friday, 19:59:59 in New York
    assert fetch(BarsRequest(duration="5 D", use_rth=False)).last == datetime(2026, 3, 5, tzinfo=UTC)
    broker.clock = datetime(2026, 3, 7, 1, 0, tzinfo=UTC)
    assert fetch(BarsRequest(duration="5 D", use_rth=False)).last == datetime(2026, 3, 6, tzinfo=UTC)


def test_too_many_requests_are_refused_before_the_first(fetch: Fetch, broker: Any) -> None:
    with pytest.raises(ConfigError, match="requests of IBKR"):
        fetch(BarsRequest(bar_size="1 secs", duration="20 D"))
    assert broker.asked == []


def test_what_cannot_be_checked_is_refused(fetch: Fetch, spy: Instrument) -> None:
    nowhere = replace(spy, primary_exchange="NOWHERE")
    with pytest.raises(ConfigError, match="no exchange calendar is known for NOWHERE"):
        fetch(BarsRequest(), nowhere)
    assert fetch(BarsRequest(calendar="XNYS"), nowhere).bars
    with pytest.raises(ConfigError, match="is no bar size"):
        fetch(BarsRequest(bar_size="7 mins"))
