"""Unmodified ib_insync asks for history: bars, schedules, ticks, the first of them; and is refused."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

OPEN = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
EURO = ibi.Forex("EURUSD")
Errors = list[tuple[int, int, str]]


@pytest.fixture
def apple(ib: ibi.IB) -> ibi.Contract:
    return ib.qualifyContracts(ibi.Stock("AAPL", "SMART", "USD"))[0]


@pytest.fixture
def errors(ib: ibi.IB) -> Errors:
    """Request id, code and text of each error."""
    seen: Errors = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((request, code, text))
    return seen


def bars(ib: ibi.IB, contract: ibi.Contract, *asked: Any, **more: Any) -> ibi.BarDataList:
    """`asked`: duration, bar size, what to show; regular hours unless told."""
    return ib.reqHistoricalData(contract, more.pop("end", ""), *asked, **{"useRTH": True} | more)


def connected(raw: Any, simulator: SimulatorHandle, versions: str = "v157..176") -> Any:
    """A raw client behind its welcome."""
    client = raw(simulator, 7, versions)
    for _ in range(3):
        client.until(4)
    return client


def test_bars(ib: ibi.IB, apple: ibi.Contract) -> None:
    days = bars(ib, apple, "1 Y", "1 day", "TRADES")
    assert (len(days), days[-1].date) == (251, date(2026, 11, 20))
    hours = bars(ib, apple, "2 D", "1 hour", "TRADES")
    assert str(hours[0].date) == "2026-11-19 09:30:00-05:00"
    extended = bars(ib, apple, "1 D", "1 hour", "TRADES", useRTH=False)
    assert str(extended[0].date) == "2026-11-20 04:00:00-05:00"
    before = bars(ib, apple, "3 D", "1 day", "TRADES", end=datetime(2026, 11, 18, 21, 0, tzinfo=UTC))
    assert [bar.date for bar in before] == [date(2026, 11, day) for day in (16, 17, 18)]


def test_dates_as_text_and_as_seconds(ib: ibi.IB, apple: ibi.Contract) -> None:
    text = bars(ib, apple, "2 D", "1 hour", "TRADES", formatDate=1)
    seconds = bars(ib, apple, "2 D", "1 hour", "TRADES", formatDate=2)
    assert seconds[0].date == datetime(2026, 11, 19, 14, 30, tzinfo=UTC) == text[0].date
    assert [bar.close for bar in text] == [bar.close for bar in seconds]
    # Days carry a date whatever the format.
    assert bars(ib, apple, "1 D", "1 day", "TRADES", formatDate=2)[0].date == date(2026, 11, 20)


@pytest.mark.parametrize("size", ["1 secs", "5 secs", "10 secs", "15 secs", "30 secs", "1 min", "2 mins", "3 mins",
                                  "5 mins", "10 mins", "15 mins", "20 mins", "30 mins", "1 hour"])  # fmt: skip
def test_every_intraday_size_covers_the_same_time(ib: ibi.IB, apple: ibi.Contract, size: str) -> None:
    count, unit = size.split()
    length = int(count) * {"secs": 1, "min": 60, "mins": 60, "hour": 3600}[unit]
    made = bars(ib, apple, "1800 S", size, "TRADES", end=OPEN)
    assert len(made) == -(-1800 // length)
    minutes = bars(ib, apple, f"{length * len(made)} S", "1 min", "TRADES", end=OPEN)
    assert (made[0].date, made[0].open, made[-1].close) == (minutes[0].date, minutes[0].open, minutes[-1].close)
    assert max(bar.high for bar in made) == max(minute.high for minute in minutes)
    assert sum(bar.volume for bar in made) == sum(minute.volume for minute in minutes)


@pytest.mark.parametrize(
    ("duration", "size", "count"),
    [("1 D", "2 hours", 2), ("2 D", "3 hours", 4), ("1 W", "4 hours", 9), ("1 W", "8 hours", 5), ("1 M", "1 day", 23),
     ("12 M", "1 week", 53), ("1 Y", "1 month", 13), ("86400 S", "1 hour", 27)],
)  # fmt: skip
def test_durations_and_larger_sizes(ib: ibi.IB, apple: ibi.Contract, duration: str, size: str, count: int) -> None:
    assert len(bars(ib, apple, duration, size, "TRADES")) == count


def test_what_to_show(ib: ibi.IB, apple: ibi.Contract) -> None:
    made = {
        what: bars(ib, apple, "1 D", "30 mins", what)[0]
        for what in ("TRADES", "MIDPOINT", "BID", "ASK", "BID_ASK", "ADJUSTED_LAST")
    }
    assert made["BID"].close < made["MIDPOINT"].close < made["ASK"].close
    assert made["TRADES"] == made["ADJUSTED_LAST"]
    # Average bid, highest ask, lowest bid, average ask.
    both = made["BID_ASK"]
    assert (both.high, both.low) == (made["ASK"].high, made["BID"].low)
    assert made["BID"].low <= both.open < both.close <= made["ASK"].high
    for what in ("MIDPOINT", "BID", "ASK", "BID_ASK"):
        assert (made[what].volume, made[what].average, made[what].barCount) == (-1, -1, -1)


@pytest.mark.parametrize(
    ("contract", "asked", "more", "code", "why"),
    [
        ("apple", ("1 D", "7 mins", "TRADES"), {}, 321, "Historical data bar size setting is invalid"),
        ("apple", ("10 S", "1 secs", "TRADES"), {}, 321, "Historical data requested duration is invalid"),
        ("apple", ("400 D", "1 day", "TRADES"), {}, 321, "365 days must be made in years"),
        ("apple", ("1 D", "1 hour", "FOO"), {}, 321, "What to show value of FOO rejected"),
        ("apple", ("1 D", "1 hour", "ADJUSTED_LAST"), {"end": OPEN}, 321, "End date not supported with adjusted last"),
        ("apple", ("1 D", "1 hour", "TRADES"), {"end": "yesterday"}, 10314, "End Date/Time: The date, time"),
        ("apple", ("1 D", "1 day", "TRADES"), {"end": "19800101-00:00:00"}, 162, "HMDS query returned no data: AAPL@"),
        ("apple", ("1 D", "1 secs", "TRADES"), {}, 162, "Time length exceed max."),
        ("apple", ("1 D", "1 day", "HISTORICAL_VOLATILITY"), {}, 162, "No historical market data for AAPL/STK@SMART"),
        ("apple", ("1 D", "1 day", "OPTION_IMPLIED_VOLATILITY"), {}, 162, "No historical market data for AAPL/STK"),
        ("euro", ("1 D", "1 hour", "TRADES"), {}, 162, "No historical market data for EUR/CASH@FXSUBPIP Last"),
        ("nowhere", ("1 D", "1 hour", "TRADES"), {}, 321, "Please enter exchange"),
        ("unknown", ("1 D", "1 hour", "TRADES"), {}, 200, "No security definition has been found"),
        ("ambiguous", ("1 D", "1 hour", "TRADES"), {}, 200, "The contract description specified for SHOP is ambiguous"),
    ],
)  # fmt: skip
def test_what_is_refused(
    ib: ibi.IB, apple: ibi.Contract, errors: Errors, contract: str, asked: Any, more: Any, code: int, why: str
) -> None:
    contracts = {
        "apple": apple,
        "euro": EURO,
        "nowhere": ibi.Contract(conId=265598),
        "unknown": ibi.Stock("NOSUCH", "SMART", "USD"),
        "ambiguous": ibi.Stock("SHOP", "SMART"),
    }
    assert not bars(ib, contracts[contract], *asked, **more)
    assert [(found, why in text) for _, found, text in errors] == [(code, True)], errors
    if code == 162:
        assert errors[0][2].startswith("Historical Market Data Service error message:")


def test_an_answer_says_what_it_covers(simulator: SimulatorHandle, raw: Any) -> None:
    client = connected(raw, simulator)
    fields = (265598, "", "STK", "", "", "", "", "SMART", "", "USD", "", "")
    client.send(20, 1, *fields, 0, "", "1 day", "1 W", 1, "TRADES", 1, 0, "")
    assert client.until(17)[1:5] == ["1", "20261113 11:00:00 US/Eastern", "20261120 11:00:00 US/Eastern", "5"]
    client.send(20, 2, *fields, 0, "20261119-21:00:00", "1 day", "1 D", 1, "TRADES", 1, 0, "")
    assert client.until(17)[1:5] == ["2", "20261118 16:00:00 US/Eastern", "20261119 16:00:00 US/Eastern", "1"]


def test_an_end_without_a_zone_is_warned_of_and_answered(ib: ibi.IB, apple: ibi.Contract, errors: Errors) -> None:
    made = bars(ib, apple, "1 D", "1 day", "TRADES", end="20261118 16:00:00")
    assert [bar.date for bar in made] == [date(2026, 11, 18)]
    assert [code for _, code, _ in errors] == [2174]


def test_bars_of_up_to_30_seconds_are_kept_for_six_months(ib: ibi.IB, apple: ibi.Contract, errors: Errors) -> None:
    end = datetime(2026, 4, 1, 18, tzinfo=UTC)
    assert bars(ib, apple, "1800 S", "1 min", "TRADES", end=end)
    assert not bars(ib, apple, "1800 S", "30 secs", "TRADES", end=end)
    assert [code for _, code, _ in errors] == [162]


# --- kept up to date ----------------------------------------------------------------------------


def test_bars_that_are_kept_up_to_date(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, until: Any, errors: Errors
) -> None:
    simulator.control("clock", set="2026-11-20T16:00:30+00:00")
    kept = bars(ib, apple, "1800 S", "1 min", "TRADES", keepUpToDate=True)
    news: list[bool] = []
    kept.updateEvent += lambda made, new: news.append(new)
    first, count = kept[-1], len(kept)
    simulator.control("clock", advance=20)
    until(lambda: news == [False])
    grown = kept[-1]
    assert (grown.date, grown.open) == (first.date, first.open)
    assert grown.volume > first.volume
    assert grown.low <= min(grown.close, first.low)
    assert max(grown.close, first.high) <= grown.high
    simulator.control("clock", advance=130)
    until(lambda: len(kept) == count + 3 or None)
    assert news == [False, False, True, True, True] or news[1:] == [False, True, True]
    # What came live is what history says.
    again = bars(ib, apple, "1800 S", "1 min", "TRADES")
    assert list(kept)[-4:-1] == list(again)[-4:-1]
    ib.cancelHistoricalData(kept)
    until(lambda: errors)
    assert errors[0][1:] == (
        162,
        f"Historical Market Data Service error message:API historical data query cancelled: {kept.reqId}",
    )
    simulator.control("clock", advance=120)
    ib.reqCurrentTime()
    assert len(kept) == count + 3


@pytest.mark.parametrize(("size", "duration", "step"), [("1 day", "5 D", 86400), ("1 hour", "1 D", 7200)])
def test_larger_bars_are_kept_too(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, until: Any, size: str, duration: str, step: int
) -> None:
    simulator.control("clock", set="2026-11-17T16:00:00+00:00")
    kept = bars(ib, apple, duration, size, "MIDPOINT", keepUpToDate=True)
    last = kept[-1].date
    simulator.control("clock", advance=step)
    until(lambda: kept[-1].date > last)
    assert [bar.date for bar in kept] == sorted({bar.date for bar in kept})


def test_live_updates_have_no_end_and_one_price(ib: ibi.IB, apple: ibi.Contract, errors: Errors) -> None:
    assert not bars(ib, apple, "1 D", "1 hour", "TRADES", end=OPEN, keepUpToDate=True)
    assert not bars(ib, apple, "1 D", "1 hour", "BID_ASK", keepUpToDate=True)
    assert ["live updates" in text for _, _, text in errors] == [True, True]


def test_cancelling(ib: ibi.IB, apple: ibi.Contract, raw: Any, simulator: SimulatorHandle) -> None:
    client = connected(raw, simulator)
    client.send(25, 1, 77)
    assert client.until(4)[2:5] == ["77", "366", "No historical data query found for ticker id:77"]
    # One that has not been answered yet is answered by its cancellation alone.
    fields = (265598, "", "STK", "", "", "", "", "SMART", "", "USD", "", "")
    ask = (20, 78, *fields, 0, "", "1 min", "1 M", 1, "TRADES", 1, 0, "")
    client.send(*ask)
    client.send(*ask)
    client.send(25, 1, 78)
    client.send(49, 1)
    answers = [client.read(), client.read(), client.read()]
    assert [(answer[0], answer[3]) for answer in answers[:2]] == [("4", "322"), ("4", "162")]
    assert answers[0][4] == (
        "Error processing request.-'bM' : cause - Duplicate ticker ID for API historical data query"
    )
    assert answers[2][0] == "49"


# --- schedules, head time stamps, ticks -------------------------------------------------------------


def test_schedules(ib: ibi.IB, apple: ibi.Contract) -> None:
    schedule = ib.reqHistoricalSchedule(apple, 3, "20261127-22:00:00", useRTH=True)
    assert schedule.timeZone == "US/Eastern"
    assert [session.refDate for session in schedule.sessions] == ["20261118", "20261119", "20261120"]
    extended = ib.reqHistoricalSchedule(apple, 1, useRTH=False)
    assert (extended.startDateTime, extended.endDateTime) == ("20261120-04:00:00", "20261120-20:00:00")


@pytest.mark.parametrize(
    ("version", "zoned", "lot"), [(157, False, 100), (173, False, 100), (174, True, 100), (175, True, 1)]
)
def test_older_clients_are_told_times_without_zones_and_volumes_in_lots(
    simulator: SimulatorHandle, raw: Any, version: int, zoned: bool, lot: int
) -> None:
    fields = (265598, "", "STK", "", "", "", "", "SMART", "", "USD", "", "")
    answers = []
    for client_id, highest in ((1, version), (2, 176)):
        client = raw(simulator, client_id, f"v157..{highest}")
        client.send(20, 1, *fields, 0, "", "30 mins", "3600 S", 1, "TRADES", 1, 0, "")
        answers.append(client.until(17))
    older, newer = answers
    assert newer[5].endswith(" US/Eastern")
    times = [newer[at] for at in (2, 3, 5)]
    if not zoned:
        times = [time.removesuffix(" US/Eastern").replace(" ", "  ") for time in times]
    assert [older[at] for at in (2, 3, 5)] == times
    # Clients below 163 read whole numbers only.
    shares = int(newer[10])
    assert float(older[10]) == (shares // lot if version < 163 else shares / lot)
    assert older[6:10] == newer[6:10]


def test_schedules_need_a_client_that_reads_them(simulator: SimulatorHandle, raw: Any) -> None:
    client = connected(raw, simulator, "v157..164")
    fields = (265598, "", "STK", "", "", "", "", "SMART", "", "USD", "", "")
    client.send(20, 1, *fields, 0, "", "1 day", "1 D", 1, "SCHEDULE", 1, 0, "")
    assert client.until(4)[2:4] == ["1", "321"]


def test_where_history_begins(ib: ibi.IB, apple: ibi.Contract, errors: Errors) -> None:
    first = ib.reqHeadTimeStamp(apple, "TRADES", useRTH=True, formatDate=2)
    assert first == datetime(1990, 1, 2, 14, 30, tzinfo=UTC)
    assert ib.reqHeadTimeStamp(apple, "TRADES", useRTH=False) == datetime(1990, 1, 2, 9, 0)  # noqa: DTZ001
    assert bars(ib, apple, "1 D", "1 day", "TRADES", end=first.replace(hour=23))
    assert not bars(ib, apple, "1 D", "1 day", "TRADES", end=first)
    assert not ib.reqHeadTimeStamp(EURO, "TRADES", useRTH=True)
    assert errors[-1][1:] == (162, "Historical Market Data Service error message:No head time stamp")


def test_ticks(ib: ibi.IB, apple: ibi.Contract, errors: Errors) -> None:
    trades = ib.reqHistoricalTicks(apple, "", OPEN, 100, "TRADES", useRth=True)
    assert (len(trades), trades[-1].time) == (100, datetime(2026, 11, 20, 15, 59, 59, tzinfo=UTC))
    minute = bars(ib, apple, "60 S", "1 min", "TRADES", end=OPEN)[0]
    last_minute = [tick.price for tick in trades[-60:]]
    assert (last_minute[0], max(last_minute), min(last_minute), last_minute[-1]) == (
        minute.open, minute.high, minute.low, minute.close,
    )  # fmt: skip
    start = datetime(2026, 11, 19, 14, 0, tzinfo=UTC)
    quotes = ib.reqHistoricalTicks(apple, start, "", 10, "BID_ASK", useRth=True)
    assert (len(quotes), quotes[0].time) == (10, datetime(2026, 11, 19, 14, 30, tzinfo=UTC))
    assert all(tick.priceBid < tick.priceAsk and tick.sizeBid > 0 for tick in quotes)
    assert all((one.priceBid, one.priceAsk) != (two.priceBid, two.priceAsk) for one, two in itertools.pairwise(quotes))
    middles = ib.reqHistoricalTicks(EURO, start, "", 5, "MIDPOINT", useRth=False, ignoreSize=True)
    assert len(middles) == 5
    assert not errors
    # Nothing later than the clock.
    assert not ib.reqHistoricalTicks(apple, datetime(2026, 11, 20, 16, 0, 1, tzinfo=UTC), "", 5, "TRADES", useRth=True)
    for wrong in (
        ("", "", 10, "TRADES"),
        (start, OPEN, 10, "TRADES"),
        (start, "", 1001, "TRADES"),
        (start, "", 9, "BID"),
    ):
        assert not ib.reqHistoricalTicks(apple, *wrong, useRth=True)
    assert [code for _, code, _ in errors] == [321] * 4


# --- pacing ---------------------------------------------------------------------------------------------


def test_small_bars_are_paced_and_larger_ones_are_not(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, errors: Errors
) -> None:
    for _ in range(3):
        assert bars(ib, apple, "1 D", "1 min", "TRADES")
    assert bars(ib, apple, "1800 S", "5 secs", "TRADES")
    assert not bars(ib, apple, "1800 S", "5 secs", "TRADES")
    assert errors[-1][1:] == (
        162, "Historical Market Data Service error message:Historical data request pacing violation",
    )  # fmt: skip
    simulator.control("pacing_rules", on=False)
    assert bars(ib, apple, "1800 S", "5 secs", "TRADES")
    assert bars(ib, apple, "1800 S", "5 secs", "TRADES")


def test_six_of_one_series_are_too_many_for_all_clients_together(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, connect: Callable[..., ibi.IB], errors: Errors
) -> None:
    simulator.control("pacing_rules", on=True)
    other = connect(simulator, 2)
    asked = [f"{seconds} S" for seconds in range(60, 66)]
    found = ib.run(
        _at_once([(client, apple, duration) for client, duration in zip([ib, other] * 3, asked, strict=True)])
    )
    assert sorted(map(bool, found)) == [False] + [True] * 5
    assert bars(ib, apple, "60 S", "5 secs", "MIDPOINT")


def test_fifty_requests_may_be_open(
    simulator: SimulatorHandle,
    ib: ibi.IB,
    apple: ibi.Contract,
    connect: Callable[..., ibi.IB],
    errors: Errors,
    until: Any,
) -> None:
    other = connect(simulator, 2)
    for client, requests in ((other, range(100, 120)), (ib, range(200, 231))):
        for request in requests:
            client.client.reqHistoricalData(request, apple, "", "1 D", "1 day", "TRADES", True, 1, True, [])
        client.reqCurrentTime()
    until(lambda: errors)
    too_fast = "Historical Market Data Service error message:Historical data request pacing violation"
    assert errors == [(230, 162, too_fast)]
    other.disconnect()
    until(lambda: simulator.control("status")["clients"] == [1])
    assert bars(ib, apple, "1 D", "1 day", "TRADES")


async def _at_once(asked: list[tuple[ibi.IB, ibi.Contract, str]]) -> list[Any]:
    requests = (
        client.reqHistoricalDataAsync(contract, "", duration, "5 secs", "TRADES", True)
        for client, contract, duration in asked
    )
    return await asyncio.gather(*requests)
