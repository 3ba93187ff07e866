"""Unmodified ib_insync asks for time, contracts, history, quotes and the account."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

OPEN = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)


def stock(ib: ibi.IB, symbol: str = "AAPL", currency: str = "USD") -> ibi.Contract:
    return ib.qualifyContracts(ibi.Stock(symbol, "SMART", currency))[0]


def errors_of(ib: ibi.IB) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((request, code))
    return seen


def test_connect(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    assert ib.client.serverVersion() == 176
    assert ib.managedAccounts() == [simulator.account]
    assert ib.reqCurrentTime() == OPEN
    values = {value.tag: value.value for value in ib.accountValues()}
    assert (values["NetLiquidation"], values["Simulator"]) == ("1000000.00", "airflow-ibkr-plugin")
    assert datetime.fromisoformat(values["SimulatedClock"]) == OPEN


def test_a_real_clock_says_so(start: Callable[..., SimulatorHandle], connect: Any) -> None:
    from airflow_ibkr_plugin.simulator.embedded import start_simulator

    with start_simulator() as handle:
        ib = connect(handle)
        assert abs((ib.reqCurrentTime() - datetime.now(UTC)).total_seconds()) < 5
        assert next(v.value for v in ib.accountValues() if v.tag == "SimulatedClock") == "false"
        ib.disconnect()


def test_contracts(ib: ibi.IB) -> None:
    details = ib.reqContractDetails(ibi.Stock("AAPL", "SMART", "USD"))[0]
    assert details.contract.conId == 265598
    assert details.contract.primaryExchange == "NASDAQ"
    assert details.longName == "SIMULATED Apple Inc"
    assert (details.minTick, details.timeZoneId, details.stockType) == (0.01, "US/Eastern", "COMMON")
    assert (details.minSize, details.sizeIncrement) == (1, 1)
    assert [(item.tag, item.value) for item in details.secIdList] == [("ISIN", "US0378331005")]
    assert details.liquidHours.startswith("20261120:0930-20261120:1600;20261121:CLOSED;20261122:CLOSED;20261123:0930")
    assert details.liquidHours.endswith("20261125:0930-20261125:1600")
    assert details.tradingHours.startswith("20261120:0400-20261120:2000;")
    by_id = ib.reqContractDetails(ibi.Contract(conId=265598))
    assert by_id[0].contract == details.contract


def test_forex_contract(ib: ibi.IB) -> None:
    details = ib.reqContractDetails(ibi.Forex("EURUSD"))[0]
    assert (details.contract.localSymbol, details.contract.exchange) == ("EUR.USD", "IDEALPRO")
    assert details.minTick == 0.00005
    assert details.liquidHours.startswith("20261119:1715-20261120:1700;20261121:CLOSED;20261122:1715-20261123:1700")


def test_hours_agree_with_the_calendar(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    import exchange_calendars

    simulator.control("clock", set="2026-11-25T15:00:00+00:00")
    hours = ib.reqContractDetails(ibi.Stock("SPY", "SMART", "USD"))[0].liquidHours
    calendar = exchange_calendars.get_calendar("XNYS")
    for part in hours.split(";"):
        day = date.fromisoformat(part[:8])
        if part.endswith("CLOSED"):
            assert not calendar.is_session(day.isoformat())
        else:
            close = calendar.session_close(day.isoformat()).tz_convert("US/Eastern")
            assert part == f"{day:%Y%m%d}:0930-{close:%Y%m%d:%H%M}"
    assert "20261127:0930-20261127:1300" in hours


def test_unknown_and_ambiguous_symbols(ib: ibi.IB) -> None:
    seen = errors_of(ib)
    assert ib.reqContractDetails(ibi.Stock("NOSUCH", "SMART", "USD")) == []
    assert [code for _, code in seen] == [200]
    found = ib.reqContractDetails(ibi.Stock("SHOP", "SMART"))
    assert {(item.contract.currency, item.contract.primaryExchange) for item in found} == {
        ("USD", "NYSE"),
        ("CAD", "TSE"),
    }
    assert len(ib.reqContractDetails(ibi.Stock("SHOP", "SMART", "CAD"))) == 1
    assert len(ib.reqContractDetails(ibi.Stock("SHOP", "SMART", primaryExchange="NYSE"))) == 1
    assert not ib.reqHistoricalData(ibi.Stock("SHOP", "SMART"), "", "1 D", "1 day", "TRADES", True)
    assert seen[-1][1] == 200


def test_history(ib: ibi.IB) -> None:
    apple = stock(ib)
    days = ib.reqHistoricalData(apple, "", "1 Y", "1 day", "TRADES", True)
    assert (len(days), days[-1].date) == (251, date(2026, 11, 20))
    hours = ib.reqHistoricalData(apple, "", "2 D", "1 hour", "TRADES", True)
    assert str(hours[0].date) == "2026-11-19 09:30:00-05:00"
    utc = ib.reqHistoricalData(apple, "", "2 D", "1 hour", "TRADES", True, formatDate=2)
    assert utc[0].date == datetime(2026, 11, 19, 14, 30, tzinfo=UTC)
    assert [bar.close for bar in utc] == [bar.close for bar in hours]
    extended = ib.reqHistoricalData(apple, "", "1 D", "1 hour", "TRADES", False)
    assert str(extended[0].date) == "2026-11-20 04:00:00-05:00"
    bid, ask = (ib.reqHistoricalData(apple, "", "1 D", "30 mins", what, True) for what in ("BID", "ASK"))
    assert all(b.close < a.close for b, a in zip(bid, ask, strict=True))
    before = ib.reqHistoricalData(apple, datetime(2026, 11, 18, 21, 0, tzinfo=UTC), "3 D", "1 day", "TRADES", True)
    assert [bar.date for bar in before] == [date(2026, 11, day) for day in (16, 17, 18)]


def test_history_that_is_refused(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    seen = errors_of(ib)
    apple = stock(ib)
    assert not ib.reqHistoricalData(apple, "", "1 D", "7 mins", "TRADES", True)
    assert not ib.reqHistoricalData(apple, "19800101 00:00:00 UTC", "1 D", "1 day", "TRADES", True)
    assert not ib.reqHistoricalData(ibi.Forex("EURUSD"), "", "1 D", "1 hour", "TRADES", True)
    assert not ib.reqHistoricalData(apple, "", "1 D", "1 hour", "TRADES", True, keepUpToDate=True)
    assert not ib.reqHistoricalData(apple, "", "1 Y", "1 secs", "TRADES", True)
    assert [code for _, code in seen] == [321, 162, 162, 321, 321]
    simulator.control("pacing")
    assert not ib.reqHistoricalData(apple, "", "1 D", "1 day", "TRADES", True)
    assert seen[-1][1] == 162
    assert len(ib.reqHistoricalData(apple, "", "1 D", "1 day", "TRADES", True)) == 1


def test_snapshot_agrees_with_history(ib: ibi.IB) -> None:
    apple = stock(ib)
    ticker = ib.reqTickers(apple)[0]
    today = ib.reqHistoricalData(apple, "", "1 D", "1 day", "TRADES", True)[0]
    assert ticker.last == today.close
    assert ticker.bid < ticker.last < ticker.ask
    yesterday = ib.reqHistoricalData(apple, "", "2 D", "1 day", "TRADES", True)[0]
    assert ticker.close == yesterday.close


def test_no_quotes_when_closed_unless_frozen(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    simulator.control("clock", set="2026-11-21T16:00:00+00:00")
    apple = stock(ib)
    ticker = ib.reqTickers(apple)[0]
    assert (ticker.bid, ticker.bidSize) == (-1, 0)
    assert ticker.last > 0
    ib.reqMarketDataType(2)
    frozen = ib.reqTickers(apple)[0]
    assert (frozen.marketDataType, frozen.bid > 0) == (2, True)


def test_a_stream_follows_the_clock(simulator: SimulatorHandle, ib: ibi.IB, until: Any) -> None:
    ticker = ib.reqMktData(stock(ib))
    until(lambda: ticker.bid > 0)
    first = ticker.last
    simulator.control("clock", advance=3600)
    until(lambda: ticker.last != first)
    ib.cancelMktData(ticker.contract)


def test_requests_that_are_not_served_are_refused_by_name(ib: ibi.IB) -> None:
    seen: list[tuple[int, str]] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((code, text))
    assert not ib.reqMatchingSymbols("AA")
    assert (321, "reqMatchingSymbols is not served by this simulator") in seen


def test_a_used_client_id_is_refused(simulator: SimulatorHandle, ib: ibi.IB, connect: Any) -> None:
    other = ibi.IB()
    seen = errors_of(other)
    with pytest.raises((ConnectionError, TimeoutError)):
        other.connect("127.0.0.1", simulator.port, clientId=1, timeout=1)
    assert (-1, 326) in seen
    assert ib.reqCurrentTime() == OPEN
    assert connect(simulator, 2).isConnected()
    assert simulator.control("status")["clients"] == [1, 2]


def test_ib_insyncs_own_throttle_stays_under_the_meter(ib: ibi.IB) -> None:
    apple = stock(ib)
    answers = ib.run(_many(ib, apple))
    assert answers == [1] * 120


async def _many(ib: ibi.IB, contract: ibi.Contract) -> list[int]:
    import asyncio

    found = await asyncio.gather(*(ib.reqContractDetailsAsync(contract) for _ in range(120)))
    return [len(item) for item in found]


def test_a_client_without_throttle_is_cut_off(simulator: SimulatorHandle, connect: Any, until: Any) -> None:
    hasty = connect(simulator, 9)
    seen = errors_of(hasty)
    hasty.client.MaxRequests = 0
    for _ in range(300):
        hasty.client.reqCurrentTime()
    with pytest.raises(ConnectionError):
        until(lambda: not hasty.isConnected())
    assert (-1, 100) in seen


def test_daily_profit(ib: ibi.IB, until: Any) -> None:
    trade = ib.placeOrder(stock(ib), ibi.MarketOrder("BUY", 100))
    until(trade.isDone)
    pnl = ib.reqPnL("DU1234567")
    until(lambda: pnl.dailyPnL == pnl.dailyPnL)
    # Bought at the ask, valued at the last price one cent below it, one dollar of commission.
    assert (pnl.dailyPnL, pnl.unrealizedPnL, pnl.realizedPnL) == (-2.0, -2.0, 0.0)
