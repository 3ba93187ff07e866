"""A real MLflow server on a free port, and a trading database of its own for each test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_ibkr_plugin.cli.local.layout import Ports
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.runs import Runs

START = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)


@dataclass
class MlflowServer:
    """One server process; its files outlive it, so that it can be started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | quiet)
        deadline = time.monotonic() + 300  # it ends at once if the server does
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        assert self.process is not None
        family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for one in family:
            one.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for one in alive:
            one.kill()
        self.process.wait()
        self.process = None


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), Ports.free().mlflow)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.stop()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on a busy machine may take its time; tests of time-outs set their own."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")


@pytest.fixture
def client(mlflow_server: MlflowServer) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow_server.uri)


@pytest.fixture
def database(trading_database: Database) -> Database:
    """The installation's trading database."""
    return trading_database


StoreRun = Callable[..., tuple[str, str]]


@pytest.fixture
def store_run(database: Database) -> StoreRun:
    """Store a DAG run as its first task does; returns (dag_id, run_id)."""

    def store(dag_id: str, run_id: str = "scheduled__2026-01-05T14:30:00+00:00") -> tuple[str, str]:
        with database.write() as session:
            Runs(session).get_or_create(
                dag_id, run_id, strategy=dag_id, mode="paper", config={}, config_hash="abc", started_at=START
            )
        return (dag_id, run_id)

    return store


@pytest.fixture
def run(store_run: StoreRun) -> tuple[str, str]:
    """A DAG run of a strategy that no other test has."""
    return store_run(f"dag-{uuid.uuid4().hex[:8]}")
