"""Reconciling while others trade as fast as they can: nothing differs, and it can be made each time."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import traceback
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.execution import reconcile as engine
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.registry import get_registry
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import ReconciliationRow
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, Side
from airflow_ibkr_plugin.trading.reconcile import Result

PROCESSES = 8
ORDERS = 4
ACCOUNT = "DU1234567"


@pytest.fixture
def port() -> Iterator[int]:
    """Of a simulated gateway in a process of its own: this one is forked, and must have no threads."""
    command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", "--port", "0", "--control-port", "0"]
    command += ["--seed", "7", "--clock", "2026-03-02T15:00:00+00:00", "--account", ACCOUNT, "--log-level", "WARNING"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["port"]
        process.terminate()


def spec(port: int, number: int) -> GatewaySpec:
    ids = range(number * 10 + 1, number * 10 + 9)
    return GatewaySpec(conn_id="ibkr_default", host="127.0.0.1", port=port, client_ids=ids, account=ACCOUNT)


def trade(url: str, port: int, number: int, barrier: Any, answers: Any) -> None:
    """Buy and sell as fast as it goes, and answer with what became of the orders."""
    try:
        database, states = Database(url), []
        with leased_session(spec(port, number), database, owner=f"w{number}") as session:
            instrument = session.resolve(InstrumentSpec.parse("SPY" if number % 2 else "QQQ"))
            barrier.wait(120)
            for run in range(ORDERS):
                key = IntentKey(
                    installation="t", dag_id=f"s{number}", run_id=str(run), task_id="o", con_id=instrument.con_id
                )
                ticket = OrderTicket(side=Side.SELL if run % 3 == 2 else Side.BUY, quantity=Decimal(10 + number))
                request = OrderRequest(
                    key=key,
                    strategy=f"s{number}",
                    source=session.source,
                    account=session.account,
                    mode="paper",
                    instrument=instrument,
                    ticket=ticket,
                    allow_short=True,
                )
                outcome = execute(session, database, request, owner="t")
                states.append(f"{outcome.state.value}: {outcome.reason}")
        answers.put(states)
    except BaseException:
        answers.put([traceback.format_exc()])
        raise


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_nothing_differs_while_eight_processes_trade(
    port: int, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.5)
    fork = multiprocessing.get_context("fork")
    barrier, answers = fork.Barrier(PROCESSES + 1), fork.Queue()
    url = database.url.render_as_string(hide_password=False)
    settings.load()  # Airflow is imported once, before the forks, as for its own workers
    get_registry()
    database.dispose()
    processes = [
        fork.Process(target=trade, args=(url, port, number, barrier, answers), daemon=True)
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    made, states = [], list[str]()
    with leased_session(spec(port, 9), database, owner="service") as session:
        barrier.wait(120)
        while len(states) < PROCESSES * ORDERS:
            made.append(reconcile(session, database, by="service"))
            while not answers.empty():
                states += answers.get()
                assert "Traceback" not in states[-1], states[-1]
        made.append(reconcile(session, database, by="service"))
    for process in processes:
        process.join(60)
    assert [state.partition(":")[0] for state in states] == ["filled"] * PROCESSES * ORDERS
    assert {found.result for found in made} == {Result.AGREE}
    with database.read() as transaction:
        assert replay(transaction).mismatches == ()
        assert {row.result for row in transaction.query(ReconciliationRow)} == {Result.AGREE}
