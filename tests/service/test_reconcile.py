"""The service reconciles: from time to time, and when a gateway is back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import BrokerTimeout, ClientIdInUse, ConfigError, GatewayUnavailable, NotLeader
from airflow_ibkr_plugin.execution import reconcile as engine
from airflow_ibkr_plugin.service.follow import Follower
from airflow_ibkr_plugin.service.reconcile import reconcile_jobs
from airflow_ibkr_plugin.service.term import stand
from airflow_ibkr_plugin.store.models import ReconciliationRow
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.orders import IntentState
from airflow_ibkr_plugin.trading.reconcile import Result
from airflow_ibkr_plugin.trading.trading_state import TradingState

SOURCE = "simulator:ibkr_default"
Until = Callable[[str, Callable[[], Any]], Any]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.1)


def made(floor: Any) -> list[ReconciliationRow]:
    with floor.database.read() as session:
        return list(session.query(ReconciliationRow).order_by(ReconciliationRow.id))


def jobs(floor: Any, term: Any, **changes: Any) -> list[Any]:
    return reconcile_jobs(floor.database, term, lambda _: replace(floor.spec, **changes), 300)


def test_nothing_is_reconciled_before_anything_was_traded(floor: Any, term: Any) -> None:
    assert jobs(floor, term) == []


def test_a_job_for_each_source_books_what_filled_and_stores_that_all_agrees(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    order_ref = floor.leave_order(monkeypatch)
    floor.open_market()
    (job,) = jobs(floor, term)
    assert (job.name, job.period) == (f"reconcile {SOURCE}", 300)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "reconcile", None)
        until("filled", lambda: job.work() and floor.intent(order_ref).state is IntentState.FILLED)
    assert floor.position() == 10
    last = made(floor)[-1]
    assert (last.result, last.source) == (Result.AGREE, SOURCE)
    assert last.made_by.startswith("service/")
    assert sum(row.booked for row in made(floor)) == 1


def test_a_fill_by_hand_reduces_the_strategy_that_holds_it(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    floor.leave_order(monkeypatch)
    floor.open_market()
    (job,) = jobs(floor, term)
    until("filled", lambda: job.work() and floor.position() == 10)
    floor.gateway.control("manual_order", symbol="SPY", action="SELL", quantity=3)
    until("differs", lambda: job.work() and made(floor)[-1].result is Result.DISAGREE)
    with floor.database.read() as session:
        assert TradingStates(session).effective("demo").state is TradingState.REDUCING
        (change,) = TradingStates(session).changes("demo")
    assert change.changed_by.startswith("service/")


def test_a_gateway_that_is_away_is_stored_once_and_reconciled_when_it_is_back(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    floor.leave_order(monkeypatch)
    before = len(made(floor))
    (job,) = jobs(floor, term, port=unused_port)
    for _ in range(2):
        with pytest.raises(GatewayUnavailable):
            job.work()
    assert [row.result for row in made(floor)[before:]] == [Result.FAILED]
    (job,) = jobs(floor, term)
    assert job.work()
    assert made(floor)[-1].result is Result.AGREE


def test_that_no_client_id_is_free_says_nothing_of_the_books(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.leave_order(monkeypatch)
    before, ids = len(made(floor)), range(70, 71)
    (job,) = jobs(floor, term, client_ids=ids)
    with (
        leased_session(replace(floor.spec, client_ids=ids), floor.database, owner="task"),
        pytest.raises(ClientIdInUse),
    ):
        job.work()
    assert len(made(floor)) == before
    assert job.work()


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_stood_still_stores_no_stale_result(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    floor.leave_order(monkeypatch)
    (job,) = jobs(floor, term)
    before, ask = len(made(floor)), BrokerSession.positions

    def late(session: BrokerSession) -> Any:
        found = ask(session)
        if term.release():  # it was paused here, and another leads
            assert stand(floor.database, "another") is not None
        if fails:
            raise BrokerTimeout("no answer")
        return found

    monkeypatch.setattr(BrokerSession, "positions", late)
    with pytest.raises(NotLeader):
        job.work()
    assert len(made(floor)) == before


def test_a_connection_that_leads_elsewhere_reconciles_nothing(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.leave_order(monkeypatch)
    (job,) = jobs(floor, term)
    with monkeypatch.context() as patched:
        opened = BrokerSession.open
        patched.setattr(BrokerSession, "open", lambda spec, *, client_id: _renamed(opened(spec, client_id=client_id)))
        with pytest.raises(ConfigError, match="leads to paper:ibkr_default now"):
            job.work()
    assert made(floor)[-1].result is Result.FAILED


def _renamed(session: BrokerSession) -> BrokerSession:
    session.source = "paper:ibkr_default"
    return session


def test_who_follows_orders_reconciles_after_a_connection_was_lost(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    floor.leave_order(monkeypatch)
    before, ports = len(made(floor)), iter([unused_port, floor.spec.port])
    follower = Follower(floor.database, term, SOURCE, lambda _: replace(floor.spec, port=next(ports)))
    with pytest.raises(GatewayUnavailable):
        follower.work()
    floor.open_market()
    assert follower.work()
    assert [row.result for row in made(floor)[before:]] == [Result.AGREE]
