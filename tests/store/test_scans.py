"""What is asked for every few seconds reads what is there to be done, not all that ever was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.bookings import Bookings
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.models import Base, ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.reconciliations import Reconciliations, places
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.store.unheld import UnheldIntents
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.orders import IntentState

MANY = 3000
Query = Callable[[Session, datetime], Any]
QUERIES: dict[str, Query] = {
    "to_follow": lambda session, now: UnheldIntents(session, now).to_follow(since=now - timedelta(days=1)),
    "to_follow of a source": lambda session, now: UnheldIntents(session, now).to_follow(since=now, source="paper:x"),
    "reserved": lambda session, now: UnheldIntents(session, now).reserved(),
    "release_unheld": lambda session, now: Intents(session).release_unheld("paper:x", "DU1", now=now),
    "unknown": lambda session, now: Intents(session).unknown(sent_before=now),
    "places": lambda session, now: places(session),
    "open_entries": lambda session, now: Units(session).open_entries(now=now),
    "uncancelled": lambda session, now: TradingCommands(session).uncancelled(),
}
#: In the transaction that reserves, or that begins to send, while the account waits.
RESERVING: dict[str, Query] = {
    "open": lambda session, now: AccountOrders(session, "paper:x", "DU1", excluding=1).open(),
    "account's day": lambda session, now: AccountOrders(session, "paper:x", "DU1").count_on_day(now.date()),
    "history": lambda session, now: AccountOrders(session, "paper:x", "DU1").history(now=now, seconds=60, most=100),
    "strategy's day": lambda session, now: Intents(session).count_on_day("s", now.date(), excluding=1),
    "results": lambda session, now: Executions(session).results("paper:x", "DU1", "s", since=now, most=100),
    "fills of an order": lambda session, now: Executions(session).for_intent(2),
    "bookings": lambda session, now: Bookings(session, "paper:x", "DU1").since(10),
    "exits": lambda session, now: Units(session).exits(1),
    "closing": lambda session, now: Units(session).closing("paper:x", "DU1", "s", 1, legs=frozenset("a"), now=now),
    "left to close": lambda session, now: TradingCommands(session).left_to_close("1", may_fill=True, excluding=1),
    "cancel wanted": lambda session, now: TradingCommands(session).wants_cancelled(1),
    "reconciled": lambda session, now: Reconciliations(session, "paper:x", "DU1").last(),
    "limits": lambda session, now: Limits(session).in_force("DU1", now),
}


@pytest.fixture
def history(database: Database, make_intent: Any, new_execution: Any, now: datetime) -> None:
    """Thousands of orders that have filled, one that works, one that is reserved, one whose commission has not come."""
    intent = make_intent(state=IntentState.FILLED)
    with database.write() as session:
        Executions(session).record(intent.source, new_execution(commission=Decimal(1)), intent, now)
        session.flush()
        for model, unique in ((OrderIntent, "order_ref"), (ExecutionRow, "exec_id")):
            copy_rows(session, model, unique)
    with database.write() as session:
        first, second, third = session.query(OrderIntent).order_by(OrderIntent.id.desc()).limit(3)
        first.state, second.state = IntentState.WORKING, IntentState.RESERVED
        fill = session.query(ExecutionRow).order_by(ExecutionRow.exec_id.desc()).first()
        fill.commission, fill.intent_id = None, third.id
        session.flush()
        if session.get_bind().dialect.name == "postgresql":  # as it does by itself after a minute
            session.execute(text("ANALYZE"))


def copy_rows(session: Session, model: type[Base], unique: str) -> None:
    """Many rows like the one that is there."""
    table = model.__table__
    names = [column.name for column in table.columns if column.name != "id"]
    values = ", ".join(f"{unique} || '-' || n" if name == unique else name for name in names)
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {MANY})"
    columns = ", ".join(names)
    session.execute(text(f"{numbers} INSERT INTO {table.name} ({columns}) SELECT {values} FROM {table.name}, numbers"))


@contextmanager
def plans(session: Session) -> Iterator[list[str]]:
    """The plan of each SELECT of the session."""
    connection, found = session.connection(), list[str]()
    sqlite = connection.dialect.name == "sqlite"

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            ask = connection.connection.cursor()
            ask.execute(f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{statement}", parameters)
            found.append("\n".join(str(row[-1]) for row in ask.fetchall()))

    event.listen(connection, "before_cursor_execute", explain)
    yield found
    event.remove(connection, "before_cursor_execute", explain)


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("name", [*QUERIES, *RESERVING])
def test_no_query_of_the_service_or_the_risk_check_reads_all_intents_or_executions(
    database: Database, now: datetime, name: str
) -> None:
    with database.write() as session, plans(session) as found:
        (QUERIES | RESERVING)[name](session, now)
    assert found
    for plan in found:  # SQLite: SCAN intents; PostgreSQL: Seq Scan on intents, also by all of an index
        assert not re.search(r"(?i)\bscan (on )?(intents|executions)", plan), plan


@pytest.mark.usefixtures("history")
def test_what_is_to_be_done_is_found_among_thousands(database: Database, now: datetime) -> None:
    with database.read() as session:
        due = UnheldIntents(session, now).to_follow(since=now - timedelta(days=1))
        assert [row.state for row in due] == [IntentState.FILLED, IntentState.WORKING]
        assert len(UnheldIntents(session, now).reserved()) == 1
        assert session.query(OrderIntent).count() == MANY + 1
