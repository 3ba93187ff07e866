"""The market data task where IBKR's pacing lets it wait: deferred, with its place in line, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from airflow_ibkr_plugin.errors import PacingViolation
from airflow_ibkr_plugin.operators.market_data import MarketDataOperator
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.failures import Failures
from airflow_ibkr_plugin.store.models.connections import ClientLease
from airflow_ibkr_plugin.store.models.market import PacingRequest
from airflow_ibkr_plugin.store.pacing_events import PacingEvents
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

IN_SESSION = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)  # a Tuesday, 11:00 in New York


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatorHandle]:
    with start_simulator(seed=7, clock=IN_SESSION, account="DU1234567") as simulator:
        connection = {"conn_type": "ibkr", "host": "127.0.0.1", "port": simulator.port, "extra": {"timeout": 5}}
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", json.dumps(connection))
        yield simulator


@pytest.fixture
def complain(gateway: SimulatorHandle, trading_database: Database) -> Callable[[], None]:
    """IBKR has complained just now: nothing is sent for 15 s."""

    def now() -> None:
        at = datetime.now(UTC)
        with trading_database.write() as session:
            PacingEvents(session).add(f"127.0.0.1:{gateway.port}", "SPY", 162, "pacing", sent_at=at, at=at)

    return now


def context(started: datetime | None = None) -> dict[str, Any]:
    names = {"dag_id": "d", "run_id": "r1", "task_id": "bars", "map_index": -1, "try_number": 1, "log_url": ""}
    return {"ti": SimpleNamespace(**names, start_date=started or datetime.now(UTC))}


def task() -> MarketDataOperator:
    return MarketDataOperator(task_id="bars", strategy="d", symbol="SPY", duration="5 D")


def durations(database: Database) -> list[float]:
    with database.read() as session:
        rows = TrackingOutbox(session).pending(None, "d", "r1", limit=10)
    return [row.payload["values"]["task/bars/duration_s"] for row in rows if "values" in row.payload]


def test_a_long_wait_is_deferred_and_counts_into_the_tasks_duration(
    trading_database: Database, complain: Callable[[], None]
) -> None:
    complain()
    began = datetime.now(UTC)
    with pytest.raises(TaskDeferred) as deferred:
        task().execute(context(began))
    assert deferred.value.trigger.moment > began
    assert deferred.value.method_name == "resume"
    with trading_database.write() as session:
        (place,) = session.query(PacingRequest)
        assert place.sent_at is None  # kept, while neither a slot nor a client id is
        assert session.query(ClientLease).count() == 0
        assert Failures(session).for_run("d", "r1") == []
        for event in PacingEvents(session).recent(place.gateway, began - timedelta(1)):
            session.delete(event)
    assert durations(trading_database) == []
    assert task().resume(context(began - timedelta(minutes=7)), None)["count"] == 5
    (seconds,) = durations(trading_database)
    assert seconds >= 420


def test_one_that_has_waited_for_two_hours_is_left_to_the_retries(
    trading_database: Database, complain: Callable[[], None]
) -> None:
    complain()
    with pytest.raises(PacingViolation, match="leave no room"):
        task().resume(context(datetime.now(UTC) - timedelta(hours=2)), None)
    with trading_database.read() as session:
        (failure,) = Failures(session).for_run("d", "r1")
    assert failure.error_type == "PacingViolation"
    (seconds,) = durations(trading_database)
    assert seconds >= 7200
