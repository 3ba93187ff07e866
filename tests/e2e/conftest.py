"""A whole installation inside the test process: simulated gateway on replayed prices, trading database, charts.

The DAGs run by Airflow's own `dag.test()`; MLflow is absent unless a test starts it, and its outbox keeps the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

CLOCK = datetime(2018, 6, 13, 14, 30, tzinfo=UTC)  # a Wednesday, an hour into the session


@pytest.fixture(scope="session")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded index histories, as the simulator reads them."""
    from airflow_ibkr_plugin.cli.local.replay import write_replay

    folder = tmp_path_factory.mktemp("replay")
    write_replay(folder)
    return folder


@pytest.fixture
def gateway(replay: Path) -> Iterator[Any]:
    """A simulated gateway in a session."""
    from airflow_ibkr_plugin.simulator.embedded import start_simulator

    simulator = start_simulator(seed=7, clock=CLOCK, replay=replay, account="DU1234567")
    yield simulator
    simulator.stop()


@pytest.fixture
def installation(
    gateway: Any,
    airflow_home: Path,
    trading_database: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unused_port: int,
) -> Path:
    """Settings of one installation: an empty trading database, charts in a folder, nobody at MLflow's address."""
    monkeypatch.setenv("AIRFLOW__IBKR__CHARTS_URL", f"file://{tmp_path / 'charts'}")
    monkeypatch.setenv("AIRFLOW__IBKR__MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    extra = {"account": "DU1234567", "client_ids": "10-25"}
    connection = {"conn_type": "ibkr", "host": "127.0.0.1", "port": gateway.port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", json.dumps(connection))
    return tmp_path
