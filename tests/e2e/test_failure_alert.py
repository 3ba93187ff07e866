"""The alert of a failed run, from Airflow's callback to a real HTTP receiver."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import select
from werkzeug import Request, Response

from airflow_ibkr_plugin.alerts.failures import record_failure
from airflow_ibkr_plugin.errors import InvalidSignal, StoreError
from airflow_ibkr_plugin.operators.run import StartRunOperator
from airflow_ibkr_plugin.registry import get_registry
from airflow_ibkr_plugin.store.database import open_database
from airflow_ibkr_plugin.store.failures import Failures
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.outbox import AlertRow
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.workflows.builder import build_dag
from airflow_ibkr_plugin.workflows.checks import Checker
from airflow_ibkr_plugin.workflows.loader import load_text
from airflow_ibkr_plugin.workflows.model import canonical

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("installation")]

# Of AAPL and MSFT one at least is no hold in the seeded prices; NOSUCH does not exist.
WORKFLOW = """\
id: {id}
symbols: {symbols}
defaults: {{retries: 0}}
tasks:
  auth: {{type: auth}}
  market_data: {{type: market_data, for_each: symbol, needs: [auth], parameters: {{duration: 6 M}}}}
  chart: {{type: chart, for_each: symbol, needs: [market_data], parameters: {{bars: 60}}}}
  signal: {{type: signal, for_each: symbol, needs: [chart], parameters: {{analyst: rules, prompt: trend_following}}}}
  order:
    type: order
    for_each: symbol
    needs: [signal]
    parameters: {{sizing: {{quantity: 10}}, allow_short: true}}
  portfolio: {{type: portfolio, needs: [order]}}
"""


def effective(dag_id: str, symbols: str) -> str:
    """The effective configuration of a workflow, as a DAG's stub file carries it."""
    yaml = WORKFLOW.format(id=dag_id, symbols=symbols)
    (loaded,) = load_text(yaml.encode(), Path(f"{dag_id}.yaml"), Checker(get_registry()))
    assert loaded.workflow is not None, loaded.error
    return canonical(loaded.workflow.config)


def build(dag_id: str, symbols: str) -> Any:
    return build_dag(effective(dag_id, symbols), origin=f"{dag_id}.yaml")


def alerts(run_id: str) -> list[AlertRow]:
    with open_database().read() as session:
        return list(session.scalars(select(AlertRow).where(AlertRow.run_id == run_id)))


class Receiver:
    """Takes alerts, or does not."""

    def __init__(self, server: HTTPServer) -> None:
        self.status = 200
        self.taken: list[dict[str, str]] = []
        server.expect_request("/alerts", method="POST").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        if self.status == 200:
            self.taken.append(request.get_json())
        return Response("", self.status)


@pytest.fixture
def receiver(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    monkeypatch.setenv("AIRFLOW__IBKR__ALERT_URLS", f"json://127.0.0.1:{httpserver.port}/alerts")
    return Receiver(httpserver)


def test_a_failed_run_is_told_once_with_all_that_people_need(run_dag: Callable[..., Any], receiver: Receiver) -> None:
    result = run_dag(build("told", "[AAPL, MSFT, NOSUCH]"))
    assert result.state == "failed"
    (alert,) = alerts(result.run_id)
    (sent,) = receiver.taken
    assert alert.delivered_at is not None
    assert (sent["title"], sent["message"]) == (alert.title, alert.body)
    with open_database().read() as session:
        orders = [i for i in Intents(session).for_run("told", result.run_id) if i.sent_at]
        failure = next(f for f in Failures(session).for_run("told", result.run_id) if f.task_id)
    assert orders, "every symbol held: choose a livelier seed, or this test shows nothing"
    assert "told: run failed" in alert.title
    assert "symbol.market_data[2] failed: UnknownContract" in alert.body
    assert " ".join(failure.message.split()) in alert.body  # with its remedy
    for order in orders:
        assert order.order_ref in alert.body
        assert f"{order.side} 10 {order.symbol} MKT: filled" in alert.body
    assert f"/dags/told/runs/{quote(result.run_id, safe='')}" in alert.body
    assert "all_succeeded" not in alert.body


def test_a_receiver_that_is_down_gets_it_from_the_next_run(run_dag: Callable[..., Any], receiver: Receiver) -> None:
    receiver.status = 503
    failed = run_dag(build("late", "[NOSUCH]"))
    (alert,) = alerts(failed.run_id)
    assert alert.delivered_at is None
    assert alert.attempts == 1
    assert alert.last_error
    assert receiver.taken == []
    receiver.status = 200
    with open_database().write() as session:  # half a minute passes, for which a refused alert rests
        session.get_one(AlertRow, alert.id).next_attempt_at = datetime.now(UTC) - timedelta(seconds=1)
    assert run_dag(build("later", "[AAPL]")).state == "success"
    (sent,) = receiver.taken
    assert "late: run failed" in sent["title"]
    assert alerts(failed.run_id)[0].delivered_at is not None


def test_a_run_that_could_not_start_fails_once(
    run_dag: Callable[..., Any], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise StoreError("the trading database is away.", remedy="Bring it back.")

    monkeypatch.setattr(StartRunOperator, "run_task", away)
    result = run_dag(build("unstarted", "[AAPL]"))
    assert result.state == "failed"
    assert result.tasks["start_run", -1] == "failed"
    assert result.tasks["finish_run", -1] == "success"
    with open_database().read() as session:
        assert Runs(session).get("unstarted", result.run_id) is None
        assert {f.task_id for f in Failures(session).for_run("unstarted", result.run_id)} == {"start_run", ""}
    (sent,) = receiver.taken
    assert "start_run failed: StoreError: the trading database is away. Bring it back." in sent["message"]


STUB = """\
from airflow_ibkr_plugin.workflows.builder import build_dag

dag = build_dag({text!r}, origin="processed.yaml")
"""


def process(file: Path, run_id: str) -> None:
    """Have a real dag-processor parse the DAG and run its failure callback."""
    command = [sys.executable, str(Path(__file__).with_name("callback_worker.py")), str(file), "processed", run_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dag_processor_tells_what_really_failed(
    run_dag: Callable[..., Any], receiver: Receiver, airflow_home: Path, tmp_path: Path
) -> None:
    text = effective("processed", "[AAPL, NOSUCH]")
    dag = build_dag(text, origin="processed.yaml")
    dag.on_failure_callback, dag.has_on_failure_callback = None, False  # below, by the dag-processor
    result = run_dag(dag)
    assert (result.state, result.tasks["symbol.signal", 0]) == ("failed", "success")
    with open_database().write() as session:
        # The first try of a task whose second one went well.
        record_failure(
            session,
            dag_id="processed",
            run_id=result.run_id,
            task_id="symbol.signal",
            map_index=0,
            try_number=1,
            at=datetime.now(UTC),
            error=InvalidSignal("babble.", remedy="Ask again."),
        )
    log = airflow_home / "logs/dag_id=processed" / f"run_id={result.run_id}/task_id=symbol.market_data/map_index=1"
    log.mkdir(parents=True, exist_ok=True)
    (log / "attempt=1.log").write_text('{"timestamp": "T", "level": "error", "event": "the last words"}\n')
    file = tmp_path / "processed.py"
    file.write_text(STUB.format(text=text))
    process(file, result.run_id)
    (alert,) = alerts(result.run_id)
    assert len(receiver.taken) == 1, alert.last_error
    assert "symbol.market_data[1] failed: UnknownContract" in alert.body
    assert "also failed" not in alert.body
    assert "babble" not in alert.body
    assert "T ERROR the last words" in alert.body
