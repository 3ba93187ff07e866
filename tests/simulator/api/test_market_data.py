"""Unmodified ib_insync asks for quotes, real-time bars and single ticks: live, frozen, delayed, and not subscribed."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
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


def day(ib: ibi.IB, contract: ibi.Contract, end: Any = "", what: str = "TRADES") -> Any:
    return ib.reqHistoricalData(contract, end, "1 D", "1 day", what, False)[0]


# --- snapshots and streams --------------------------------------------------------------------------


def test_a_snapshot_agrees_with_history(ib: ibi.IB, apple: ibi.Contract) -> None:
    ticker = ib.reqTickers(apple)[0]
    today = day(ib, apple)
    assert (ticker.last, ticker.high, ticker.low, ticker.volume) == (today.close, today.high, today.low, today.volume)
    assert ticker.bid < ticker.last < ticker.ask
    assert min(ticker.bidSize, ticker.askSize, ticker.lastSize) >= 100
    yesterday = ib.reqHistoricalData(apple, "", "2 D", "1 day", "TRADES", True)[0]
    assert ticker.close == yesterday.close


def test_the_time_of_the_last_trade_is_told(ib: ibi.IB, simulator: SimulatorHandle, raw: Any) -> None:
    client = raw(simulator, 7)
    contract = (265598, "", "STK", "", "", "", "", "SMART", "", "USD", "", "")
    client.send(1, 11, 5, *contract, 0, "", 1, 0, "")
    assert client.until(46)[2:] == ["5", "45", str(int(OPEN.timestamp()))]
    assert client.until(57) == ["57", "1", "5"]


def test_no_quotes_when_closed_unless_frozen(simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract) -> None:
    simulator.control("clock", set="2026-11-21T16:00:00+00:00")
    ticker = ib.reqTickers(apple)[0]
    assert (ticker.bid, ticker.bidSize, ticker.marketDataType) == (-1, 0, 1)
    assert ticker.last > 0
    ib.reqMarketDataType(2)
    frozen = ib.reqTickers(apple)[0]
    assert (frozen.marketDataType, frozen.bid > 0) == (2, True)


def test_frozen_data_thaws_when_the_market_opens(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, until: Any
) -> None:
    simulator.control("clock", set="2026-11-22T16:00:00+00:00")
    ib.reqMarketDataType(4)
    ticker = ib.reqMktData(apple)
    until(lambda: ticker.marketDataType == 2 and ticker.bid > 0)
    simulator.control("clock", set="2026-11-23T16:00:00+00:00")
    until(lambda: ticker.marketDataType == 1)


def test_a_stream_follows_the_clock_until_it_is_cancelled(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, until: Any, errors: Errors
) -> None:
    ticker = ib.reqMktData(apple)
    until(lambda: ticker.bid > 0)
    first = ticker.last
    simulator.control("clock", advance=3600)
    until(lambda: ticker.last != first)
    ib.cancelMktData(apple)
    ib.client.cancelMktData(99)
    until(lambda: errors)
    assert errors == [(99, 300, "Can't find EId with tickerId:99")]


def test_generic_ticks(ib: ibi.IB, apple: ibi.Contract, until: Any) -> None:
    ticker = ib.reqMktData(apple, "165,221,233,236,456")
    until(lambda: ticker.shortableShares > 0)
    assert ticker.markPrice == ticker.last
    assert ticker.rtVolume == ticker.volume
    assert ticker.rtTime == OPEN
    assert ticker.low52week <= ticker.low26week <= ticker.low13week < ticker.high13week <= ticker.high52week
    assert ticker.avVolume > 1_000_000
    assert ticker.dividends is not None
    assert ticker.dividends.nextAmount is None
    only = ib.reqMktData(ibi.Contract(conId=265598, exchange="SMART"), "mdoff,375")
    until(lambda: only.rtTradeVolume > 0)
    assert only.rtTradeVolume == ticker.rtVolume
    assert math.isnan(only.bid)
    euro = ib.reqMktData(EURO, "233,236,221")
    until(lambda: euro.markPrice > 0)
    assert math.isnan(euro.rtVolume)
    assert math.isnan(euro.last)


@pytest.mark.parametrize(
    ("contract", "generic", "snapshot", "why"),
    [
        (ibi.Contract(conId=265598, exchange="SMART"), "999", False,
         "Incorrect generic tick list of 999.  Legal ones for (STK) are: 100(Option Volume),101(Option Open Interest)"),
        (EURO, "456", False, "Incorrect generic tick list of 456.  Legal ones for (CASH) are: 100(Option Volume)"),
        (EURO, "233", True, "Snapshot market data subscription is not applicable to generic ticks"),
        (ibi.Contract(conId=265598), "", False, "Please enter exchange"),
        (ibi.Contract(symbol="AAPL", exchange="SMART"), "", False, "Please enter a valid security type"),
    ],
)  # fmt: skip
def test_requests_that_do_not_validate(
    ib: ibi.IB, errors: Errors, until: Any, contract: ibi.Contract, generic: str, snapshot: bool, why: str
) -> None:
    ib.client.reqMktData(50, contract, generic, snapshot, False, [])
    until(lambda: errors)
    assert [(request, code) for request, code, _ in errors] == [(50, 321)]
    assert errors[0][2].startswith(f"Error validating request.-'bP' : cause - {why}")


def test_a_request_id_is_used_once(ib: ibi.IB, apple: ibi.Contract, errors: Errors, until: Any) -> None:
    for _ in range(2):
        ib.client.reqMktData(50, apple, "", False, False, [])
        ib.client.reqRealTimeBars(51, apple, 5, "TRADES", True, [])
        ib.client.reqTickByTickData(52, apple, "Last", 0, False)
    until(lambda: len(errors) == 3)
    assert [(request, code) for request, code, _ in errors] == [(50, 322), (51, 322), (52, 322)]
    assert errors[0][2] == "Error processing request.-'bQ' : cause - Duplicate ticker id"
    # A snapshot ends by itself.
    for _ in range(2):
        ib.client.reqMktData(60, apple, "", True, False, [])
    ib.reqCurrentTime()
    assert len(errors) == 3


def test_a_hundred_lines_of_all_clients(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, connect: Any, errors: Errors, until: Any
) -> None:
    other = connect(simulator, 2)
    for request in range(1000, 1040):
        other.client.reqMktData(request, apple, "", False, False, [])
    other.reqCurrentTime()
    for request in range(2000, 2061):
        ib.client.reqMktData(request, apple, "", False, False, [])
    until(lambda: errors)
    assert errors == [(2060, 101, "Max number of tickers has been reached.")]
    other.disconnect()
    until(lambda: simulator.control("status")["clients"] == [1])
    ib.client.reqMktData(2060, apple, "", False, False, [])
    ib.reqCurrentTime()
    assert len(errors) == 1


# --- what is not subscribed -------------------------------------------------------------------------------


def test_delayed_data(simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, errors: Errors, until: Any) -> None:
    simulator.control("market_data", symbols=["AAPL"], access="delayed")
    assert math.isnan(ib.reqTickers(apple)[0].last)
    assert errors[0][1:] == (
        354,
        "Requested market data is not subscribed.Delayed market data is available.AAPL NASDAQ.NMS/TOP/ALL",
    )
    ib.reqMarketDataType(3)
    ticker = ib.reqTickers(apple)[0]
    assert errors[1][1:] == (10167, "Requested market data is not subscribed. Displaying delayed market data.")
    assert ticker.marketDataType == 3
    # Fifteen minutes old.
    simulator.control("market_data", access="live")
    past = ib.reqHistoricalData(apple, OPEN - timedelta(minutes=15), "60 S", "1 secs", "TRADES", False)
    now = ib.reqHistoricalTicks(apple, OPEN - timedelta(minutes=15), "", 1, "TRADES", False)[0]
    assert ticker.last == now.price
    assert abs(ticker.last - past[-1].close) < 1
    # Who takes delayed data gets live data where there is some.
    live = ib.reqTickers(apple)[0]
    assert (live.marketDataType, live.last) == (1, day(ib, apple).close)
    assert len(errors) == 2


def test_delayed_ticks_have_numbers_of_their_own(simulator: SimulatorHandle, raw: Any) -> None:
    simulator.control("market_data", access="delayed")
    client = raw(simulator, 7)
    client.send(59, 1, 3)
    contract = (265598, "", "STK", "", "", "", "", "SMART", "", "USD", "", "")
    client.send(1, 11, 5, *contract, 0, "", 1, 0, "")
    seen = set()
    while (message := client.read())[0] != "57":
        if message[0] in ("1", "2", "46"):
            seen.add(int(message[3]))
    assert seen == {66, 67, 68, 72, 73, 74, 75, 76, 88}


@pytest.mark.parametrize(
    ("access", "kind", "code", "text"),
    [
        ("none", 1, 354, "Requested market data is not subscribed.Error&AAPL NASDAQ.NMS/TOP/ALL"),
        ("none", 3, 10168, "Requested market data is not subscribed. Delayed market data is not enabled."),
        ("no_api", 1, 10089, "Requested market data requires additional subscription for API."),
        ("competing", 1, 10197, "No market data during competing live session"),
        ("competing", 3, 10197, "No market data during competing live session"),
    ],
)
def test_no_quotes(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, errors: Errors,
    access: str, kind: int, code: int, text: str,
) -> None:  # fmt: skip
    simulator.control("market_data", symbols=["AAPL"], access=access)
    ib.reqMarketDataType(kind)
    assert math.isnan(ib.reqTickers(apple)[0].last)
    assert [(found, said.startswith(text)) for _, found, said in errors] == [(code, True)]
    # Other contracts are not touched.
    assert ib.reqTickers(ib.qualifyContracts(ibi.Stock("SPY", "SMART", "USD"))[0])[0].last > 0


def test_a_competing_session_silences_streams_until_it_ends(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, errors: Errors, until: Any
) -> None:
    ticker = ib.reqMktData(apple)
    until(lambda: ticker.bid > 0)
    last = ticker.last
    simulator.control("market_data", access="competing")
    until(lambda: errors)
    assert errors[0][1:] == (10197, "No market data during competing live session")
    simulator.control("clock", advance=3600)
    other = ib.qualifyContracts(ibi.Stock("SPY", "SMART", "USD"))[0]
    ib.reqTickers(other)
    assert (ticker.last, len(errors)) == (last, 2)
    simulator.control("market_data", access="live")
    until(lambda: ticker.last != last)


def test_bid_and_ask_alone_are_not_subscribed(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, errors: Errors, until: Any
) -> None:
    simulator.control("market_data", symbols=["aapl"], access="partial")
    ticker = ib.reqMktData(apple)
    until(lambda: ticker.last > 0)
    ib.reqCurrentTime()  # the first ticks have all come
    assert math.isnan(ticker.bid)
    assert [code for _, code, _ in errors] == [10090]


def test_a_regulatory_snapshot_needs_no_subscription(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, errors: Errors
) -> None:
    simulator.control("market_data", access="none")
    ticker = ib.reqTickers(apple, regulatorySnapshot=True)[0]
    assert (ticker.marketDataType, ticker.bid > 0, errors) == (1, True, [])


@pytest.mark.parametrize(
    ("access", "why"),
    [
        ("delayed", "No market data permissions for NASDAQ STK"),
        ("competing", "Trading TWS session is connected from a different IP address"),
    ],
)
def test_no_history_and_no_bars_without_permission(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, errors: Errors, until: Any, access: str, why: str
) -> None:
    simulator.control("market_data", access=access)
    assert not ib.reqHistoricalData(apple, "", "1 D", "1 day", "TRADES", True)
    assert not ib.reqHistoricalTicks(apple, "", OPEN, 5, "TRADES", True)
    assert not ib.reqHeadTimeStamp(apple, "TRADES", True)
    ib.reqRealTimeBars(apple, 5, "TRADES", True)
    ib.reqTickByTickData(apple, "Last")
    until(lambda: len(errors) == 5)
    hmds = "Historical Market Data Service error message:"
    assert [(code, text) for _, code, text in errors] == [
        (162, hmds + why), (162, hmds + why), (162, hmds + why), (420, f"Invalid Real-time Query:{why}"),
        (10189, f"Failed to request tick-by-tick data.{why}"),
    ]  # fmt: skip


# --- real-time bars, tick by tick --------------------------------------------------------------------------


def test_real_time_bars(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, until: Any, errors: Errors
) -> None:
    simulator.control("clock", set="2026-11-20T16:00:02+00:00")
    bars = ib.reqRealTimeBars(apple, 5, "TRADES", True)
    simulator.control("clock", advance=14)
    until(lambda: len(bars) == 3)
    history = ib.reqHistoricalData(apple, OPEN + timedelta(seconds=15), "30 S", "5 secs", "TRADES", True)
    assert [(bar.time, bar.open_, bar.high, bar.low, bar.close, bar.volume) for bar in bars] == [
        (bar.date, bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in history[-3:]
    ]
    ib.cancelRealTimeBars(bars)
    simulator.control("clock", advance=60)
    ib.client.cancelRealTimeBars(99)
    until(lambda: errors)
    assert (len(bars), errors) == (3, [(99, 300, "Can't find EId with tickerId:99")])


def test_real_time_bars_only_in_the_asked_hours(
    simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, until: Any
) -> None:
    simulator.control("clock", set="2026-11-20T20:59:50+00:00")
    regular, extended = (ib.reqRealTimeBars(apple, 5, "MIDPOINT", hours) for hours in (True, False))
    simulator.control("clock", advance=30)
    until(lambda: len(extended) == 6)
    assert len(regular) == 2
    assert all(bar.volume == -1 for bar in extended)


def test_real_time_bars_that_are_refused(ib: ibi.IB, apple: ibi.Contract, errors: Errors, until: Any) -> None:
    ib.reqRealTimeBars(EURO, 5, "TRADES", True)
    ib.reqRealTimeBars(apple, 5, "BID_ASK", True)
    ib.reqRealTimeBars(apple, 5, "TRADES", True)
    ib.reqRealTimeBars(apple, 5, "TRADES", True)
    until(lambda: len(errors) == 3)
    assert [code for _, code, _ in errors] == [420, 321, 420]
    assert errors[2][2] == "Invalid Real-time Query:Historical data request pacing violation"


@pytest.mark.parametrize("kind", ["Last", "AllLast", "BidAsk", "MidPoint"])
def test_tick_by_tick(simulator: SimulatorHandle, ib: ibi.IB, apple: ibi.Contract, until: Any, kind: str) -> None:
    ticker = ib.reqTickByTickData(apple, kind)
    seen: list[Any] = []
    ticker.updateEvent += lambda ticker: seen.extend(ticker.tickByTicks)
    until(lambda: seen)
    simulator.control("clock", advance=30)
    # ib_insync stamps ticks with its own time, so they are known by their order.
    if kind in ("Last", "AllLast"):
        until(lambda: len(seen) == 31)
        history = ib.reqHistoricalTicks(apple, OPEN, "", 31, "TRADES", False)
        assert [(tick.price, tick.size) for tick in seen] == [(tick.price, tick.size) for tick in history]
        assert {tick.tickType for tick in seen} == {1 if kind == "Last" else 2}
    else:
        history = ib.reqHistoricalTicks(apple, OPEN, "", 31, {"BidAsk": "BID_ASK", "MidPoint": "MIDPOINT"}[kind], False)
        until(lambda: len(seen) == len(history) > 3)
    if kind == "BidAsk":
        assert [(tick.bidPrice, tick.askPrice, tick.bidSize, tick.askSize) for tick in seen] == [
            (tick.priceBid, tick.priceAsk, tick.sizeBid, tick.sizeAsk) for tick in history
        ]
    elif kind == "MidPoint":
        assert [tick.midPoint for tick in seen] == [tick.price for tick in history]
    ib.cancelTickByTickData(apple, kind)


def test_five_tick_streams_are_the_most(ib: ibi.IB, errors: Errors, until: Any, apple: ibi.Contract) -> None:
    for request in range(50, 56):
        ib.client.reqTickByTickData(request, apple, "MidPoint", 0, True)
    until(lambda: errors)
    assert errors == [(55, 10190, "Max number of tick-by-tick requests has been reached.")]
    ib.client.cancelTickByTickData(50)
    ib.client.reqTickByTickData(55, apple, "BidAsk", 0, True)
    ib.client.reqTickByTickData(56, EURO, "Last", 0, True)
    ib.client.reqTickByTickData(57, apple, "Sometimes", 0, True)
    until(lambda: len(errors) == 3)
    assert [(request, code) for request, code, _ in errors[1:]] == [(56, 10189), (57, 321)]


def test_ticks_of_before_a_tick_stream(simulator: SimulatorHandle, raw: Any) -> None:
    client = raw(simulator, 7)
    contract = (265598, "", "STK", "", "", "", "", "SMART", "", "USD", "", "")
    client.send(97, 5, *contract, "AllLast", 10, 0)
    earlier = client.until(98)
    assert earlier[1:3] == ["5", "10"]
    assert client.until(99)[1:4] == ["5", "2", str(int(OPEN.timestamp()))]
