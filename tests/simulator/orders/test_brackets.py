"""Brackets: what is not transmitted, what waits for its parent, what ends with it."""

from __future__ import annotations

from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

Seen = list[tuple[int, int]]
Wire = list[list[str]]


def statuses(trades: list[ibi.Trade]) -> list[str]:
    return [trade.orderStatus.status for trade in trades]


def held(trades: list[ibi.Trade]) -> list[str]:
    return [trade.orderStatus.whyHeld for trade in trades]


def test_an_order_that_is_not_transmitted_is_silent_until_it_is(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, until: Any, wire: Wire, connect: Any
) -> None:
    trade = ib.placeOrder(apple, ibi.LimitOrder("BUY", 10, 1.0, tif="GTC", transmit=False))
    # The answer to a later request: whatever the order caused has come before it.
    assert not ib.reqAllOpenOrders()
    assert not wire
    assert simulator.control("status")["orders"] == 0
    assert connect(simulator, 7).reqAllOpenOrders() == []
    trade.order.transmit = True
    ib.placeOrder(apple, trade.order)
    until(lambda: trade.orderStatus.status == "Submitted")
    assert len(ib.reqAllOpenOrders()) == 1


def test_the_last_child_transmits_the_family(ib: ibi.IB, apple: Any, quote: Any, bracket: Any, wire: Wire) -> None:
    last = quote(apple).last
    parent, profit, loss = trades = bracket(apple, round(last - 9, 2), round(last + 5, 2), round(last - 15, 2))
    assert statuses(trades) == ["Submitted", "PreSubmitted", "PreSubmitted"]
    assert held(trades) == ["", "child", "child,trigger"]
    assert [trade.orderStatus.parentId for trade in trades] == [0, parent.order.orderId, parent.order.orderId]
    shown = {trade.order.permId: trade.order for trade in ib.reqAllOpenOrders()}
    assert len(shown) == 3
    opened = {fields[1]: fields for fields in wire if fields[0] == "5"}
    group = str(parent.order.permId)
    for child in (profit, loss):
        fields = opened[str(child.order.orderId)]
        # Behind the time in force; and the parent's order id.
        assert fields[19] == group
        assert str(parent.order.orderId) in fields
    assert opened[str(parent.order.orderId)][19] == ""


def test_children_work_once_the_parent_has_filled_and_end_each_other(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, quote: Any, bracket: Any, until: Any, seen: Seen
) -> None:
    now = quote(apple)
    parent, profit, loss = bracket(apple, now.ask, round(now.last + 50, 2), round(now.last - 50, 2))
    assert statuses([parent, profit, loss]) == ["Filled", "Submitted", "PreSubmitted"]
    assert held([parent, profit, loss]) == ["", "", "trigger"]
    # The take-profit is moved to where it fills; its sibling goes with it.
    profit.order.lmtPrice, profit.order.transmit = now.bid, True
    ib.placeOrder(apple, profit.order)
    until(lambda: profit.isDone() and loss.isDone())
    assert statuses([profit, loss]) == ["Filled", "Cancelled"]
    assert (loss.order.orderId, 202) in seen
    assert not ib.reqPositions()
    done = {trade.order.permId: trade.order for trade in ib.reqCompletedOrders(False)}
    assert done[profit.order.permId].parentPermId == parent.order.permId
    assert done[loss.order.permId].parentPermId == parent.order.permId
    assert done[parent.order.permId].parentPermId in (0, 9223372036854775807)
    assert simulator.control("status")["working_orders"] == 0


def test_a_market_parent_fills_with_its_children_entered_before_it(ib: ibi.IB, apple: Any, quote: Any) -> None:
    """The family meets the market together: no child finds its parent gone."""
    last = quote(apple).last
    parent = ibi.MarketOrder("BUY", 100, orderId=ib.client.getReqId(), transmit=False, tif="DAY")
    child = ibi.StopOrder("SELL", 100, round(last - 50, 2), parentId=parent.orderId, tif="GTC")
    trades = [ib.placeOrder(apple, order) for order in (parent, child)]
    ib.reqAllOpenOrders()
    assert statuses(trades) == ["Filled", "PreSubmitted"]
    assert trades[1].orderStatus.whyHeld == "trigger"


@pytest.mark.parametrize("who", ["parent", "all"])
def test_cancelling_the_parent_cancels_the_children(
    ib: ibi.IB, apple: Any, quote: Any, bracket: Any, until: Any, seen: Seen, who: str
) -> None:
    last = quote(apple).last
    trades = bracket(apple, round(last - 9, 2), round(last + 5, 2), round(last - 15, 2))
    if who == "parent":
        ib.cancelOrder(trades[0].order)
    else:
        ib.reqGlobalCancel()
    until(lambda: all(trade.isDone() for trade in trades))
    assert statuses(trades) == ["Cancelled"] * 3
    assert sorted(seen) == [(trade.order.orderId, 202) for trade in trades]
    assert not ib.reqAllOpenOrders()


def test_cancelling_a_child_cancels_its_sibling_but_not_the_parent(
    ib: ibi.IB, apple: Any, quote: Any, bracket: Any, until: Any
) -> None:
    last = quote(apple).last
    parent, profit, loss = bracket(apple, round(last - 9, 2), round(last + 5, 2), round(last - 15, 2))
    ib.cancelOrder(profit.order)
    until(lambda: profit.isDone() and loss.isDone())
    assert statuses([parent, profit, loss]) == ["Submitted", "Cancelled", "Cancelled"]


def test_a_refused_parent_takes_its_children_with_it(
    ib: ibi.IB, apple: Any, quote: Any, until: Any, seen: Seen
) -> None:
    last = quote(apple).last
    orders = ib.bracketOrder("BUY", 900_000, last, round(last + 5, 2), round(last - 5, 2), tif="GTC")
    trades = [ib.placeOrder(apple, order) for order in orders]
    until(lambda: {(trade.order.orderId, 201) for trade in trades} <= set(seen))
    assert not ib.reqAllOpenOrders()
    assert {item.orderStatus.status for item in ib.reqCompletedOrders(False)} == {"Inactive"}


def test_a_day_parent_that_expires_takes_its_children_with_it(
    simulator: SimulatorHandle, apple: Any, quote: Any, bracket: Any, until: Any
) -> None:
    last = quote(apple).last
    trades = bracket(apple, round(last - 90, 2), round(last + 90, 2), round(last - 99, 2), tif="DAY")
    simulator.control("clock", set="2026-11-20T21:00:00+00:00")
    until(lambda: all(trade.isDone() for trade in trades))
    assert statuses(trades) == ["Cancelled"] * 3


def test_a_held_child_never_fills_without_its_parent(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, quote: Any, bracket: Any
) -> None:
    """The take-profit's price is that of the market all the time."""
    last = quote(apple).last
    parent, profit, loss = bracket(apple, round(last - 200, 2), 1.0, 1.5)
    simulator.control("clock", advance=3 * 86400)
    ib.reqAllOpenOrders()
    assert statuses([parent, profit, loss]) == ["Submitted", "PreSubmitted", "PreSubmitted"]
    assert held([profit, loss]) == ["child", "child,trigger"]


def test_an_immediate_child_has_the_second_in_which_its_parent_fills(
    simulator: SimulatorHandle, apple: Any, quote: Any, place: Any, until: Any
) -> None:
    """The clock jumps over that second, and over many in which the child's price is met."""
    last = quote(apple).last
    parent = place(ibi.LimitOrder("BUY", 1, round(last - 0.5, 2), tif="GTC"))
    child = place(ibi.LimitOrder("SELL", 1, round(last + 0.3, 2), tif="IOC", parentId=parent.order.orderId))
    assert child.orderStatus.whyHeld == "child"
    simulator.control("clock", advance=30 * 86400)
    until(lambda: parent.isDone() and child.isDone())
    assert statuses([parent, child]) == ["Filled", "Cancelled"]


def test_a_child_of_nothing_is_refused(ib: ibi.IB, apple: Any, place: Any, until: Any, seen: Seen) -> None:
    lost = ib.placeOrder(apple, ibi.LimitOrder("BUY", 1, 1.0, tif="DAY", parentId=4711))
    until(lambda: (lost.order.orderId, 135) in seen)
    parent = place(ibi.MarketOrder("BUY", 1))
    late = ib.placeOrder(apple, ibi.LimitOrder("SELL", 1, 999.0, tif="DAY", parentId=parent.order.orderId))
    until(lambda: (late.order.orderId, 135) in seen)
    ring = ib.placeOrder(apple, ibi.LimitOrder("BUY", 1, 1.0, tif="DAY", parentId=late.order.orderId + 1))
    until(lambda: (ring.order.orderId, 135) in seen)
    assert not ib.reqAllOpenOrders()


def test_a_child_may_come_after_its_working_parent(ib: ibi.IB, place: Any, until: Any) -> None:
    parent = place(ibi.LimitOrder("BUY", 1, 1.0))
    child = place(ibi.LimitOrder("SELL", 1, 999.0, parentId=parent.order.orderId))
    assert (child.orderStatus.status, child.orderStatus.whyHeld) == ("PreSubmitted", "child")
    ib.cancelOrder(parent.order)
    until(child.isDone)


def test_what_was_never_transmitted_is_cancelled_as_such(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, raw: Any, until: Any
) -> None:
    parent = ibi.LimitOrder("BUY", 10, 1.0, orderId=ib.client.getReqId(), tif="GTC", transmit=False)
    child = ibi.LimitOrder("SELL", 10, 999.0, parentId=parent.orderId, tif="GTC", transmit=False)
    trades = [ib.placeOrder(apple, order) for order in (parent, child)]
    ib.cancelOrder(parent)
    ib.reqAllOpenOrders()
    assert [trade.log[-1].status for trade in trades] == ["ApiCancelled", "ApiCancelled"]
    assert [trade.orderStatus.permId for trade in trades] == [0, 0]
    again = ib.placeOrder(apple, ibi.LimitOrder("BUY", 10, 1.0, tif="GTC", transmit=False))
    raw(simulator, 9).send(58, 1)
    until(lambda: again.orderStatus.status == "ApiCancelled")
    assert simulator.control("status")["orders"] == 0


@pytest.mark.parametrize("what", ["transmitted", "cancelled"])
def test_a_change_may_be_kept_too(ib: ibi.IB, apple: Any, quote: Any, bracket: Any, until: Any, what: str) -> None:
    """Also one of a child whose parent has filled."""
    now = quote(apple)
    _, profit, _ = bracket(apple, now.ask, round(now.last + 50, 2), round(now.last - 50, 2))
    profit.order.lmtPrice, profit.order.transmit = now.bid, False
    ib.placeOrder(apple, profit.order)
    ib.reqAllOpenOrders()
    assert profit.orderStatus.status == "Submitted"
    if what == "cancelled":
        ib.cancelOrder(profit.order)
        until(profit.isDone)
        ib.reqAllOpenOrders()
        assert (profit.orderStatus.status, profit.orderStatus.permId) == ("Cancelled", profit.order.permId)
    else:
        # The client has taken the price that the order still has.
        profit.order.lmtPrice, profit.order.transmit = now.bid, True
        ib.placeOrder(apple, profit.order)
        until(profit.isDone)
        assert profit.orderStatus.status == "Filled"


def test_a_changed_child_keeps_its_parent(ib: ibi.IB, apple: Any, place: Any, until: Any, seen: Seen) -> None:
    first, second = place(ibi.LimitOrder("BUY", 1, 1.0)), place(ibi.LimitOrder("BUY", 1, 1.0))
    child = place(ibi.LimitOrder("SELL", 1, 999.0, parentId=first.order.orderId))
    child.order.parentId = second.order.orderId
    ib.placeOrder(apple, child.order)
    until(lambda: (child.order.orderId, 10341) in seen)
    assert ib.reqAllOpenOrders()[-1].orderStatus.parentId == first.order.orderId


def test_a_restart_keeps_a_bracket(start: Any, connect: Any, tmp_path: Any, until: Any) -> None:
    first = start(state=tmp_path / "state.db")
    ib = connect(first, 1)
    apple = ib.qualifyContracts(ibi.Stock("AAPL", "SMART", "USD"))[0]
    now = ib.reqTickers(apple)[0]
    orders = ib.bracketOrder(
        "BUY", 10, round(now.bid - 1, 2), round(now.last + 50, 2), round(now.last - 50, 2), tif="GTC"
    )
    for order in orders:
        ib.placeOrder(apple, order)
    until(lambda: len(ib.reqAllOpenOrders()) == 3)
    ib.disconnect()
    first.stop()
    second = start(state=tmp_path / "state.db")
    again = connect(second, 1)
    parent, profit, loss = again.openTrades()
    assert held([parent, profit, loss]) == ["", "child", "child,trigger"]
    parent.order.lmtPrice = round(now.ask + 1, 2)
    again.placeOrder(apple, parent.order)
    until(parent.isDone)
    assert held([profit, loss]) == ["", "trigger"]
    again.cancelOrder(loss.order)
    until(profit.isDone)
