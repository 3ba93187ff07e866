"""What nobody is at work on, and is to be followed or released."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import OrderIntent
from airflow_ibkr_plugin.store.unheld import UnheldIntents
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, IntentState

ELSEWHERE = "paper:other"


def followed(database: Database, now: datetime, **wanted: Any) -> list[int]:
    wanted = {"since": now - timedelta(days=1)} | wanted
    with database.read() as session:
        return [row.id for row in UnheldIntents(session, now).to_follow(**wanted)]


def hold(database: Database, intent: OrderIntent, now: datetime) -> None:
    with database.write() as session:
        assert Intents(session).acquire_lease(intent.id, "worker", now=now, seconds=60)


@pytest.mark.parametrize("state", IntentState)
def test_what_may_be_at_the_broker_is_followed_unless_a_worker_holds_it(
    database: Database, make_intent: Any, now: datetime, state: IntentState
) -> None:
    intent = make_intent(state=state)
    open_ = [intent.id] if state in MAYBE_AT_BROKER else []
    assert followed(database, now) == followed(database, now, source=intent.source) == open_
    assert followed(database, now, source=ELSEWHERE) == []
    hold(database, intent, now)
    assert followed(database, now) == []
    assert followed(database, now + timedelta(seconds=60)) == open_


def test_a_fill_without_its_commission_is_followed_for_a_time(
    database: Database, make_intent: Any, new_execution: Any, now: datetime
) -> None:
    intent = make_intent(state=IntentState.FILLED)
    with database.write() as session:
        Executions(session).record(intent.source, new_execution(commission=None), intent, now)
        Executions(session).record(intent.source, new_execution(exec_id="strange", commission=None), None, now)
    assert followed(database, now) == [intent.id]
    assert followed(database, now, since=now) == []
    with database.write() as session:
        paid = new_execution(commission=Decimal(1), commission_currency="USD")
        Executions(session).record(intent.source, paid, intent, now)
    assert followed(database, now) == []


def test_where_reservations_are_unheld(database: Database, make_intent: Any, new_key: Any, now: datetime) -> None:
    first = make_intent(new_key(run_id="1"), state=IntentState.RESERVED)
    make_intent(new_key(run_id="2"), state=IntentState.RESERVED)
    make_intent(new_key(run_id="3"), state=IntentState.WORKING, account="DU2")
    held = make_intent(new_key(run_id="4"), state=IntentState.RESERVED, account="DU3")
    hold(database, held, now)
    with database.read() as session:
        assert UnheldIntents(session, now).reserved() == [(first.source, first.account)]


def test_client_ids_that_have_run_out_are_forgotten(database: Database, now: datetime) -> None:
    with database.write() as session:
        leases = ClientLeases(session)
        assert leases.acquire("g:4002", [10], "dead", now, 60) == 10
        assert leases.acquire("g:4002", [11], "alive", now, 61) == 11
    with database.write() as session:
        leases = ClientLeases(session)
        assert leases.expire(now + timedelta(seconds=60)) == 1
        assert not leases.release("g:4002", 10, "dead")
        assert leases.release("g:4002", 11, "alive")
