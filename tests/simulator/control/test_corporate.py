"""Splits, as clients with working orders see them."""

from __future__ import annotations

from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

APPLE, COKE = ibi.Stock("AAPL", "SMART", "USD"), ibi.Stock("KO", "SMART", "USD")


def test_a_split_ends_the_stocks_working_orders(simulator: SimulatorHandle, ib: ibi.IB, until: Any) -> None:
    """IBKR cancels good-till-cancelled orders on a split: their prices are those of old shares."""
    told: list[tuple[int, int]] = []
    ib.errorEvent += lambda request, code, text, contract: told.append((request, code))
    bracket = ib.bracketOrder("BUY", 10, 1.0, 2.0, 0.5, tif="GTC")
    split = [ib.placeOrder(APPLE, order) for order in bracket]
    split.append(ib.placeOrder(APPLE, ibi.StopOrder("SELL", 1, 1.0, tif="DAY")))
    kept = ib.placeOrder(COKE, ibi.LimitOrder("BUY", 1, 1.0, tif="GTC"))
    until(lambda: all(trade.orderStatus.permId for trade in (*split, kept)))
    simulator.control("split", symbol="AAPL", ratio=4)
    until(lambda: all(trade.orderStatus.status == "Cancelled" for trade in split))
    assert sorted(told) == [(trade.order.orderId, 202) for trade in split]
    assert kept.isActive()
    assert {(trade.order.permId, trade.orderStatus.status) for trade in ib.reqCompletedOrders(False)} == {
        (trade.order.permId, "Cancelled") for trade in split
    }


def test_what_had_filled_before_a_split_is_split(simulator: SimulatorHandle, ib: ibi.IB, until: Any) -> None:
    trade = ib.placeOrder(COKE, ibi.MarketOrder("BUY", 6000, tif="DAY"))
    until(lambda: trade.orderStatus.filled == 5000)
    simulator.control("split", symbol="KO", ratio=2)
    until(trade.isDone)
    assert (trade.orderStatus.status, trade.orderStatus.filled, trade.orderStatus.remaining) == (
        "Cancelled",
        5000,
        1000,
    )
    until(lambda: [item.position for item in ib.positions()] == [10_000])
    again = ib.placeOrder(COKE, ibi.MarketOrder("SELL", 10_000, tif="DAY"))
    simulator.control("clock", advance=5)
    until(again.isDone)
    assert again.fills[0].execution.price < trade.fills[0].execution.price * 0.51


@pytest.mark.parametrize(
    ("command", "fields"), [("split", {"ratio": 4}), ("manual_order", {"action": "BUY", "quantity": 1})]
)
def test_nothing_of_that_while_ibkr_is_out_of_reach(
    simulator: SimulatorHandle, ib: ibi.IB, until: Any, command: str, fields: dict[str, Any]
) -> None:
    trade = ib.placeOrder(APPLE, ibi.LimitOrder("BUY", 1, 1.0, tif="GTC"))
    until(lambda: trade.orderStatus.permId)
    simulator.control("connectivity", state="lost")
    with pytest.raises(ValueError, match="out of reach"):
        simulator.control(command, symbol="AAPL", **fields)
    simulator.control("connectivity", state="restored")
    assert simulator.control(command, symbol="AAPL", **fields)["ok"]
