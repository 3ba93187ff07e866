"""The order path and reconciliation: what cannot be reconciled opens nothing, and may be closed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import BrokerTimeout, SessionInvalid
from airflow_ibkr_plugin.execution import reconcile as engine
from airflow_ibkr_plugin.store.models import ReconciliationRow
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.trading.orders import IntentState, Side
from airflow_ibkr_plugin.trading.reconcile import Result


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.0)


def made(desk: Any) -> list[ReconciliationRow]:
    with desk.database.read() as session:
        return list(session.query(ReconciliationRow).order_by(ReconciliationRow.id))


def age(desk: Any, seconds: float) -> None:
    with desk.database.write() as session:
        for row in session.query(ReconciliationRow):
            row.at -= timedelta(seconds=seconds)


def unaskable(desk: Any) -> None:
    def fail() -> Any:
        raise BrokerTimeout("no positions")

    desk.session.positions = fail
    held = desk.connect().account_snapshot
    desk.session.account_snapshot = held


def test_the_first_order_reconciles_and_the_next_ones_need_not(desk: Any) -> None:
    for number in range(3):
        assert desk.place(run_id=f"run-{number}").state is IntentState.FILLED
    (only,) = made(desk)
    assert only.result is Result.AGREE
    assert only.made_by.startswith("order aip-")
    age(desk, 1000)
    desk.place(run_id="run-4")
    assert len(made(desk)) == 2


def test_what_cannot_be_reconciled_opens_nothing_and_may_be_closed(desk: Any) -> None:
    desk.place()
    age(desk, 1000)
    unaskable(desk)
    denied = desk.place(run_id="run-2")
    assert (denied.state, denied.filled) == (IntentState.DENIED, 0)
    assert "reconciliation: it closes nothing" in denied.reason
    assert "could not be reconciled with the broker: BrokerTimeout: no positions" in denied.reason
    assert [one.outcome for one in denied.decisions if one.rule == "reconciliation"] == ["deny"]
    closed = desk.place(Side.SELL, 10, run_id="run-3")
    assert (closed.state, closed.filled) == (IntentState.FILLED, 10)
    assert made(desk)[-1].result is Result.FAILED
    desk.session = desk.connect()
    assert desk.place(run_id="run-4").state is IntentState.FILLED
    assert made(desk)[-1].result is Result.AGREE


def test_never_reconciled_opens_nothing(desk: Any) -> None:
    unaskable(desk)
    assert desk.place().state is IntentState.DENIED


def test_a_session_that_is_gone_is_an_error_that_a_retry_can_mend(desk: Any) -> None:
    def gone() -> Any:
        raise SessionInvalid("the gateway has no session with IBKR")

    desk.session.everything = gone
    with pytest.raises(SessionInvalid):
        desk.place()
    assert desk.state() is IntentState.DECIDED
    assert made(desk)[-1].result is Result.FAILED
    desk.session = desk.connect()
    assert desk.place().state is IntentState.FILLED


def test_a_contract_that_disagrees_is_opened_by_nobody_until_a_person_accepts(desk: Any) -> None:
    desk.place()
    desk.broker.held_elsewhere = Decimal(7)
    age(desk, 1000)
    reduced = desk.place(run_id="run-2")
    assert reduced.state is IntentState.DENIED
    (found, decided) = made(desk)[-1], {one.rule: one.outcome for one in reduced.decisions}
    assert found.result is Result.DISAGREE
    assert (decided["trading_state"], decided["reconciliation"]) == ("deny", "deny")
    other = desk.place(run_id="run-3", strategy="other")  # no state of its own says no
    assert f"books disagree with the broker, reconciliation {found.id}" in other.reason
    assert other.state is IntentState.DENIED
    engine.reconcile(desk.session, desk.database, by="ann", accept=found.id, reason="by hand")
    assert desk.place(run_id="run-4", strategy="other").state is IntentState.FILLED
    assert desk.place(run_id="run-5").state is IntentState.DENIED  # until a person resumes it


def test_a_disagreement_found_between_the_check_and_the_send_stops_the_send(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.place()
    find, calls = desk.session.find_by_ref, []

    def find_then_disagree(order_ref: str) -> Any:
        truth = find(order_ref)
        if not calls:  # the look before the send
            calls.append(order_ref)
            desk.broker.held_elsewhere = Decimal(7)
            engine.reconcile(desk.connect(client_id=12), desk.database, by="service")
        return truth

    monkeypatch.setattr(desk.session, "find_by_ref", find_then_disagree)
    stopped = desk.place(run_id="run-2")
    assert calls
    assert (stopped.state, stopped.filled) == (IntentState.DENIED, 0)


def test_a_failure_repeated_for_the_same_reason_is_stored_once(desk: Any) -> None:
    unaskable(desk)
    for number in range(3):
        desk.place(run_id=f"run-{number}")
    assert [row.result for row in made(desk)] == [Result.FAILED]
    with desk.database.read() as session:
        last = Reconciliations(session, "simulator:ibkr_default", desk.session.account).last()
    assert last is not None
    assert last.at <= datetime.now(UTC)
