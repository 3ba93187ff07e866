"""The task type `reconcile`, against a simulated gateway."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ibkr_plugin import builtin
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import BooksDisagree, BrokerTimeout, Family
from airflow_ibkr_plugin.execution import reconcile as engine
from airflow_ibkr_plugin.operators.base import TaskRun
from airflow_ibkr_plugin.operators.reconcile import ReconcileOperator
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import ReconciliationRow

ACCOUNT = "DU1234567"
RUN = TaskRun(dag_id="demo", run_id="r", task_id="reconcile", map_index=-1, try_number=1, log_url="")


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, trading_database: Database) -> Iterator[Any]:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.1)
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
    with start_simulator(seed=7, clock=clock, account=ACCOUNT) as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", f"ibkr://127.0.0.1:{simulator.port}")
        yield simulator


def run(**parameters: Any) -> Any:
    return ReconcileOperator(task_id="reconcile", strategy="demo", **parameters).run_task({}, RUN)


def buy_by_hand(gateway: Any) -> None:
    gateway.control("manual_order", symbol="SPY", action="BUY", quantity=7)
    spec = GatewaySpec(conn_id="c", host="127.0.0.1", port=gateway.port, client_ids=range(40, 41), account=ACCOUNT)
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    with BrokerSession.open(spec, client_id=40) as session:
        while not session.positions():
            assert datetime.now(UTC) < deadline
            session.listen(seconds=0.2)


def test_agreement_is_what_the_task_returns(gateway: Any, trading_database: Database) -> None:
    found = run()
    assert (found["account"], found["result"], found["differences"]) == (ACCOUNT, "agree", [])
    with trading_database.read() as session:
        (row,) = session.query(ReconciliationRow)
    assert row.made_by == RUN.owner


def test_a_disagreement_fails_the_task_or_lets_it_go_on(gateway: Any, trading_database: Database) -> None:
    run()
    buy_by_hand(gateway)
    with pytest.raises(BooksDisagree, match="position SPY: our book 0, broker 7") as caught:
        run()
    assert caught.value.family is Family.NEEDS_HUMAN
    with trading_database.read() as session:
        last = max(row.id for row in session.query(ReconciliationRow))
    assert f"airflow ibkr reconcile --accept {last} --reason TEXT" in caught.value.remedy
    (one,) = run(on_disagreement="go_on")["differences"]
    assert (one["kind"], one["theirs"]) == ("position", "7")
    assert run(scope="strategy")["differences"] == []  # this strategy neither holds nor orders it


def test_what_could_not_be_made_fails_for_a_retry(
    gateway: Any, trading_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mute(_: BrokerSession) -> Any:
        raise BrokerTimeout("no positions")

    monkeypatch.setattr(BrokerSession, "positions", mute)
    with pytest.raises(BrokerTimeout):
        run()
    with trading_database.read() as session:
        assert [row.result for row in session.query(ReconciliationRow)] == ["failed"]


def test_the_workflow_s_schema_has_what_the_operator_takes() -> None:
    kind = next(kind for kind in builtin.ibkr_task_types() if kind.name == "reconcile")
    assert set(kind.parameters["properties"]) == {"on_disagreement", "scope"}
    assert not kind.per_symbol
