"""Unmodified ib_insync trades."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

Seen = list[tuple[int, int]]


def price(ib: ibi.IB, contract: ibi.Contract) -> ibi.Ticker:
    return ib.reqTickers(contract)[0]


def test_a_market_order_fills_at_the_quote(ib: ibi.IB, apple: ibi.Contract, place: Any) -> None:
    quote = price(ib, apple)
    statuses: list[str] = []
    trade = place(ibi.MarketOrder("BUY", 100, orderRef="ref-1"))
    statuses = [entry.status for entry in trade.log]
    assert statuses == ["PendingSubmit", "PreSubmitted", "PreSubmitted", "Filled"]
    fill = trade.fills[0]
    assert (fill.execution.price, fill.execution.shares, fill.execution.side) == (quote.ask, 100, "BOT")
    assert fill.execution.orderRef == "ref-1"
    assert fill.execution.time == datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
    assert (fill.commissionReport.commission, fill.commissionReport.currency) == (1.0, "USD")
    sold = place(ibi.MarketOrder("SELL", 100))
    assert sold.fills[0].execution.price == quote.bid
    # Two cents a share lost, and a dollar of commission on each side.
    assert sold.fills[0].commissionReport.realizedPNL == -4.0


def test_messages_of_a_market_order_come_in_the_real_order(ib: ibi.IB, apple: ibi.Contract, place: Any) -> None:
    numbers: list[int] = []
    interpret = ib.client.decoder.interpret

    def note(fields: list[str]) -> None:
        numbers.append(int(fields[0]))
        interpret(fields)

    ib.client.decoder.interpret = note
    place(ibi.MarketOrder("BUY", 1))
    orders = [number for number in numbers if number in (3, 5, 11, 59)]
    assert orders == [5, 3, 11, 5, 3, 5, 3, 59]


def test_positions_portfolio_and_account_follow(ib: ibi.IB, apple: ibi.Contract, place: Any, until: Any) -> None:
    trade = place(ibi.MarketOrder("BUY", 300))
    paid = Decimal(str(trade.fills[0].execution.price)) * 300 + Decimal("1.50")
    until(ib.positions)
    position = ib.positions()[0]
    assert (position.contract.conId, position.position) == (265598, 300)
    assert Decimal(str(position.avgCost)) == paid / 300
    item = ib.portfolio()[0]
    assert Decimal(str(item.unrealizedPNL)) == Decimal(str(item.marketValue)) - paid
    values = {
        value.tag: Decimal(value.value) for value in ib.accountSummary() if value.currency == "USD" and _number(value)
    }
    assert values["TotalCashValue"] == 1_000_000 - paid
    assert values["NetLiquidation"] == values["TotalCashValue"] + Decimal(str(item.marketValue))
    assert values["GrossPositionValue"] == Decimal(str(item.marketValue))
    place(ibi.MarketOrder("SELL", 300))
    until(lambda: not ib.positions())
    assert not ib.portfolio()


def _number(value: ibi.AccountValue) -> bool:
    return value.value.replace(".", "").replace("-", "").isdigit()


def test_a_limit_order_rests_is_changed_and_fills(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any, until: Any
) -> None:
    quote = price(ib, apple)
    low = round(quote.bid - 5, 2)
    trade = place(ibi.LimitOrder("BUY", 10, low, tif="GTC", orderRef="rests"))
    assert trade.orderStatus.status == "Submitted"
    assert [item.order.orderRef for item in ib.reqAllOpenOrders()] == ["rests"]
    assert ib.reqAllOpenOrders()[0].order.lmtPrice == low
    trade.order.lmtPrice = round(quote.ask + 1, 2)
    trade.order.totalQuantity = 20
    ib.placeOrder(apple, trade.order)
    until(trade.isDone)
    assert trade.fills[0].execution.price == quote.ask
    assert trade.filled() == 20
    assert not ib.reqAllOpenOrders()


def test_a_resting_limit_fills_when_the_market_comes(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any, until: Any
) -> None:
    bars = ib.reqHistoricalData(apple, "", "1 D", "1 day", "TRADES", True)
    limit = round(bars[0].close - 0.5, 2)
    trade = place(ibi.LimitOrder("BUY", 10, limit, tif="GTC"))
    for _ in range(60):
        simulator.control("clock", advance=86400)
        if simulator.control("status")["working_orders"] == 0:
            break
    until(trade.isDone)
    filled = trade.fills[0].execution
    assert filled.price <= limit
    day = ib.reqHistoricalData(
        apple, filled.time.strftime("%Y%m%d 23:59:59 US/Eastern"), "1 D", "1 day", "TRADES", True
    )
    assert day[0].low <= filled.price <= day[0].high
    assert ib.reqCurrentTime() >= filled.time


def test_stop_orders(simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any, until: Any) -> None:
    quote = price(ib, apple)
    resting = place(ibi.StopOrder("SELL", 10, round(quote.bid - 50, 2), tif="GTC"))
    assert resting.orderStatus.status == "PreSubmitted"
    through = place(ibi.StopOrder("SELL", 10, round(quote.last + 1, 2)))
    assert (through.isDone(), through.fills[0].execution.price) == (True, quote.bid)
    triggered = place(ibi.StopLimitOrder("SELL", 10, round(quote.last + 5, 2), round(quote.last + 1, 2)))
    until(lambda: triggered.orderStatus.status == "Submitted")
    both = place(ibi.StopLimitOrder("SELL", 10, round(quote.bid - 1, 2), round(quote.last + 1, 2)))
    assert both.fills[0].execution.price == quote.bid


def test_immediate_or_cancel(ib: ibi.IB, apple: Any, place: Any, until: Any, seen: Seen) -> None:
    quote = price(ib, apple)
    missed = place(ibi.LimitOrder("BUY", 10, round(quote.bid - 1, 2), tif="IOC"))
    until(lambda: missed.orderStatus.status == "Cancelled")
    hit = place(ibi.LimitOrder("BUY", 10, quote.ask, tif="IOC"))
    assert hit.orderStatus.status == "Filled"


def test_a_day_order_ends_with_its_session(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any, until: Any
) -> None:
    quote = price(ib, apple)
    day = place(ibi.LimitOrder("BUY", 10, round(quote.bid - 100, 2), tif="DAY"))
    good = place(ibi.LimitOrder("BUY", 10, round(quote.bid - 100, 2), tif="GTC"))
    simulator.control("clock", set="2026-11-20T21:00:00+00:00")
    until(lambda: day.orderStatus.status == "Cancelled")
    assert good.orderStatus.status == "Submitted"


def test_a_market_order_outside_hours_waits_for_the_open(
    simulator: SimulatorHandle, ib: ibi.IB, place: Any, until: Any, seen: Seen
) -> None:
    simulator.control("clock", set="2026-11-21T16:00:00+00:00")
    trade = place(ibi.MarketOrder("BUY", 10))
    assert trade.orderStatus.status == "PreSubmitted"
    assert (trade.order.orderId, 399) in seen
    simulator.control("clock", set="2026-11-23T14:29:59+00:00")
    ib.reqCurrentTime()  # what it has to say of the order comes before its answer
    assert not trade.isDone()
    simulator.control("clock", set="2026-11-23T15:00:00+00:00")
    until(trade.isDone)
    assert trade.fills[0].execution.time == datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


def test_a_limit_order_may_trade_outside_hours_if_it_says_so(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any
) -> None:
    simulator.control("clock", set="2026-11-20T22:00:00+00:00")
    quote = price(ib, apple)
    waits = place(ibi.LimitOrder("BUY", 10, round(quote.ask + 1, 2)))
    assert waits.orderStatus.status == "PreSubmitted"
    trades = place(ibi.LimitOrder("BUY", 10, round(quote.ask + 1, 2), outsideRth=True))
    assert trades.fills[0].execution.price == quote.ask


def test_cancel(ib: ibi.IB, apple: Any, place: Any, until: Any, seen: Seen) -> None:
    quote = price(ib, apple)
    trade = place(ibi.LimitOrder("BUY", 10, round(quote.bid - 9, 2), orderRef="gone"))
    ib.cancelOrder(trade.order)
    until(lambda: trade.orderStatus.status == "Cancelled")
    completed = ib.reqCompletedOrders(False)
    assert [(item.order.orderRef, item.orderStatus.status, item.order.filledQuantity) for item in completed] == [
        ("gone", "Cancelled", 0.0)
    ]
    ib.client.cancelOrder(trade.order.orderId)
    until(lambda: (trade.order.orderId, 10148) in seen)
    ib.client.cancelOrder(4711)
    until(lambda: (4711, 10147) in seen)


def test_only_the_owner_cancels_but_all_see(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any, connect: Any, until: Any
) -> None:
    trade = place(ibi.LimitOrder("BUY", 10, 1.0, tif="GTC", orderRef="mine"))
    other = connect(simulator, 2)
    assert not other.openTrades()
    found = other.reqAllOpenOrders()[0]
    assert (found.order.orderRef, found.order.clientId, found.order.permId) == ("mine", 1, trade.order.permId)
    codes: list[int] = []
    other.errorEvent += lambda request, code, text, contract: codes.append(code)
    other.client.cancelOrder(trade.order.orderId)
    until(lambda: 10147 in codes)
    assert trade.orderStatus.status == "Submitted"
    other.reqGlobalCancel()
    until(lambda: trade.orderStatus.status == "Cancelled")


def test_completed_orders_and_executions_tell_after_reconnecting(
    simulator: SimulatorHandle, ib: ibi.IB, place: Any, connect: Any
) -> None:
    trade = place(ibi.MarketOrder("BUY", 100, orderRef="found-again"))
    ib.disconnect()
    again = connect(simulator, 3)
    done = again.reqCompletedOrders(False)[0]
    assert (done.order.orderRef, done.order.filledQuantity, done.order.permId, done.orderStatus.status) == (
        "found-again", 100.0, trade.order.permId, "Filled",
    )  # fmt: skip
    fill = again.fills()[0]
    assert (fill.execution.orderRef, fill.execution.clientId, fill.execution.orderId) == (
        "found-again", 1, trade.order.orderId,
    )  # fmt: skip
    assert fill.commissionReport.commission == 1.0
    assert not again.reqExecutions(ibi.ExecutionFilter(symbol="KO"))
    assert len(again.reqExecutions(ibi.ExecutionFilter(symbol="AAPL", side="BUY", clientId=1))) == 1


def test_executions_are_those_of_the_brokers_day(simulator: SimulatorHandle, ib: ibi.IB, place: Any) -> None:
    place(ibi.MarketOrder("BUY", 100))
    simulator.control("clock", set="2026-11-21T04:59:00+00:00")
    assert len(ib.reqExecutions()) == 1
    simulator.control("clock", set="2026-11-21T05:00:00+00:00")
    assert not ib.reqExecutions()
    assert not ib.reqCompletedOrders(False)
    assert len(ib.reqPositions()) == 1


def test_order_ids(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any, raw: Any, until: Any, seen: Seen
) -> None:
    trade = place(ibi.MarketOrder("BUY", 1, orderRef="first"))
    number = trade.order.orderId
    ib.client.placeOrder(number, apple, ibi.MarketOrder("BUY", 1, tif="DAY", orderRef="second"))
    until(lambda: (number, 103) in seen)
    assert simulator.control("status")["orders"] == 1
    ib.disconnect()
    again = raw(simulator, 1)
    assert again.until(9)[-1] == str(number + 1)
    assert raw(simulator, 2).until(9)[-1] == "1"


def test_an_id_below_a_used_one_is_used_up(ib: ibi.IB, apple: Any, place: Any, until: Any, seen: Seen) -> None:
    place(ibi.MarketOrder("BUY", 1, orderId=100))
    ib.client.placeOrder(99, apple, ibi.MarketOrder("BUY", 1, tif="DAY"))
    until(lambda: (99, 103) in seen)


def test_forex_moves_both_currencies(ib: ibi.IB, place: Any, until: Any) -> None:
    euro = ib.qualifyContracts(ibi.Forex("EURUSD"))[0]
    trade = place(ibi.MarketOrder("BUY", 20_000), euro)
    at = Decimal(str(trade.fills[0].execution.price))
    assert trade.fills[0].commissionReport.commission == 2.0
    until(ib.positions)
    cash = {value.currency: Decimal(value.value) for value in ib.accountSummary() if value.tag == "CashBalance"}
    assert cash["EUR"] == 20_000
    assert cash["USD"] == 1_000_000 - 2 - (at * 20_000).quantize(Decimal("0.01"))


@pytest.mark.parametrize(
    ("filter_", "found"),
    [
        ({}, 3),
        ({"clientId": 1}, 2),
        ({"clientId": 9}, 0),
        ({"symbol": "KO"}, 1),
        ({"symbol": "ko", "side": "BUY"}, 1),
        ({"side": "SLD"}, 1),
        ({"side": "SELL"}, 1),
        ({"secType": "CASH"}, 0),
        ({"exchange": "NASDAQ"}, 2),
        ({"acctCode": "U1"}, 0),
        ({"time": "20261120 11:00:00"}, 3),
        ({"time": "20261120 11:30:00 US/Eastern"}, 1),
        ({"time": "20261120-16:30:00"}, 1),
        ({"time": "20261120 12:00:00"}, 0),
    ],
)
def test_executions_of_all_clients_go_through_the_filter(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, coke: Any, place: Any, connect: Any, filter_: Any, found: int
) -> None:
    place(ibi.MarketOrder("BUY", 10))
    place(ibi.MarketOrder("BUY", 10), coke)
    simulator.control("clock", advance=1800)
    other = connect(simulator, 2)
    other.placeOrder(apple, ibi.MarketOrder("SELL", 10, tif="DAY"))
    assert len(other.reqExecutions(ibi.ExecutionFilter(**filter_))) == found


def test_a_filter_with_no_time_is_refused(ib: ibi.IB, until: Any, seen: Seen) -> None:
    ib.client.reqExecutions(77, ibi.ExecutionFilter(time="yesterday"))
    until(lambda: (77, 321) in seen)
