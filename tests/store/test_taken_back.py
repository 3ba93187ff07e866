"""An execution that IBKR has taken back counts in no query."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.bookings import Bookings
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.models import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.orders import IntentState

SOURCE = "simulator:ibkr_default"


@pytest.fixture
def intent(
    database: Database, make_intent: Callable[..., OrderIntent], new_execution: Any, now: datetime
) -> OrderIntent:
    """Of ten, four and then three have filled; the four were corrected to five, and then taken back."""
    made = make_intent(state=IntentState.WORKING)
    fills = (("0001.01", 4), ("0001.02", 5), ("0002.01", 3))
    for number, (exec_id, quantity) in enumerate(fills):
        at = now + timedelta(minutes=number)
        paid = {"commission": Decimal(1), "commission_currency": "USD", "realized_pnl": Decimal(-7)}
        with database.write() as session:
            fill = new_execution(exec_id=exec_id, quantity=Decimal(quantity), time=at, **paid)
            row, _ = Executions(session).record(SOURCE, fill, made, now)
            Positions(session).apply(row, made.strategy, at=now)
    with database.write() as session:
        session.get_one(ExecutionRow, (SOURCE, "0001.02")).taken_back_on = now.date()
        Positions(session).apply(session.get_one(ExecutionRow, (SOURCE, "0001.01")), made.strategy, at=now)
    return made


def test_what_was_taken_back_and_what_it_had_corrected_count_nowhere(
    database: Database, intent: OrderIntent, now: datetime
) -> None:
    with database.read() as session:
        executions, since = Executions(session), now - timedelta(days=1)
        left = [
            executions.for_intent(intent.id),
            executions.for_run("momentum", "run-1"),
            executions.results(SOURCE, "DU1", intent.strategy, since=since, most=100),
        ]
        assert [[one.exec_id for one in found] for found in left] == [["0002.01"]] * 3
        assert len(executions.of_all_versions(intent.id)) == 3
        (order,) = AccountOrders(session, SOURCE, "DU1").open()
        assert order.remaining == 7
        (position,) = Positions(session).list()
        assert position.quantity == 3
        found = replay(session)
        assert (found.fills, found.mismatches, found.commissions) == (1, (), {"USD": Decimal(1)})
        assert [one.remaining for one in Bookings(session, SOURCE, "DU1").since(1)] == [3]


def test_it_stays_taken_back_when_the_broker_tells_of_it_again(
    database: Database, intent: OrderIntent, new_execution: Any, now: datetime
) -> None:
    with database.write() as session:
        row, is_new = Executions(session).record(SOURCE, new_execution(exec_id="0001.02"), intent, now)
        assert (is_new, row.taken_back_on) == (False, now.date())
        assert Positions(session).apply(row, intent.strategy, at=now).quantity == 3


def test_a_later_version_of_it_counts(
    database: Database, intent: OrderIntent, new_execution: Any, now: datetime
) -> None:
    with database.write() as session:
        row, _ = Executions(session).record(SOURCE, new_execution(exec_id="0001.03"), intent, now)
        assert Positions(session).apply(row, intent.strategy, at=now).quantity == 7
