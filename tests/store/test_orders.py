from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.models import OrderIntent
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution, Side

SOURCE = "simulator:ibkr_default"


@pytest.fixture
def order() -> BrokerOrder:
    return BrokerOrder(
        order_ref="aip-1",
        account="DU1",
        con_id=756733,
        side=Side.BUY,
        quantity=Decimal(10),
        order_type="LMT",
        limit_price=Decimal("100.25"),
        status="Submitted",
        filled=Decimal(0),
        remaining=Decimal(10),
        perm_id=99,
        order_id=7,
        client_id=3,
    )


def test_a_report_replaces_the_one_before(database: Database, order: BrokerOrder, now: datetime) -> None:
    later = now + timedelta(seconds=1)
    with database.write() as session:
        first = Orders(session).record(SOURCE, "SPY", order, None, now)
        assert (first.status, first.filled, first.limit_price) == ("Submitted", Decimal(0), Decimal("100.25"))
        filled = replace(
            order, status="Filled", filled=Decimal(10), remaining=Decimal(0), average_price=Decimal("100.2")
        )
        second = Orders(session).record(SOURCE, "SPY", filled, None, later)
    assert second.id == first.id
    assert (second.status, second.filled, second.remaining) == ("Filled", Decimal(10), Decimal(0))
    assert (second.first_seen_at, second.updated_at) == (now, later)


def test_an_older_report_does_not_take_back_what_has_filled(
    database: Database, order: BrokerOrder, now: datetime
) -> None:
    """An openOrder message says nothing of fills; it may stand for 0."""
    partly = replace(order, filled=Decimal(4), remaining=Decimal(6), average_price=Decimal("100.1"))
    with database.write() as session:
        orders = Orders(session)
        orders.record(SOURCE, "SPY", partly, None, now)
        row = orders.record(SOURCE, "SPY", replace(order, average_price=Decimal(99)), None, now)
        assert (row.filled, row.remaining, row.average_price) == (Decimal(4), Decimal(6), Decimal("100.1"))
        raised = replace(order, quantity=Decimal(20), remaining=Decimal(20))
        row = orders.record(SOURCE, "SPY", raised, None, now)
        assert (row.quantity, row.filled, row.remaining) == (Decimal(20), Decimal(4), Decimal(16))
        row = orders.record(SOURCE, "SPY", replace(partly, status="Cancelled"), None, now)
        assert (row.status, row.filled) == ("Cancelled", Decimal(4))


def test_a_late_report_does_not_take_an_end_back(database: Database, order: BrokerOrder, now: datetime) -> None:
    filled = replace(order, status="Filled", filled=Decimal(10), remaining=Decimal(0), average_price=Decimal(100))
    with database.write() as session:
        orders = Orders(session)
        orders.record(SOURCE, "SPY", filled, None, now)
        row = orders.record(SOURCE, "SPY", order, None, now)
        assert (row.status, row.filled) == ("Filled", Decimal(10))
        # A completed order tells neither order id nor average price.
        row = orders.record(SOURCE, "SPY", replace(filled, order_id=0, client_id=-1, average_price=None), None, now)
    assert (row.order_id, row.client_id, row.average_price) == (7, 3, Decimal(100))


def test_an_order_keeps_up_with_its_fills(
    database: Database,
    order: BrokerOrder,
    make_intent: Callable[..., OrderIntent],
    new_execution: Callable[..., Execution],
    now: datetime,
) -> None:
    intent = make_intent()
    with database.write() as session:
        orders, executions = Orders(session), Executions(session)
        row = orders.record(SOURCE, "SPY", replace(order, filled=Decimal(4), remaining=Decimal(6)), intent.id, now)
        for number, (quantity, price) in enumerate(((4, 100), (3, 102), (3, 104))):
            fill = new_execution(exec_id=f"000{number}.01", quantity=Decimal(quantity), price=Decimal(price))
            executions.record(SOURCE, fill, intent, now)
        fills = executions.for_intent(intent.id)
        orders.keep_up(intent.id, fills[:1], now)
        assert (row.status, row.filled, row.average_price) == ("Submitted", Decimal(4), None)
        orders.keep_up(intent.id, fills[:2], now)
        assert (row.status, row.filled, row.remaining) == ("Submitted", Decimal(7), Decimal(3))
        orders.keep_up(intent.id, fills, now)
        assert (row.status, row.filled, row.remaining) == ("Filled", Decimal(10), Decimal(0))
        assert row.average_price == Decimal("101.8")
        twice = orders.record(SOURCE, "SPY", replace(order, perm_id=100, order_id=8), intent.id, now)
        orders.keep_up(intent.id, fills, now)
        assert twice.filled == 0


def test_an_order_gets_its_perm_id_later(database: Database, order: BrokerOrder, now: datetime) -> None:
    young = replace(order, perm_id=0, status="PendingSubmit")
    with database.write() as session:
        first = Orders(session).record(SOURCE, "SPY", young, None, now)
        other = Orders(session).record(SOURCE, "SPY", replace(young, order_id=8, order_ref="aip-2"), None, now)
        assert first.perm_id is None
        assert Orders(session).record(SOURCE, "SPY", young, None, now).id == first.id
    with database.write() as session:
        known = Orders(session).record(SOURCE, "SPY", order, None, now)
        again = Orders(session).record(SOURCE, "SPY", replace(order, order_id=0, client_id=-1), None, now)
    assert known.id == again.id == first.id
    assert known.perm_id == 99
    assert other.id != first.id


def test_an_order_placed_twice_shows(database: Database, order: BrokerOrder, now: datetime) -> None:
    with database.write() as session:
        orders = Orders(session)
        orders.record(SOURCE, "SPY", order, None, now)
        orders.record(SOURCE, "SPY", replace(order, perm_id=100, order_id=8), None, now)
        orders.record("paper:x", "SPY", order, None, now)  # another gateway's permId is another order
        assert len(orders.by_order_ref("aip-1")) == 3
        assert orders.by_order_ref("aip-9") == []


def test_orders_of_a_run(
    database: Database, order: BrokerOrder, make_intent: Callable[..., OrderIntent], new_key: Any, now: datetime
) -> None:
    intent, other = make_intent(), make_intent(new_key(run_id="run-2"))
    with database.write() as session:
        orders = Orders(session)
        orders.record(SOURCE, "SPY", order, None, now)
        row = orders.record(SOURCE, "SPY", order, intent.id, now)
        orders.record(SOURCE, "SPY", order, None, now)  # whoever does not know the intent does not forget it
        another = replace(order, perm_id=100, order_id=order.order_id + 1, order_ref=other.order_ref)
        last = orders.record(SOURCE, "SPY", another, other.id, now)
        assert [o.id for o in orders.for_run("momentum", "run-1")] == [row.id]
        assert orders.latest("momentum").id == last.id  # type: ignore[union-attr]
        assert orders.latest("other") is None
    assert row.intent_id == intent.id


def test_one_row_for_reports_at_once(database: Database, order: BrokerOrder, race: Any, now: datetime) -> None:
    def work(database: Database, number: int) -> int:
        with database.write() as session:
            return Orders(session).record(SOURCE, "SPY", order, None, now).id

    assert len(set(race(work, 6))) == 1
