"""Others trade while an account is reconciled: at each moment of it, each time that it looks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.execution import reconcile as engine
from airflow_ibkr_plugin.execution.account_book import look
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.store.models import OrderIntent
from airflow_ibkr_plugin.trading.orders import IntentState, Side
from airflow_ibkr_plugin.trading.reconcile import DifferenceKind, Result

MOMENTS = ("before the orders", "before the positions", "after the positions")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.0)


def busy(desk: Any, moment: str, act: Callable[[int], None]) -> Any:
    """A session; at that moment of each of its looks somebody acts, and the gateway tells of holdings that change."""
    session, numbers = desk.connect(client_id=12), itertools.count(1)
    everything, positions = session.everything, session.positions
    told = [0]

    def now(at: str) -> None:
        if at == moment:
            act(next(numbers))

    def ask_everything() -> Any:
        now(MOMENTS[0])
        told[0] = len(desk.broker.executions)
        return everything()

    def ask_positions() -> Any:
        now(MOMENTS[1])
        answer = positions()
        now(MOMENTS[2])
        return answer

    session.everything, session.positions = ask_everything, ask_positions
    session.listen = lambda *, seconds: len(desk.broker.executions) != told[0]
    return session


@pytest.mark.parametrize("strategy", ["demo", "other"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_orders_that_fill_meanwhile_are_no_difference(desk: Any, moment: str, strategy: str) -> None:
    desk.place()
    session = busy(desk, moment, lambda n: desk.place(quantity=3, run_id=f"meanwhile-{n}", strategy=strategy))
    for _ in range(3):
        found = reconcile(session, desk.database, by="test")
        assert (found.result, found.differences) == (Result.AGREE, ())


@pytest.mark.parametrize("moment", MOMENTS)
def test_orders_that_begin_or_end_meanwhile_are_no_difference(desk: Any, moment: str) -> None:
    desk.place()
    desk.broker.fate = lambda broker, perm_id: None  # it works

    def act(number: int) -> None:
        rules = {"order_quantity": {"max": 4}}
        done = desk.place(run_id=f"meanwhile-{number}", rules=rules, leave_working=bool(number % 2))
        assert done.state is (IntentState.WORKING if number % 2 else IntentState.CANCELLED)

    session = busy(desk, moment, act)
    for _ in range(3):
        assert reconcile(session, desk.database, by="test").differences == ()


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_differs_is_found_however_much_is_traded_beside_it(desk: Any, moment: str) -> None:
    desk.place()
    reconcile(desk.session, desk.database, by="test")
    desk.broker.held_elsewhere = Decimal(7)
    session = busy(desk, moment, lambda n: desk.place(Side.SELL, 1, run_id=f"meanwhile-{n}"))
    found = reconcile(session, desk.database, by="test")
    assert [one.kind for one in found.open] == [DifferenceKind.POSITION]


def test_an_exit_is_at_work_while_a_worker_is_at_its_entry(desk: Any) -> None:
    desk.place()
    desk.place(run_id="run-2", side=Side.SELL)
    with desk.database.write() as session:
        entry, its_exit = session.query(OrderIntent).order_by(OrderIntent.id)
        entry.lease_owner, entry.lease_until = "worker", datetime.now(UTC) + timedelta(minutes=1)
        its_exit.parent_id = entry.id
    assert look(desk.session, desk.database).unheld == frozenset()
    desk.let_leases_run_out()
    assert look(desk.session, desk.database).unheld == {entry.order_ref, its_exit.order_ref}


@pytest.mark.parametrize("ordered", [False, True])
def test_what_another_took_over_or_accepted_meanwhile_is_no_difference(desk: Any, ordered: bool) -> None:
    if ordered:
        desk.place()
        reconcile(desk.session, desk.database, by="test")
    desk.broker.held_elsewhere = Decimal(5)

    def act(number: int) -> None:
        if number == 2:  # both have looked twice, and neither knows of the other
            seen = reconcile(desk.session, desk.database, by="ann")
            if ordered:
                reconcile(desk.session, desk.database, by="ann", accept=seen.id, reason="mine")

    found = reconcile(busy(desk, MOMENTS[2], act), desk.database, by="service")
    assert (found.result, found.differences) == (Result.AGREE, ())
