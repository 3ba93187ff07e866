"""Groups of orders of which one cancels, or reduces, the others."""

from __future__ import annotations

from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

Seen = list[tuple[int, int]]


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_whole_fill_cancels_the_others(
    ib: ibi.IB, apple: Any, quote: Any, place: Any, until: Any, seen: Seen, kind: int
) -> None:
    low = round(quote(apple).bid - 20, 2)
    others = [place(ibi.LimitOrder("BUY", 10, low, ocaGroup="g", ocaType=kind)) for _ in range(2)]
    apart = place(ibi.LimitOrder("BUY", 10, low, ocaGroup="h", ocaType=kind))
    filled = place(ibi.MarketOrder("BUY", 10, ocaGroup="g", ocaType=kind))
    until(lambda: all(trade.isDone() for trade in others))
    assert [trade.orderStatus.status for trade in (*others, apart, filled)] == [
        "Cancelled", "Cancelled", "Submitted", "Filled",
    ]  # fmt: skip
    assert {(trade.order.orderId, 202) for trade in others} <= set(seen)
    late = place(ibi.LimitOrder("BUY", 10, low, ocaGroup="g", ocaType=kind))
    until(lambda: (late.order.orderId, 201) in seen)


@pytest.mark.parametrize(("kind", "left"), [(1, None), (2, 7500.0), (3, 7500.0)])
def test_a_partial_fill_cancels_or_reduces_the_others(
    ib: ibi.IB, coke: Any, quote: Any, place: Any, until: Any, kind: int, left: float | None
) -> None:
    """A second offers 5000 of the 20,000: a quarter."""
    low = round(quote(coke).bid - 9, 2)
    other = place(ibi.LimitOrder("BUY", 10_000, low, ocaGroup="g", ocaType=kind), coke)
    place(ibi.LimitOrder("BUY", 20_000, round(low + 20, 2), ocaGroup="g", ocaType=kind), coke)
    if left is None:
        until(other.isDone)
        assert other.orderStatus.status == "Cancelled"
    else:
        until(lambda: other.orderStatus.remaining == left)
        assert (other.order.totalQuantity, other.orderStatus.status) == (left, "Submitted")


def test_orders_of_one_size_keep_one_size(
    simulator: SimulatorHandle, ib: ibi.IB, coke: Any, quote: Any, place: Any, until: Any
) -> None:
    """Sevenths have no last decimal."""
    low = round(quote(coke).bid - 9, 2)
    other = place(ibi.LimitOrder("BUY", 7000, low, tif="GTC", ocaGroup="g", ocaType=2), coke)
    first = place(ibi.LimitOrder("BUY", 7000, round(low + 20, 2), tif="GTC", ocaGroup="g", ocaType=2), coke)
    until(lambda: other.orderStatus.remaining == 2000)
    simulator.control("clock", advance=1)
    until(lambda: first.isDone() and other.isDone())
    assert (first.orderStatus.status, other.orderStatus.status) == ("Filled", "Cancelled")


def test_a_cancel_by_the_trader_cancels_the_group(ib: ibi.IB, place: Any, until: Any, seen: Seen) -> None:
    first, second = (place(ibi.LimitOrder("BUY", 10, 1.0, ocaGroup="g", ocaType=1)) for _ in range(2))
    ib.cancelOrder(first.order)
    until(lambda: first.isDone() and second.isDone())
    ib.client.cancelOrder(second.order.orderId)
    until(lambda: (second.order.orderId, 10148) in seen)


def test_groups_are_those_of_a_client(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any, connect: Any
) -> None:
    mine = place(ibi.LimitOrder("BUY", 10, 1.0, ocaGroup="g", ocaType=1))
    other = connect(simulator, 2)
    other.placeOrder(apple, ibi.MarketOrder("BUY", 10, tif="DAY", ocaGroup="g", ocaType=1))
    other.reqAllOpenOrders()
    ib.reqAllOpenOrders()
    assert mine.orderStatus.status == "Submitted"


def test_of_two_orders_that_the_market_reaches_in_one_jump_only_the_first_fills(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, quote: Any, place: Any, until: Any
) -> None:
    """Both prices lie within the rest of the day; the clock jumps over both."""
    place(ibi.MarketOrder("BUY", 20))
    now = quote(apple)
    pair = [
        place(ibi.LimitOrder("SELL", 10, round(now.last + away, 2), tif="GTC", ocaGroup="g", ocaType=2))
        for away in (0.05, 0.10)
    ]
    simulator.control("clock", advance=30 * 86400)
    until(lambda: all(trade.isDone() for trade in pair))
    assert [trade.orderStatus.status for trade in pair] == ["Filled", "Cancelled"]


def test_a_group_cannot_be_changed(ib: ibi.IB, apple: Any, place: Any, until: Any, seen: Seen) -> None:
    trade = place(ibi.LimitOrder("BUY", 10, 1.0, ocaGroup="g", ocaType=1))
    trade.order.ocaGroup = "other"
    ib.placeOrder(apple, trade.order)
    until(lambda: (trade.order.orderId, 10326) in seen)


def test_an_unknown_type_is_refused(ib: ibi.IB, apple: Any, until: Any, seen: Seen) -> None:
    trade = ib.placeOrder(apple, ibi.LimitOrder("BUY", 1, 1.0, tif="DAY", ocaGroup="g", ocaType=4))
    until(lambda: (trade.order.orderId, 321) in seen)


def test_a_filled_group_stays_closed_after_a_restart(start: Any, connect: Any, tmp_path: Any, until: Any) -> None:
    codes: list[int] = []
    for order in (ibi.MarketOrder("BUY", 1), ibi.LimitOrder("BUY", 1, 1.0)):
        handle = start(state=tmp_path / "state.db")
        ib = connect(handle, 1)
        ib.errorEvent += lambda request, code, text, contract: codes.append(code)
        order.tif, order.ocaGroup, order.ocaType = "DAY", "g", 1
        trade = ib.placeOrder(ib.qualifyContracts(ibi.Stock("AAPL", "SMART", "USD"))[0], order)
        until(trade.isDone)
        ib.disconnect()
        handle.stop()
    assert codes == [201]
