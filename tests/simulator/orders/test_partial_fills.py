"""Orders larger than what a second offers: 5000 KO, at least, in each."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

Seen = list[tuple[int, int]]
Wire = list[list[str]]


def executions(trade: ibi.Trade) -> list[ibi.Execution]:
    return [fill.execution for fill in trade.fills]


def test_a_large_order_fills_second_by_second(
    simulator: SimulatorHandle, ib: ibi.IB, coke: Any, place: Any, until: Any, wire: Wire
) -> None:
    trade = place(ibi.MarketOrder("BUY", 12_000), coke)
    status = trade.orderStatus
    assert (status.status, status.filled, status.remaining) == ("Submitted", 5000, 7000)
    assert [message[0] for message in wire] == ["5", "3", "11", "5", "3", "5", "3", "59"]
    simulator.control("clock", advance=1)
    until(lambda: status.filled == 10_000)
    simulator.control("clock", advance=1)
    until(trade.isDone)
    made = executions(trade)
    assert [fill.shares for fill in made] == [5000, 5000, 2000]
    assert [fill.cumQty for fill in made] == [5000, 10_000, 12_000]
    assert [(fill.time - made[0].time).total_seconds() for fill in made] == [0, 1, 2]
    assert [fill.execId[-6:] for fill in made] == [".01.01", ".02.01", ".03.01"]
    assert len({fill.execId for fill in made}) == 3
    value = sum(Decimal(str(fill.price)) * int(fill.shares) for fill in made)
    assert Decimal(str(status.avgFillPrice)) == (value / 12_000).quantize(Decimal("1e-8"))
    assert made[-1].avgPrice == status.avgFillPrice
    assert status.lastFillPrice == made[-1].price
    assert (status.status, status.filled, status.remaining) == ("Filled", 12_000, 0)
    # 0.005 a share, in all; the minimum is not charged for each fill.
    assert [fill.commissionReport.commission for fill in trade.fills] == [25.0, 25.0, 10.0]


def test_the_minimum_is_charged_once(simulator: SimulatorHandle, ib: ibi.IB, coke: Any, place: Any, until: Any) -> None:
    """The last fill of 5001 is of a single share."""
    trade = place(ibi.MarketOrder("BUY", 5001), coke)
    simulator.control("clock", advance=5)
    until(trade.isDone)
    assert [fill.commissionReport.commission for fill in trade.fills] == [25.0, 0.0]


def test_the_minimum_is_charged_anew_for_what_is_left_overnight(start: Any, connect: Any, until: Any) -> None:
    """The exchange closes after the second that fills 5000 of 5001."""
    simulator = start(clock=datetime(2026, 11, 20, 20, 59, 59, tzinfo=UTC))
    ib = connect(simulator)
    coke = ib.qualifyContracts(ibi.Stock("KO", "SMART", "USD"))[0]
    trade = ib.placeOrder(coke, ibi.MarketOrder("BUY", 5001, tif="GTC"))
    until(lambda: trade.orderStatus.filled == 5000)
    simulator.control("clock", set="2026-11-23T14:31:00Z")
    until(trade.isDone)
    first, second = trade.fills
    assert first.commissionReport.commission == 25.0
    # One share: the minimum of 1.00, but no more than 1 % of its value.
    assert second.commissionReport.commission == pytest.approx(second.execution.price / 100, abs=0.005)


def test_one_jump_of_the_clock_fills_as_many_seconds_do(start: Any, connect: Any, until: Any) -> None:
    made = []
    for steps in ([60], [1] * 10 + [50]):
        handle = start()
        ib = connect(handle, 1)
        coke = ib.qualifyContracts(ibi.Stock("KO", "SMART", "USD"))[0]
        trade = ib.placeOrder(coke, ibi.MarketOrder("BUY", 32_000, tif="DAY"))
        until(lambda trade=trade: trade.fills)
        for seconds in steps:
            handle.control("clock", advance=seconds)
        until(trade.isDone)
        made.append([(fill.time, fill.shares, fill.price, fill.execId) for fill in executions(trade)])
        ib.disconnect()
    assert made[0] == made[1]
    assert len(made[0]) == 7


def test_a_limit_order_fills_only_in_seconds_at_its_price(
    simulator: SimulatorHandle, ib: ibi.IB, coke: Any, quote: Any, place: Any, until: Any
) -> None:
    limit = quote(coke).ask
    trade = place(ibi.LimitOrder("BUY", 20_000, limit, tif="GTC"), coke)
    simulator.control("clock", advance=20 * 86400)
    until(trade.isDone)
    assert all(fill.price <= limit for fill in executions(trade))
    assert sum(fill.shares for fill in executions(trade)) == 20_000


def test_immediate_or_cancel_takes_what_one_second_offers(
    simulator: SimulatorHandle, ib: ibi.IB, coke: Any, place: Any, until: Any
) -> None:
    trade = place(ibi.MarketOrder("BUY", 12_000, tif="IOC"), coke)
    until(trade.isDone)
    status = trade.orderStatus
    assert (status.status, status.filled, status.remaining) == ("Cancelled", 5000, 7000)
    assert ib.reqCompletedOrders(False)[0].order.filledQuantity == 5000


def test_a_partly_filled_order_is_cancelled(ib: ibi.IB, coke: Any, place: Any, until: Any, seen: Seen) -> None:
    trade = place(ibi.MarketOrder("BUY", 12_000), coke)
    ib.cancelOrder(trade.order)
    until(lambda: trade.orderStatus.status == "Cancelled")
    assert (trade.orderStatus.filled, trade.orderStatus.remaining) == (5000, 7000)
    assert (trade.order.orderId, 202) in seen
    until(ib.positions)
    assert ib.positions()[0].position == 5000


def test_a_partly_filled_order_is_changed(
    simulator: SimulatorHandle, ib: ibi.IB, coke: Any, quote: Any, place: Any, until: Any, seen: Seen
) -> None:
    trade = place(ibi.LimitOrder("BUY", 12_000, round(quote(coke).ask + 1, 2), tif="GTC"), coke)
    order = trade.order
    # Not by `placeOrder`: the client would take the order for dead when the change is refused.
    ib.client.placeOrder(order.orderId, coke, ibi.Order(**ibi.util.dataclassAsDict(order) | {"totalQuantity": 5000}))
    until(lambda: (order.orderId, 104) in seen)
    ib.reqOpenOrders()
    order.totalQuantity, order.lmtPrice = 6000, 1.0
    ib.placeOrder(coke, order)
    until(lambda: trade.orderStatus.remaining == 1000)
    simulator.control("clock", advance=60)
    ib.reqAllOpenOrders()
    assert trade.orderStatus.filled == 5000
    order.lmtPrice = round(quote(coke).ask + 1, 2)
    ib.placeOrder(coke, order)
    until(trade.isDone)
    assert [fill.shares for fill in executions(trade)] == [5000, 1000]


def test_children_wait_until_the_parent_has_filled_whole(
    simulator: SimulatorHandle, ib: ibi.IB, coke: Any, quote: Any, bracket: Any, until: Any
) -> None:
    now = quote(coke)
    parent, profit, loss = bracket(coke, round(now.ask + 1, 2), 999.0, 1.0, quantity=12_000)
    assert (parent.orderStatus.filled, profit.orderStatus.whyHeld) == (5000, "child")
    simulator.control("clock", advance=5)
    until(parent.isDone)
    until(lambda: profit.orderStatus.status == "Submitted")
    assert loss.orderStatus.whyHeld == "trigger"


def test_a_parent_that_ends_partly_filled_leaves_children_of_that_size(
    ib: ibi.IB, coke: Any, quote: Any, bracket: Any, until: Any
) -> None:
    now = quote(coke)
    parent, profit, loss = bracket(coke, round(now.ask + 1, 2), 999.0, 1.0, quantity=12_000)
    ib.cancelOrder(parent.order)
    until(lambda: profit.orderStatus.whyHeld == "" and profit.orderStatus.remaining == 5000)
    assert (loss.orderStatus.whyHeld, loss.orderStatus.remaining) == ("trigger", 5000)


def test_nothing_is_attached_to_a_partly_filled_order(
    ib: ibi.IB, coke: Any, place: Any, until: Any, seen: Seen
) -> None:
    parent = place(ibi.MarketOrder("BUY", 12_000), coke)
    late = ib.placeOrder(coke, ibi.LimitOrder("SELL", 1, 999.0, tif="DAY", parentId=parent.order.orderId))
    until(lambda: (late.order.orderId, 201) in seen)


@pytest.mark.parametrize("quantity", [1, 100, 5000])
def test_small_orders_fill_whole_and_at_once(ib: ibi.IB, coke: Any, place: Any, quantity: int) -> None:
    trade = place(ibi.MarketOrder("BUY", quantity), coke)
    assert [fill.shares for fill in executions(trade)] == [quantity]


def test_forex_has_no_such_limit(ib: ibi.IB, place: Any) -> None:
    euro = ib.qualifyContracts(ibi.Forex("EURUSD"))[0]
    trade = place(ibi.MarketOrder("BUY", 700_000), euro)
    assert [fill.shares for fill in executions(trade)] == [700_000]


def test_a_restart_goes_on_with_a_partly_filled_order(start: Any, connect: Any, tmp_path: Any, until: Any) -> None:
    first = start(state=tmp_path / "state.db")
    ib = connect(first, 1)
    coke = ib.qualifyContracts(ibi.Stock("KO", "SMART", "USD"))[0]
    trade = ib.placeOrder(coke, ibi.MarketOrder("BUY", 12_000, tif="GTC"))
    until(lambda: trade.fills)
    ib.disconnect()
    first.stop()
    second = start(state=tmp_path / "state.db")
    again = connect(second, 1)
    (found,) = again.openTrades()
    second.control("clock", advance=10)
    until(found.isDone)
    made = sorted(again.fills(), key=lambda fill: fill.execution.execId)
    assert [fill.execution.shares for fill in made] == [5000, 5000, 2000]
    assert [fill.execution.execId[-6:] for fill in made] == [".01.01", ".02.01", ".03.01"]
    assert sum(fill.commissionReport.commission for fill in made) == 60


def test_a_clock_that_is_set_back_goes_on_from_there(
    simulator: SimulatorHandle, ib: ibi.IB, coke: Any, place: Any, until: Any
) -> None:
    simulator.control("clock", advance=5 * 86400)
    simulator.control("clock", set="2026-11-20T17:00:00+00:00")
    trade = place(ibi.MarketOrder("BUY", 12_000), coke)
    simulator.control("clock", advance=5)
    until(trade.isDone)
    assert trade.fills[-1].execution.time.isoformat() == "2026-11-20T17:00:02+00:00"
