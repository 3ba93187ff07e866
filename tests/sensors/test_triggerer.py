"""Tasks wait in Airflow's own triggerer: a real process, on the metadata database of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.sdk import DAG
from airflow.sdk.definitions import dag as dag_module
from airflow.sdk.exceptions import TaskDeferred
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_ibkr_plugin.errors import PacingViolation
from airflow_ibkr_plugin.operators import market_data
from airflow_ibkr_plugin.sensors.market_open import MarketOpenSensor
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import ClientLease, PacingRequest
from airflow_ibkr_plugin.store.pacing_events import PacingEvents

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


@pytest.fixture
def run_and_wait(
    run_dag: Callable[..., Any], triggerer: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Runs a DAG of one task; `dag.test()` would run its trigger itself, here the triggerer does.

    :param before, meanwhile: called before the task starts, and when it has been deferred.
    """
    run_task = dag_module._run_task

    def run(dag: DAG, *, before: Callable[[], None] = lambda: None, meanwhile: Callable[[], None]) -> Any:
        states: list[str] = []

        def run_and_wait(*, run_triggerer: bool, **options: Any) -> Any:
            if not states:
                before()
            result = run_task(**options, run_triggerer=False)
            states.append(task_state(dag.dag_id))
            if states[-1] == "deferred":
                meanwhile()
                deadline = time.monotonic() + 120
                while task_state(dag.dag_id) == "deferred":
                    assert time.monotonic() < deadline, triggerer()
                    triggerer()
                    time.sleep(0.1)
            return result

        monkeypatch.setattr(dag_module, "_run_task", run_and_wait)
        result = run_dag(dag)
        assert states == ["deferred", "success"]
        return result

    return run


def test_a_sensor_is_deferred_and_woken_by_a_triggerer(
    gateway: SimulatorHandle, run_and_wait: Callable[..., Any]
) -> None:
    gateway.control("clock", set="2026-03-14T15:00:00Z")  # a Saturday
    with DAG("deferred") as dag:
        MarketOpenSensor(task_id="wait", strategy="deferred", symbols=["AAPL"], poke_interval=0.2)
    result = run_and_wait(dag, meanwhile=lambda: gateway.control("clock", set="2026-03-16T15:00:00Z"))
    assert (result.state, result.tasks) == ("success", {("wait", -1): "success"})


def test_market_data_waits_for_its_turn_in_the_triggerer(
    gateway: SimulatorHandle, database: Database, run_and_wait: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its place in line kept, and its worker slot and client id free for others."""
    monkeypatch.setattr(market_data, "_SLOT_SECONDS", 0.0)

    def complain() -> None:
        at = datetime.now(UTC) + timedelta(seconds=10)  # that is some more time until the task looks
        with database.write() as session:
            PacingEvents(session).add(
                f"127.0.0.1:{gateway.port}", "another", 162, "pacing violation", sent_at=at, at=at
            )

    def deferred() -> None:
        with database.read() as session:
            assert session.scalars(select(ClientLease)).all() == []
            (waiting,) = session.scalars(select(PacingRequest)).all()
        assert (waiting.sent_at, waiting.owner.split("/")[::2]) == (None, ["paced", "bars", "1"])

    with DAG("paced") as dag:
        market_data.MarketDataOperator(
            task_id="bars", strategy="paced", symbol="AAPL", bar_size="5 secs", duration="600 S"
        )
    result = run_and_wait(dag, before=complain, meanwhile=deferred)
    assert (result.state, result.tasks) == ("success", {("bars", -1): "success"})
    with database.read() as session:
        (sent,) = session.scalars(select(PacingRequest)).all()
    assert sent.sent_at is not None
    assert (sent.sent_at - sent.asked_at).total_seconds() > 1


def test_market_data_does_not_wait_for_ever(
    gateway: SimulatorHandle, database: Database, monkeypatch: pytest.MonkeyPatch, context: dict[str, Any]
) -> None:
    monkeypatch.setattr(market_data, "_SLOT_SECONDS", 0.0)
    gateway.control("pacing", count=1)
    task = market_data.MarketDataOperator(task_id="bars", strategy="paced", symbol="AAPL")
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    assert deferred.value.method_name == "resume"
    context["ti"].start_date -= timedelta(hours=2)
    with pytest.raises(PacingViolation, match="leave no room"):
        task.resume(context, None)
    with database.read() as session:
        assert len(PacingEvents(session).recent(f"127.0.0.1:{gateway.port}", datetime(2000, 1, 1, tzinfo=UTC))) == 1
