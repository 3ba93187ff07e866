"""The writer against a real MLflow server."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox
from airflow_ibkr_plugin.tracking.records import (
    begin_run,
    end_run,
    log_artifact,
    log_metrics,
    log_params,
    set_tags,
)
from airflow_ibkr_plugin.tracking.writer import DrainResult, back_off, drain

Key = tuple[str, str]
START = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
START_MS = 1767623400000
LATER = START + timedelta(hours=2)


def open_run(database: Database, key: Key, params: dict[str, object] | None = None) -> None:
    with database.write() as session:
        row = Runs(session).get(*key)
        assert row is not None
        begin_run(session, row, params or {"symbols": "SPX"}, {"ibkr.run_type": "scheduled"}, START)


def mlflow_run_of(database: Database, client: Any, key: Key) -> Any:
    with database.read() as session:
        row = Runs(session).get(*key)
        assert row is not None
        assert row.mlflow_run_id is not None
        return client.get_run(row.mlflow_run_id)


def test_a_whole_run(database: Database, run: Key, mlflow_server: Any, client: Any, tmp_path: Path) -> None:
    chart = tmp_path / "SPX-1234.png"
    chart.write_bytes(b"a chart")
    open_run(database, run, {"empty": "", "long": "x" * 7000})
    with database.write() as session:
        for minute in range(3):
            log_metrics(session, run, {"portfolio/pnl": 10.0 * minute}, START + timedelta(minutes=minute), step=minute)
        log_artifact(session, run, chart.as_uri(), "charts", hashlib.sha256(b"a chart").hexdigest(), START)
        set_tags(session, run, {"failed": ""}, START)
        end_run(session, run, "FINISHED", START + timedelta(minutes=5))

    result = drain(database, mlflow_server.uri, now=LATER, deadline_seconds=60)

    assert result == DrainResult(sent=9, left=0, error=None)
    stored = mlflow_run_of(database, client, run)
    assert stored.info.status == "FINISHED"
    assert (stored.info.start_time, stored.info.end_time) == (START_MS, START_MS + 300_000)
    assert stored.info.run_name == "2026-01-05 14:30:00 scheduled"
    assert client.get_experiment(stored.info.experiment_id).name == f"ibkr/{run[0]}"
    assert stored.data.params["empty"] == ""
    assert stored.data.params["long"].endswith("[cut; 7000 characters in all]")
    assert stored.data.tags["ibkr.dag_id"] == run[0]
    assert stored.data.tags["ibkr.run_id"] == run[1]
    assert stored.data.tags["ibkr.run_type"] == "scheduled"
    history = client.get_metric_history(stored.info.run_id, "portfolio/pnl")
    assert [(m.value, m.step, m.timestamp) for m in history] == [(10.0 * i, i, START_MS + 60_000 * i) for i in range(3)]
    local = client.download_artifacts(stored.info.run_id, "charts/SPX-1234.png", str(tmp_path))
    assert Path(local).read_bytes() == b"a chart"


def test_more_than_a_request_holds(database: Database, run: Key, mlflow_server: Any, client: Any) -> None:
    params = {f"p{i:03}": f"{i}é" * 1500 for i in range(120)}
    open_run(database, run, dict(params))
    with database.write() as session:
        log_metrics(session, run, {f"m{i:04}": float(i) for i in range(2100)}, START)
        set_tags(session, run, {f"t{i:03}": str(i) for i in range(120)}, START)
    assert drain(database, mlflow_server.uri, now=LATER, deadline_seconds=60).left == 0
    stored = mlflow_run_of(database, client, run)
    assert len(stored.data.params) == 120
    assert stored.data.metrics == {f"m{i:04}": float(i) for i in range(2100)}
    assert {f"t{i:03}" for i in range(120)} <= set(stored.data.tags)


def test_a_cleared_run_opens_again(database: Database, run: Key, mlflow_server: Any, client: Any) -> None:
    open_run(database, run)
    with database.write() as session:
        end_run(session, run, "FAILED", START)
    drain(database, mlflow_server.uri, now=LATER, deadline_seconds=60)
    assert mlflow_run_of(database, client, run).info.status == "FAILED"
    open_run(database, run)
    drain(database, mlflow_server.uri, now=LATER, deadline_seconds=60)
    assert mlflow_run_of(database, client, run).info.status == "RUNNING"
    with database.write() as session:
        end_run(session, run, "FINISHED", START + timedelta(minutes=1))
    drain(database, mlflow_server.uri, now=LATER, deadline_seconds=60)
    ended = mlflow_run_of(database, client, run).info
    assert (ended.status, ended.end_time) == ("FINISHED", START_MS + 60_000)


def test_server_down_then_up_again(
    database: Database, run: Key, mlflow_server: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    mlflow_server.stop()
    try:
        open_run(database, run)
        with database.write() as session:
            for n in range(20):
                set_tags(session, run, {"n": n}, START)
                log_metrics(session, run, {"n": n}, START + timedelta(seconds=n), step=n)
            end_run(session, run, "FAILED", START + timedelta(seconds=30))
        down = drain(database, mlflow_server.uri, now=START, deadline_seconds=6)
    finally:
        mlflow_server.start()
    assert (down.sent, down.left) == (0, 44)
    assert down.error is not None
    assert "mlflow_tracking_uri" in down.error

    # Its first row is in back-off, and the rows behind it do not overtake it.
    assert drain(database, mlflow_server.uri, now=START, deadline_seconds=6) == DrainResult(0, 44, None)

    up = drain(database, mlflow_server.uri, now=START + timedelta(hours=1), deadline_seconds=60)
    assert up == DrainResult(44, 0, None)
    stored = mlflow_run_of(database, client, run)
    assert (stored.info.status, stored.info.end_time) == ("FAILED", START_MS + 30_000)
    assert stored.data.tags["n"] == "19"
    history = client.get_metric_history(stored.info.run_id, "n")
    assert [(m.value, m.timestamp) for m in history] == [(float(n), START_MS + 1000 * n) for n in range(20)]


def test_a_named_run_does_not_wait_for_its_back_off(
    database: Database, run: Key, mlflow_server: Any, unused_port: int
) -> None:
    open_run(database, run)
    dead = f"http://127.0.0.1:{unused_port}"
    assert drain(database, dead, now=START, deadline_seconds=6).error is not None
    named = drain(database, mlflow_server.uri, now=START, deadline_seconds=60, dag_id=run[0], run_id=run[1])
    assert named == DrainResult(3, 0, None)


def test_a_server_that_never_answers_is_asked_once(
    database: Database, run: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    open_run(database, run)
    asked: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as hole:

        def accept() -> None:
            while True:
                try:
                    asked.append(hole.accept()[0])
                except OSError:
                    return

        listener = threading.Thread(target=accept)
        listener.start()
        result = drain(database, f"http://127.0.0.1:{hole.getsockname()[1]}", now=START, deadline_seconds=6)
        hole.shutdown(socket.SHUT_RDWR)
        listener.join()
    for connection in asked:
        connection.close()
    assert (result.sent, result.left, len(asked)) == (0, 3, 1)
    assert result.error is not None
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"


def test_no_time_no_request(database: Database, run: Key, mlflow_server: Any) -> None:
    open_run(database, run)
    assert drain(database, mlflow_server.uri, now=START, deadline_seconds=0) == DrainResult(0, 3, None)


def test_what_mlflow_refuses_is_said_on_the_run_and_holds_up_nothing(
    database: Database, run: Key, mlflow_server: Any, client: Any, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.png"
    changed.write_bytes(b"other bytes")
    digest = hashlib.sha256(b"a chart").hexdigest()
    open_run(database, run, {"size": 1})
    with database.write() as session:
        log_params(session, run, {"size": 2}, START)
        log_artifact(session, run, str(tmp_path / "gone.png"), "charts", digest, START)
        log_artifact(session, run, str(changed), "charts", digest, START)
        log_metrics(session, run, {"after": 1.0}, START)
        end_run(session, run, "FINISHED", START)
    assert drain(database, mlflow_server.uri, now=LATER, deadline_seconds=60).left == 0
    stored = mlflow_run_of(database, client, run)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"size": "1"}
    assert stored.data.metrics == {"after": 1.0}
    refused = [value for name, value in stored.data.tags.items() if name.startswith("ibkr.refused.")]
    assert len(refused) == 3
    assert any("size" in value for value in refused)
    assert any("is gone" in value for value in refused)
    assert any("other bytes" in value for value in refused)


def test_a_run_that_cannot_be_sent_does_not_hold_up_others(
    database: Database, run: Key, mlflow_server: Any, store_run: Callable[..., Key], client: Any
) -> None:
    deleted = store_run("dag-deleted-experiment")
    client.delete_experiment(client.create_experiment(f"ibkr/{deleted[0]}"))
    with database.write() as session:
        log_metrics(session, ("never-opened", "r1"), {"a": 1.0}, START)
        log_metrics(session, deleted, {"a": 1.0}, START)
    open_run(database, run)
    result = drain(database, mlflow_server.uri, now=START, deadline_seconds=60)
    assert (result.sent, result.left) == (3, 2)
    assert result.error is not None
    assert "never opened" in result.error
    with database.read() as session:
        errors = [row.last_error for row in TrackingOutbox(session).pending(None, limit=10)]
    assert "mlflow experiments restore" in errors[1]


def test_back_off_doubles_up_to_ten_minutes() -> None:
    assert [back_off(n).total_seconds() for n in (0, 1, 2, 7, 5000)] == [5, 10, 20, 600, 600]
