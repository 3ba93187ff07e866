"""Orders that the broker has otherwise than they were sent, over sockets: changed as by hand in TWS."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from airflow_ibkr_plugin.broker import library
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.execution.changes import AS_SENT
from airflow_ibkr_plugin.execution.order_record import order_record
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import AlertRow
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side


@pytest.fixture
def attempt(spec: GatewaySpec, database: Database) -> Callable[..., Any]:
    """One try of a task to buy ten SPY for 1 USD, which nobody gives; it leaves the order, or cancels it."""

    def once(*, leave: bool = True, wait_seconds: float = 0.2) -> Any:
        with leased_session(spec, database, owner="t") as session:
            instrument = session.resolve(InstrumentSpec.parse("SPY"))
            request = OrderRequest(
                key=IntentKey(installation="t", dag_id="demo", run_id="1", task_id="o", con_id=instrument.con_id),
                strategy="demo",
                source=session.source,
                account=session.account,
                mode="paper",
                instrument=instrument,
                ticket=OrderTicket(
                    side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal(1)
                ),
                wait_seconds=wait_seconds,
                leave_working=leave,
            )
            return execute(session, database, request, owner="t")

    return once


def by_hand(spec: GatewaySpec, record: dict[str, Any], **changes: Any) -> None:
    """Somebody changes the order: to the gateway, the same order once more with other figures."""
    client = library.load().IB()
    client.connect("127.0.0.1", spec.port, clientId=record["client_id"], timeout=10)
    try:
        (trade,) = [trade for trade in client.openTrades() if trade.order.orderRef == record["order_ref"]]
        for name, value in changes.items():
            setattr(trade.order, name, value)
        client.placeOrder(trade.contract, trade.order)
        client.reqAllOpenOrders()  # answered behind the change
    finally:
        client.disconnect()


def record(database: Database) -> dict[str, Any]:
    with database.read() as transaction:
        (row,) = Intents(transaction).for_run("demo", "1")
        return order_record(transaction, row)


def said(database: Database) -> list[str]:
    return [note["text"] for note in record(database)["notes"]]


def alerts(database: Database) -> list[str]:
    with database.read() as transaction:
        return list(transaction.scalars(select(AlertRow.title).order_by(AlertRow.id)))


def test_a_price_changed_by_hand_is_noted_once_and_what_fills_is_booked(
    spec: GatewaySpec, database: Database, attempt: Any, books: Any
) -> None:
    attempt()
    assert said(database) == []
    by_hand(spec, record(database), lmtPrice=2.0)
    attempt()
    attempt()
    assert said(database) == ["the broker has limit 2 for 1"]
    by_hand(spec, record(database), lmtPrice=10_000.0)
    done = attempt(wait_seconds=30)
    assert (done.state, done.filled) == (IntentState.FILLED, 10)
    assert books.position("demo") == 10
    assert said(database) == ["the broker has limit 2 for 1", "the broker has limit 10000 for 1"]
    assert alerts(database) == []


def test_more_than_risk_let_pass_is_told_to_people_and_booked_to_the_last_unit(
    spec: GatewaySpec, database: Database, attempt: Any, books: Any
) -> None:
    attempt()
    by_hand(spec, record(database), totalQuantity=25)
    attempt()
    assert said(database) == ["the broker has quantity 25 for 10"]
    assert alerts(database) == ["[IBKR] demo: order SPY was raised by hand"]
    by_hand(spec, record(database), totalQuantity=25, lmtPrice=10_000.0)
    done = attempt(wait_seconds=30)
    assert (done.state, done.quantity, done.filled) == (IntentState.FILLED, 10, 25)
    assert books.position("demo") == 25
    assert len(alerts(database)) == 1


def test_fewer_units_are_noted_and_end_it_when_they_are_filled(
    spec: GatewaySpec, database: Database, attempt: Any, books: Any
) -> None:
    attempt()
    by_hand(spec, record(database), totalQuantity=4, lmtPrice=10_000.0)
    done = attempt(wait_seconds=30)
    assert (done.state, done.filled) == (IntentState.FILLED, 4)
    assert books.position("demo") == 4
    assert alerts(database) == []


def test_changed_back_it_is_as_it_was_sent(spec: GatewaySpec, database: Database, attempt: Any) -> None:
    attempt()
    by_hand(spec, record(database), lmtPrice=2.0)
    attempt()
    by_hand(spec, record(database), lmtPrice=1.0)
    attempt()
    assert said(database) == ["the broker has limit 2 for 1", AS_SENT]


def test_cancelled_for_its_time_it_says_so(database: Database, attempt: Any) -> None:
    done = attempt(leave=False)
    assert done.state is IntentState.CANCELLED
    assert done.reason == "cancelled by us, not filled within 0.2 s: Cancelled; filled 0 of 10"


def test_a_second_perm_id_is_noted(gateway: Any, spec: GatewaySpec, database: Database, attempt: Any) -> None:
    attempt()
    gateway.control("second_perm_id")
    for price in (2.0, 1.0):  # the first news after it has the permId that is known, the next one another
        by_hand(spec, record(database), lmtPrice=price)
    attempt()
    (order,) = record(database)["broker_orders"]
    (note,) = said(database)
    first, _, second = note.removeprefix("permId ").partition(" -> ")
    assert int(first) < int(second) == order["perm_id"]


def test_a_fill_without_our_reference_is_shown_with_its_order(
    gateway: Any, spec: GatewaySpec, database: Database, attempt: Any, books: Any
) -> None:
    attempt()
    gateway.control("unnamed_fill")
    by_hand(spec, record(database), lmtPrice=10_000.0)
    assert attempt(wait_seconds=30).filled == 10
    (fill,) = record(database)["fills"]
    assert (fill["order_ref"], fill["quantity"], fill["perm_id"]) == ("", 10, record(database)["perm_id"])
    assert books.position("demo") == 10


def test_a_fill_before_its_status_is_shown_in_the_order_it_came(
    gateway: Any, spec: GatewaySpec, database: Database, attempt: Any
) -> None:
    attempt()
    gateway.control("reorder", how="fill_before_status")
    by_hand(spec, record(database), lmtPrice=10_000.0)
    assert attempt(wait_seconds=30).state is IntentState.FILLED
    shown = record(database)
    assert [move["to_state"] for move in shown["transitions"]][-2:] == ["working", "filled"]
    assert shown["fills"][0]["booked_at"] <= shown["transitions"][-1]["at"]
    assert shown["broker_orders"][0]["status"] == "Filled"


def test_nothing_is_noted_of_an_order_that_fills_as_it_was_sent(
    gateway: Any, spec: GatewaySpec, database: Database, attempt: Any
) -> None:
    attempt()
    gateway.control("clock", advance=1)
    attempt(leave=False)
    assert said(database) == []
    shown = record(database)
    assert [move["to_state"] for move in shown["transitions"]] == [
        "reserved",
        "sending",
        "working",
        "cancelling",
        "cancelled",
    ]
    assert all(move["at"] and move["reason"] for move in shown["transitions"])
    assert shown["fills"] == []
