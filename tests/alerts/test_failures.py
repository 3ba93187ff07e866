from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from airflow_ibkr_plugin.alerts.failures import record_failure, run_failed
from airflow_ibkr_plugin.alerts.messages import NO_ORDERS
from airflow_ibkr_plugin.alerts.sender import NO_TARGET
from airflow_ibkr_plugin.errors import AmbiguousOrder, OrderRejected
from airflow_ibkr_plugin.settings import Settings
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.failures import Failures
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState

NOW = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
DAG, RUN = "momentum", "scheduled__2026-01-05"


def options(*urls: str) -> Settings:
    return Settings(
        sql_alchemy_conn="",
        workflows_folder=Path("/nowhere"),
        charts_url="",
        mlflow_tracking_uri="",
        mlflow_ui_url="",
        allow_live=False,
        alert_urls=urls,
        packages_blocked=(),
        airflow_base_url="",
        reconcile_seconds=300,
        reconcile_max_age=900,
    )


def fail(database: Database, error: Exception, task_id: str = "order", try_number: int = 3) -> None:
    with database.write() as session:
        record_failure(
            session,
            dag_id=DAG,
            run_id=RUN,
            task_id=task_id,
            map_index=2,
            try_number=try_number,
            error=error,
            traceback="Traceback ...",
            log_url="http://airflow/log",
            at=NOW,
        )


def call(database: Database, *urls: str, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "dag_id": DAG,
        "run_id": RUN,
        "strategy": "momentum",
        "reason": "task_failure",
        "failed_tasks": ["order[2]"],
        "log_tail": "the end of the log",
        "airflow_url": "http://airflow/run",
        "mlflow_url": "http://mlflow/run",
        "at": NOW,
    }
    return run_failed(database, options(*urls), **(arguments | changes))


def bodies(database: Database) -> list[str]:
    with database.read() as session:
        return [row.body for row in Alerts(session).due(NOW + timedelta(days=9))]


def add_intent(database: Database, con_id: int, *states: IntentState, **changes: Any) -> None:
    key = IntentKey(installation="i", dag_id=DAG, run_id=RUN, task_id="order", con_id=con_id)
    fields: dict[str, Any] = {
        "strategy": "momentum",
        "source": "simulator:ibkr_default",
        "account": "DU1",
        "mode": "paper",
        "symbol": f"S{con_id}",
        "instrument": {},
        "side": "BUY",
        "quantity": Decimal("10"),
        "requested_quantity": Decimal("10"),
        "order_type": "MKT",
        "tif": "DAY",
        "currency": "USD",
        "created_at": NOW,
    }
    with database.write() as session:
        intent, _ = Intents(session).get_or_create(key, **(fields | changes))
        for state in states:
            Intents(session).transition(intent, state, at=NOW, reason="test")


def test_a_failure_is_stored_once_for_each_try(database: Database) -> None:
    error = OrderRejected("201: no margin.", remedy="Lower the size.")
    fail(database, error)
    fail(database, error)
    fail(database, RuntimeError("not ours"), try_number=4)
    with database.read() as session:
        rows = Failures(session).for_run(DAG, RUN)
    assert [(r.try_number, r.family, r.error_type, r.message) for r in rows] == [
        (3, "fatal", "OrderRejected", "201: no margin. Lower the size."),
        (4, "", "RuntimeError", "not ours"),
    ]


def test_the_alert_arrives_and_says_it_all(database: Database, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/alerts", method="POST").respond_with_data("")
    fail(database, AmbiguousOrder("order 7 is in doubt.", remedy="Ask the broker."))
    add_intent(database, 1, IntentState.RESERVED, IntentState.SENDING, IntentState.FILLED)
    add_intent(database, 2, IntentState.RESERVED, IntentState.SENDING, IntentState.AMBIGUOUS)
    add_intent(database, 3, IntentState.DENIED)

    assert call(database, f"json://127.0.0.1:{httpserver.port}/alerts").delivered == 1

    ((request, _),) = httpserver.log
    sent = request.get_json()
    assert sent["title"] == "[IBKR] momentum: run failed"
    text = sent["message"]
    assert text.startswith("order[2] failed: AmbiguousOrder: order 7 is in doubt. Ask the broker.")
    assert "Order BUY 10 S1 MKT: filled" in text
    assert "Order BUY 10 S2 MKT: ambiguous - not known whether the broker has it" in text
    assert "S3" not in text
    for part in ("http://airflow/run", "http://mlflow/run", "the end of the log", "A person must act first"):
        assert part in text
    with database.read() as session:
        (of_run,) = [row for row in Failures(session).for_run(DAG, RUN) if not row.task_id]
    assert (of_run.error_type, of_run.log_url) == ("task_failure", "http://airflow/run")


def test_without_a_target_it_stays_stored(database: Database) -> None:
    fail(database, OrderRejected("no"))
    result = call(database)
    assert (result.waiting, result.error) == (1, NO_TARGET)
    assert NO_ORDERS in bodies(database)[0]


def test_the_same_failure_alerts_once_and_a_new_one_again(database: Database) -> None:
    fail(database, OrderRejected("no"))
    call(database)
    call(database, at=NOW + timedelta(days=1))
    assert len(bodies(database)) == 1
    fail(database, OrderRejected("no again"), try_number=4)
    call(database)
    assert len(bodies(database)) == 2
    with database.read() as session:
        assert len([row for row in Failures(session).for_run(DAG, RUN) if not row.task_id]) == 2


def test_killed_before_any_task_could_tell(database: Database) -> None:
    call(database, failed_tasks=[])
    call(database, failed_tasks=[])
    (body,) = bodies(database)
    assert "killed" in body


def test_a_run_that_is_killed_on_another_day_alerts_again(database: Database) -> None:
    for day in (0, 0, 1):
        call(database, failed_tasks=[], at=NOW + timedelta(days=day))
    assert len(bodies(database)) == 2


def test_the_last_failure_of_a_task_is_the_cause(database: Database) -> None:
    fail(database, RuntimeError("the first try"), try_number=1)
    fail(database, OrderRejected("the second try"), try_number=2)
    call(database)
    assert bodies(database)[0].startswith("order[2] failed: OrderRejected: the second try")


def test_a_task_that_is_not_mapped_has_no_index(database: Database) -> None:
    with database.write() as session:
        record_failure(
            session, dag_id=DAG, run_id=RUN, task_id="auth", map_index=-1, try_number=1, at=NOW,
            error_type="Killed", message="by the kernel",
        )  # fmt: skip
    call(database, failed_tasks=["auth"])
    assert bodies(database)[0].startswith("auth failed: Killed: by the kernel")


def test_an_order_is_told_with_its_price_and_the_brokers_number(database: Database) -> None:
    limit = {"order_type": "LMT", "limit_price": Decimal("98.5"), "quantity": Decimal("100"), "perm_id": 4711}
    add_intent(database, 1, IntentState.RESERVED, IntentState.SENDING, IntentState.REJECTED, **limit)
    call(database)
    assert "Order BUY 100 S1 LMT at 98.5: rejected (permId 4711, ref " in bodies(database)[0]


def test_a_try_that_was_made_good_is_not_the_cause(database: Database) -> None:
    fail(database, RuntimeError("a passing fault"), task_id="chart", try_number=1)
    call(database, failed_tasks=["order[2]"])
    assert "passing fault" not in bodies(database)[0]


def test_a_broken_target_raises_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    fail(database, OrderRejected("no"))
    with caplog.at_level(logging.DEBUG):
        result = call(database, "nosuch://s3cret@host", "json://user:s3cret@127.0.0.1:1/s3cret")
    assert result.waiting == 1
    assert "s3cret" not in caplog.text
