"""Orders that somebody enters in TWS: who sees them, and who may change them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.gateway import Options
from airflow_ibkr_plugin.simulator.orders.book import Order
from airflow_ibkr_plugin.simulator.server import Simulator

Wire = list[list[str]]
OPEN = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)


@pytest.fixture
def here(loop: None) -> Iterator[Simulator]:
    """A simulator on the test's own loop, so that its desk is within reach."""
    simulator = Simulator(Options(port=0, clock=OPEN))
    simulator.gateway.clock.freeze()
    simulator.gateway.clock.set(OPEN)
    ibi.util.run(simulator.start())
    yield simulator
    ibi.util.run(simulator.stop())


def enter(simulator: Simulator, kind: str = "LMT", **fields: Any) -> Order:
    """Somebody enters an order in TWS."""
    apple = simulator.gateway.catalogue.get(265598)
    assert apple is not None
    terms = {"action": "BUY", "quantity": Decimal(10), "orderType": kind, "lmtPrice": Decimal(1), "tif": "GTC"}
    order = simulator.desk.place_manual(apple, terms | fields)
    simulator.flush()
    return order


def record(ib: ibi.IB) -> Wire:
    messages: Wire = []
    interpret = ib.client.decoder.interpret

    def note(fields: list[str]) -> None:
        messages.append(list(fields))
        interpret(fields)

    ib.client.decoder.interpret = note  # type: ignore[method-assign]
    return messages


def test_a_manual_order_has_no_order_id_until_client_0_binds_it(here: Simulator, connect: Any) -> None:
    ib = connect(here, 5)
    order = enter(here)
    (seen,) = ib.reqAllOpenOrders()
    assert (seen.order.orderId, seen.order.clientId, seen.order.permId) == (0, 0, order.perm_id)
    assert ib.reqOpenOrders() == []
    ib.client.cancelOrder(0)
    assert ib.reqAllOpenOrders()[0].orderStatus.status == "Submitted"


def test_client_0_binds_what_is_open_by_asking(here: Simulator, connect: Any, until: Any) -> None:
    first, second = enter(here), enter(here)
    zero = connect(here, 0, readonly=True)
    wire = record(zero)
    found = zero.reqOpenOrders()
    assert [trade.order.orderId for trade in found] == [-1, -2]
    bound = [fields[1:] for fields in wire if fields[0] == "100"]
    assert bound == [[str(first.perm_id), "0", "-1"], [str(second.perm_id), "0", "-2"]]
    zero.client.cancelOrder(-1)
    until(lambda: not first.working)
    assert second.working
    changed = ibi.LimitOrder("BUY", 10, 2.0, tif="GTC")
    zero.client.placeOrder(-2, ibi.Stock("AAPL", "SMART", "USD"), changed)
    until(lambda: second.limit_price == 2)


def test_client_0_binds_what_comes_by_itself(here: Simulator, connect: Any, until: Any) -> None:
    zero = connect(here, 0)
    wire = record(zero)
    order = enter(here)
    until(lambda: [fields for fields in wire if fields[0] == "3"])
    assert order.order_id == -1
    assert [fields[0] for fields in wire if fields[0] in ("100", "5")] == ["100", "5", "5"]
    assert zero.openTrades()[0].orderStatus.status == "Submitted"


def test_only_client_0_may_ask_for_that(here: Simulator, connect: Any, until: Any) -> None:
    ib = connect(here, 5)
    codes: list[int] = []
    ib.errorEvent += lambda request, code, text, contract: codes.append(code)
    ib.client.reqAutoOpenOrders(True)
    until(lambda: codes == [327])
    assert enter(here).order_id == 0


def test_a_fill_of_a_manual_order_has_no_order_id(here: Simulator, connect: Any) -> None:
    order = enter(here, "MKT")
    assert order.status == "Filled"
    ib = connect(here, 5)
    wire = record(ib)
    (fill,) = ib.reqExecutions()
    assert [fields[2] for fields in wire if fields[0] == "11"] == ["2147483647"]
    assert (fill.execution.clientId, fill.execution.permId) == (0, order.perm_id)
    assert [item.order.permId for item in ib.reqCompletedOrders(False)] == [order.perm_id]
    assert ib.reqCompletedOrders(True) == []


def test_global_cancel_reaches_manual_orders(here: Simulator, connect: Any, until: Any) -> None:
    order = enter(here)
    connect(here, 5).reqGlobalCancel()
    until(lambda: not order.working)


def test_api_order_ids_of_client_0_are_untouched(here: Simulator, connect: Any) -> None:
    enter(here)
    zero = connect(here, 0)
    assert zero.openTrades()[0].order.orderId == -1
    assert here.gateway.book.next_id(0) == 1


def test_bound_ids_survive_a_restart(loop: None, connect: Any, tmp_path: Path) -> None:
    options = Options(port=0, clock=OPEN, state=tmp_path / "state.db")
    first = Simulator(options)
    ibi.util.run(first.start())
    orders = [enter(first), enter(first)]
    first.desk.bind(orders[:1])
    ibi.util.run(first.stop())
    second = Simulator(options)
    ibi.util.run(second.start())
    kept = second.gateway.book.working()
    assert [order.order_id for order in kept] == [-1, 0]
    second.desk.bind(kept)
    assert [order.order_id for order in kept] == [-1, -2]
    ibi.util.run(second.stop())
