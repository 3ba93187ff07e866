"""A sensor waits in Airflow's own triggerer: a real process, on the metadata database of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.sdk import DAG
from airflow.sdk.definitions import dag as dag_module
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_ibkr_plugin.sensors.market_open import MarketOpenSensor
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("database", "airflow_home")]


@pytest.fixture
def triggerer(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """`airflow triggerer`; gives what it has said, and fails if it has ended."""
    said = tmp_path / "triggerer.log"
    command = [str(Path(sys.executable).with_name("airflow")), "triggerer", "--skip-serve-logs"]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def output() -> str:
        assert process.poll() is None, said.read_text()
        return said.read_text()

    try:
        yield output
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def task_state(dag_id: str) -> str:
    with create_session() as session:
        return str(session.scalar(select(TaskInstance.state).where(TaskInstance.dag_id == dag_id)))


def test_a_sensor_is_deferred_and_woken_by_a_triggerer(
    gateway: SimulatorHandle,
    run_dag: Callable[..., Any],
    triggerer: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway.control("clock", set="2026-03-14T15:00:00Z")  # a Saturday
    with DAG("deferred") as dag:
        MarketOpenSensor(task_id="wait", strategy="deferred", symbols=["AAPL"], poke_interval=0.2)
    run_task = dag_module._run_task
    states = []

    def run_and_wait(*, run_triggerer: bool, **options: Any) -> Any:
        # `dag.test()` would run the trigger itself; here it is left in the metadata database.
        result = run_task(**options, run_triggerer=False)
        states.append(task_state("deferred"))
        if states[-1] == "deferred":
            gateway.control("clock", set="2026-03-16T15:00:00Z")
            deadline = time.monotonic() + 60
            while task_state("deferred") == "deferred":
                assert time.monotonic() < deadline, triggerer()
                triggerer()
                time.sleep(0.1)
        return result

    monkeypatch.setattr(dag_module, "_run_task", run_and_wait)
    result = run_dag(dag)
    assert states == ["deferred", "success"]
    assert (result.state, result.tasks) == ("success", {("wait", -1): "success"})
