from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import StoreError
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.failures import Failures
from airflow_ibkr_plugin.store.models import Run, RunState
from airflow_ibkr_plugin.store.overrides import Overrides
from airflow_ibkr_plugin.store.runs import Runs


def start(database: Database, now: datetime, run_id: str = "r1", dag_id: str = "d", **changes: Any) -> tuple[Run, bool]:
    fields = {"strategy": dag_id, "mode": "paper", "config": {"a": 1}, "config_hash": "h1", "started_at": now} | changes
    with database.write() as session:
        return Runs(session).get_or_create(dag_id, run_id, **fields)


def test_a_run_keeps_the_configuration_it_began_with(database: Database, now: datetime) -> None:
    first, created = start(database, now)
    assert created
    assert (first.state, first.created_at, first.ended_at, first.simulated_clock) == (
        RunState.RUNNING,
        now,
        None,
        False,
    )
    again, created = start(database, now + timedelta(hours=1), config={"a": 2}, config_hash="h2")
    assert not created
    assert (again.id, again.config, again.config_hash, again.started_at) == (first.id, {"a": 1}, "h1", now)


def test_a_run_ends_and_ends_again(database: Database, now: datetime) -> None:
    start(database, now)
    with database.write() as session:
        assert Runs(session).finish("d", "r1", "failed", now).state is RunState.FAILED
        row = Runs(session).finish("d", "r1", RunState.SUCCESS, now + timedelta(hours=1))
        assert (row.state, row.ended_at) == (RunState.SUCCESS, now + timedelta(hours=1))
    with pytest.raises(StoreError, match="not in the trading database"), database.write() as session:
        Runs(session).finish("d", "r9", "failed", now)
    with pytest.raises(ValueError, match="green"), database.write() as session:
        Runs(session).finish("d", "r1", "green", now)


def test_newest_runs(database: Database, now: datetime) -> None:
    for dag_id, run_id in (("b", "r1"), ("a", "r1"), ("b", "r2")):
        start(database, now, run_id, dag_id)
    with database.read() as session:
        runs = Runs(session)
        assert runs.latest("b").run_id == "r2"  # type: ignore[union-attr]
        assert runs.latest("c") is None
        assert runs.get("b", "r9") is None


def test_one_claims_a_run(database: Database, race: Any, now: datetime) -> None:
    start(database, now)

    def work(database: Database, number: int) -> bool:
        with database.write() as session:
            return Runs(session).claim_mlflow("d", "r1", f"w{number}", now, 30)

    assert sum(race(work, 8)) == 1


def test_claims(database: Database, now: datetime) -> None:
    start(database, now)
    with database.write() as session:
        runs = Runs(session)
        assert not runs.claim_mlflow("d", "r9", "x", now, 30)
        assert runs.claim_mlflow("d", "r1", "x", now, 30)
        assert runs.claim_mlflow("d", "r1", "x", now + timedelta(seconds=10), 30)  # longer
        assert not runs.claim_mlflow("d", "r1", "y", now + timedelta(seconds=39), 30)
        assert runs.claim_mlflow("d", "r1", "y", now + timedelta(seconds=40), 30)
        assert not runs.release_mlflow("d", "r1", "x")
        assert runs.release_mlflow("d", "r1", "y")
        assert runs.claim_mlflow("d", "r1", "x", now, 30)


def test_the_first_mlflow_run_stays(database: Database, now: datetime) -> None:
    start(database, now)
    with database.write() as session:
        runs = Runs(session)
        runs.claim_mlflow("d", "r1", "x", now, 30)
        assert runs.set_mlflow("d", "r1", "ibkr/d", "7", "abc")
        assert not runs.set_mlflow("d", "r1", "ibkr/d", "7", "def")
        assert not runs.claim_mlflow("d", "r1", "y", now, 30)  # binding ends no claim
    with database.read() as session:
        row = Runs(session).get("d", "r1")
    assert row is not None
    assert (row.mlflow_experiment, row.mlflow_experiment_id, row.mlflow_run_id) == ("ibkr/d", "7", "abc")


def test_overrides_have_versions(database: Database, now: datetime) -> None:
    with database.write() as session:
        overrides = Overrides(session)
        assert overrides.active("a") is None
        assert overrides.add("a", {"x": 1}, "ann", "why", now).version == 1
        assert overrides.add("a", {"x": 2}, "bob", "because", now).version == 2
        overrides.add("b", {}, "ann", "", now)
    with database.read() as session:
        overrides = Overrides(session)
        active = overrides.active("a")
        assert active is not None
        assert (active.version, active.parameters, active.author) == (2, {"x": 2}, "bob")
        assert {name: row.version for name, row in overrides.all_active().items()} == {"a": 2, "b": 1}


def test_overrides_at_once(database: Database, race: Any, now: datetime) -> None:
    def work(database: Database, number: int) -> int:
        with database.write() as session:
            return Overrides(session).add("a", {"n": number}, "ann", "", now).version

    assert sorted(race(work, 6)) == [1, 2, 3, 4, 5, 6]
    with database.read() as session:
        assert Overrides(session).active("a").version == 6  # type: ignore[union-attr]


def test_failures_are_kept_once_per_try(database: Database, now: datetime) -> None:
    fields: dict[str, Any] = {
        "dag_id": "d",
        "run_id": "r1",
        "task_id": "order",
        "map_index": -1,
        "try_number": 1,
        "family": "retry",
        "error_type": "BrokerTimeout",
        "message": "late",
        "traceback": "Traceback\0",
        "log_url": "http://x",
        "created_at": now,
    }
    with database.write() as session:
        failures = Failures(session)
        first = failures.add(**fields)
        assert failures.add(**(fields | {"message": "again"})).id == first.id
        failures.add(**(fields | {"try_number": 2}))
        failures.add(**(fields | {"map_index": 0}))
        failures.add(**(fields | {"run_id": "r2"}))
    with database.read() as session:
        found = Failures(session).for_run("d", "r1")
    assert [(f.map_index, f.try_number, f.message) for f in found] == [(-1, 1, "late"), (-1, 2, "late"), (0, 1, "late")]
    assert found[0].traceback == "Traceback\ufffd"
