"""What nobody knows is told to people after a bounded time, though no gateway can be asked and no task comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.errors import NotLeader
from airflow_ibkr_plugin.service.overdue import ALERT_AFTER, alert_overdue
from airflow_ibkr_plugin.service.term import stand
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import AlertRow
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderType, Side, TimeInForce

SENT = datetime(2026, 3, 2, 15, tzinfo=UTC)
both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def sent(database: Database, state: IntentState, run_id: str = "1") -> str:
    """An order that was first sent at SENT, and stands like this now."""
    key = IntentKey(installation="t", dag_id="demo", run_id=run_id, task_id="order", con_id=1)
    with database.write() as session:
        row, _ = Intents(session).get_or_create(
            key,
            strategy="demo",
            source="paper:gone",
            account="DU1",
            mode="paper",
            symbol="SPY",
            instrument={},
            side=Side.BUY,
            quantity=Decimal(10),
            requested_quantity=Decimal(10),
            order_type=OrderType.MARKET,
            tif=TimeInForce.DAY,
            currency="USD",
            created_at=SENT,
        )
        row.state, row.sent_at, row.reason = state, SENT, "no answer"
    return key.order_ref


def alerts(database: Database) -> list[AlertRow]:
    with database.read() as session:
        return Alerts(session).due(datetime(2100, 1, 1, tzinfo=UTC))


@both
@pytest.mark.parametrize("state", [IntentState.SENDING, IntentState.AMBIGUOUS])
def test_it_is_told_once_when_its_time_is_over(database: Database, state: IntentState) -> None:
    order_ref = sent(database, state)
    with freeze_time(SENT) as clock:
        term = stand(database, "a", seconds=9_000)
        assert term is not None
        clock.tick(ALERT_AFTER - timedelta(seconds=1))
        assert alert_overdue(database, term)
        assert alerts(database) == []
        clock.tick(1)
        assert alert_overdue(database, term)
        clock.tick(600)
        assert alert_overdue(database, term)
        (alert,) = alerts(database)
    assert (alert.severity, alert.created_at, alert.strategy) == ("critical", SENT + ALERT_AFTER, "demo")
    assert f"{order_ref} (BUY 10 SPY, account DU1): no answer" in alert.body
    assert f"airflow ibkr orders settle {order_ref} --as" in alert.body


def test_a_worker_that_tries_again_and_again_does_not_put_it_off(database: Database) -> None:
    order_ref = sent(database, IntentState.AMBIGUOUS)
    with freeze_time(SENT) as clock:
        term = stand(database, "a", seconds=9_000)
        assert term is not None
        clock.tick(ALERT_AFTER)
        with database.write() as session:
            row: Any = Intents(session).by_order_ref(order_ref)
            row.updated_at = datetime.now(UTC)
            assert Intents(session).acquire_lease(row.id, "worker", now=datetime.now(UTC), seconds=60)
        assert alert_overdue(database, term)
        assert len(alerts(database)) == 1


@pytest.mark.parametrize("state", sorted(set(IntentState) - {IntentState.SENDING, IntentState.AMBIGUOUS}))
def test_what_is_known_is_not_told(database: Database, state: IntentState) -> None:
    sent(database, state)
    with freeze_time(SENT + 2 * ALERT_AFTER):
        term = stand(database, "a", seconds=9_000)
        assert term is not None
        assert alert_overdue(database, term)
    assert alerts(database) == []


def test_nothing_is_stored_in_the_name_of_a_term_that_is_over(database: Database) -> None:
    sent(database, IntentState.AMBIGUOUS)
    with freeze_time(SENT + 2 * ALERT_AFTER):
        term = stand(database, "a", seconds=9_000)
        assert term is not None
        term.end()
        with pytest.raises(NotLeader):
            alert_overdue(database, term)
    assert alerts(database) == []


def test_a_service_tells_people_though_the_gateway_is_away_and_the_task_has_given_up(
    servers: Any, until: Any, database: Database
) -> None:
    order_ref = sent(database, IntentState.AMBIGUOUS)
    servers.start()
    titles = until("told", lambda: [row for row in alerts(database) if order_ref in row.body])
    assert [row.title for row in titles] == ["[IBKR] demo: order SPY needs a human"]
