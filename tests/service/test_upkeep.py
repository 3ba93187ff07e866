"""Outboxes are sent and leases expire, whether or not a task runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.errors import AlertNotDelivered, NotLeader, TrackingUnavailable
from airflow_ibkr_plugin.execution import send as sending
from airflow_ibkr_plugin.service.term import stand
from airflow_ibkr_plugin.service.upkeep import expire_leases, record_limits_that_ended, send_alerts, send_records
from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox
from airflow_ibkr_plugin.tracking.records import begin_run
from airflow_ibkr_plugin.trading.orders import IntentState


def killed(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_a_reservation_that_a_crash_left_is_released_and_recorded(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sending, "send", killed)
        order_ref = floor.leave_order(monkeypatch)
    assert floor.intent(order_ref).state is IntentState.RESERVED
    assert expire_leases(floor.database, term)
    assert floor.intent(order_ref).state is IntentState.DECIDED
    with floor.database.read() as session:
        assert TrackingOutbox(session).count_waiting("demo", "run-1") > 0


def test_a_leader_that_was_succeeded_unawares_releases_nothing(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "send", killed)
    order_ref = floor.leave_order(monkeypatch)
    assert term.release()
    assert stand(floor.database, "another") is not None
    assert not term.over()  # by its own clock
    with pytest.raises(NotLeader):
        expire_leases(floor.database, term)
    assert floor.intent(order_ref).state is IntentState.RESERVED


def test_client_ids_of_the_dead_are_forgotten_and_others_kept(database: Database, term: Any) -> None:
    now = datetime.now(UTC)
    with database.write() as session:
        leases = ClientLeases(session)
        assert leases.acquire("a:4002", [10], "dead", now - timedelta(minutes=5), 60) == 10
        assert leases.acquire("a:4002", [11], "alive", now, 60) == 11
    assert expire_leases(database, term)
    with database.write() as session:
        leases = ClientLeases(session)
        assert not leases.release("a:4002", 10, "dead")
        assert leases.release("a:4002", 11, "alive")


def test_a_limit_whose_time_is_over_is_recorded_once(database: Database, term: Any) -> None:
    now = datetime.now(UTC)
    with database.write() as session:
        Limits(session).change(
            "", "order_notional", {"max": 1}, by="anna", reason="r", at=now - timedelta(hours=1), until=now
        )
    for _ in range(2):
        assert record_limits_that_ended(database, term)
    with database.read() as session:
        assert [change.changed_by for change in Limits(session).history()] == ["anna", "expiry"]
    term.end()
    with pytest.raises(NotLeader):
        record_limits_that_ended(database, term)


def test_nothing_expires_in_the_name_of_a_term_that_is_over(database: Database, term: Any) -> None:
    term.end()
    with pytest.raises(NotLeader):
        expire_leases(database, term)


def alert(database: Database) -> None:
    at = datetime.now(UTC)
    message = AlertMessage(severity=Severity.ERROR, title="t", summary="s")
    with database.write() as session:
        enqueue(session, message, dedupe_key="k", strategy="", dag_id="", run_id="", at=at)


def test_alerts_are_delivered(database: Database, httpserver: HTTPServer) -> None:
    httpserver.expect_oneshot_request("/hook", method="POST").respond_with_data("ok")
    alert(database)
    assert send_alerts(database, ())  # no target: nothing is wrong with the service
    assert send_alerts(database, (f"json://127.0.0.1:{httpserver.port}/hook",))
    httpserver.check_assertions()
    assert len(httpserver.log) == 1


def test_a_target_that_is_down_is_a_fault_and_its_rest_is_no_recovery(database: Database, unused_port: int) -> None:
    alert(database)
    urls = (f"json://127.0.0.1:{unused_port}/hook",)
    with pytest.raises(AlertNotDelivered, match="Alerts wait"):
        send_alerts(database, urls)
    assert not send_alerts(database, urls)


def test_mlflow_that_is_down_is_a_fault_and_its_rest_is_no_recovery(database: Database, unused_port: int) -> None:
    import mlflow.tracking  # noqa: F401  its import takes longer than the first rest

    uri, at = f"http://127.0.0.1:{unused_port}", datetime.now(UTC)
    assert send_records(database, uri)
    with database.write() as session:
        run, _ = Runs(session).get_or_create(
            "demo", "run-1", strategy="demo", mode="paper", config={}, config_hash="", started_at=at
        )
        begin_run(session, run, params={}, tags={}, at=at)
    with pytest.raises(TrackingUnavailable, match="Records wait"):
        send_records(database, uri)
    assert not send_records(database, uri)
