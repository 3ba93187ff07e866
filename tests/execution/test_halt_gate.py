"""A change of the trading state, and orders at every point of their way, against the broker in memory."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from airflow_ibkr_plugin.errors import GatewayUnavailable, StoreError
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import IntentTransition
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.orders import IntentState, Side
from airflow_ibkr_plugin.trading.trading_state import TradingState

pytestmark = pytest.mark.usefixtures("quick_settle")
both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
HALTED, REDUCING, ACTIVE = TradingState.HALTED, TradingState.REDUCING, TradingState.ACTIVE


def put(desk: Any, state: TradingState, strategy: str = "") -> None:
    with desk.database.write() as transaction:
        TradingStates(transaction).change(strategy, state, by="anna", reason="drill", at=datetime.now(UTC))


def after_risk(desk: Any, *actions: Any) -> Any:
    """A session that does one of the actions each time between the reservation and the send."""
    session, waiting = desk.connect(), list(actions)
    find = session.find_by_ref

    def meanwhile(order_ref: str) -> Any:
        if waiting:
            waiting.pop(0)()
        return find(order_ref)

    session.find_by_ref = meanwhile
    return session


@pytest.mark.parametrize("strategy", ["", "demo"])
@both_databases
def test_in_halted_nothing_is_reserved_and_the_denial_names_state_scope_and_reason(desk: Any, strategy: str) -> None:
    put(desk, HALTED, strategy)
    outcome = desk.place()
    assert outcome.state is IntentState.DENIED
    scope = "strategy demo" if strategy else "the installation"
    assert outcome.reason == f"trading_state: trading is HALTED for {scope}: drill"
    (decision,) = [made for made in outcome.decisions if made.rule == "trading_state"]
    assert (decision.outcome, decision.limit) == ("deny", "halted")
    assert not desk.broker.orders


def test_a_halted_strategy_stops_no_other(desk: Any) -> None:
    put(desk, HALTED, "other")
    assert desk.place().filled == 10


@pytest.mark.parametrize("strategy", ["", "demo"])
@both_databases
def test_a_halt_between_risk_and_send_is_seen(desk: Any, strategy: str) -> None:
    session = after_risk(desk, lambda: put(desk, HALTED, strategy))
    outcome = desk.execute(desk.request(), session)
    assert desk.moves(outcome.intent_id) == ["reserved", "decided", "denied"]
    assert [made.outcome for made in outcome.decisions if made.rule == "trading_state"] == ["deny"]
    assert not desk.broker.orders


def test_a_halt_that_was_lifted_between_risk_and_send_is_checked_once_more_and_sent(desk: Any) -> None:
    def blink() -> None:
        put(desk, HALTED)
        put(desk, ACTIVE)

    outcome = desk.execute(desk.request(), after_risk(desk, blink))
    assert desk.moves(outcome.intent_id)[:4] == ["reserved", "decided", "reserved", "sending"]
    assert len(desk.broker.orders) == 1


def test_a_state_that_keeps_changing_gives_up_with_nothing_sent_or_reserved(desk: Any) -> None:
    flips = [lambda state=state: put(desk, state) for state in [REDUCING, ACTIVE] * 10]
    desk.place()  # there is something to reduce
    request = desk.request(Side.SELL, 5, run_id="run-2")
    with pytest.raises(StoreError, match="trading state changed"):
        desk.execute(request, after_risk(desk, *flips))
    assert desk.intent(request).state is IntentState.DECIDED
    assert len(desk.broker.orders) == 1


def test_an_order_that_was_lost_on_its_way_is_not_sent_again_in_halted(desk: Any) -> None:
    def lose(broker: Any, perm_id: int) -> None:
        del broker.orders[perm_id]
        broker.fate = None
        raise GatewayUnavailable("hung up")

    desk.broker.fate = lose
    with pytest.raises(GatewayUnavailable):
        desk.place()
    put(desk, HALTED)
    assert desk.place().state is IntentState.ABANDONED
    assert not desk.broker.orders


def test_an_order_that_works_when_the_halt_comes_is_followed_to_its_end(desk: Any) -> None:
    def crash(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    desk.broker.fate = lambda broker, perm_id: broker.fill(perm_id, Decimal(4))
    crashing = desk.connect()
    crashing.wait_terminal = crash
    with pytest.raises(KeyboardInterrupt):
        desk.execute(desk.request(), crashing)
    put(desk, HALTED)
    outcome = desk.place()
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 4)


@both_databases
def test_a_halt_is_not_committed_while_an_order_begins_to_be_sent(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    halting = threading.Thread(target=lambda: put(desk, HALTED))
    waited: list[bool] = []
    transition = Intents.transition

    def watched(intents: Any, intent: Any, state: IntentState, **changes: Any) -> Any:
        if state is IntentState.SENDING:
            halting.start()
            halting.join(0.5)
            waited.append(halting.is_alive())
        return transition(intents, intent, state, **changes)

    monkeypatch.setattr(Intents, "transition", watched)
    assert desk.place().filled == 10
    halting.join(30)
    assert waited == [True]
    assert desk.place(run_id="run-2").state is IntentState.DENIED


@both_databases
def test_after_the_halt_is_committed_none_of_eight_processes_begins_to_send(desk: Any) -> None:
    def trade(number: int) -> None:
        desk.broker.perm_ids = itertools.count(number * 1_000_000 + 1)
        desk.broker.exec_ids = itertools.count(number * 1_000_000 + 1)
        run = 0
        while True:
            outcome = desk.place(quantity=1, strategy=f"s{number}", run_id=str(run))
            if outcome.state is IntentState.DENIED:
                return
            run += 1

    def sent() -> list[int]:
        query = select(IntentTransition.id).where(IntentTransition.to_state == IntentState.SENDING)
        with desk.database.read() as transaction:
            return list(transaction.scalars(query.order_by(IntentTransition.id)))

    desk.database.dispose()
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=trade, args=(number,), daemon=True) for number in range(8)]
    for process in processes:
        process.start()
    while len(sent()) < 24:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)
    put(desk, HALTED)
    at_the_halt = sent()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sent() == at_the_halt


@both_databases
def test_in_reducing_only_what_closes_passes_and_it_is_clamped_to_that(desk: Any) -> None:
    desk.place()
    put(desk, REDUCING)
    assert desk.place(run_id="run-2").reason.startswith("trading_state: it closes nothing, and trading is REDUCING")
    outcome = desk.place(Side.SELL, 15, run_id="run-3", allow_short=True)
    assert (outcome.quantity, outcome.filled, desk.position()) == (10, 10, 0)
    assert desk.place(Side.SELL, 1, run_id="run-4", allow_short=True).state is IntentState.DENIED


def test_in_reducing_an_order_must_reduce_the_account_too(desk: Any) -> None:
    desk.place()
    desk.broker.held_elsewhere = Decimal(-6)  # the account holds 4
    put(desk, REDUCING)
    assert desk.place(Side.SELL, 10, run_id="run-2").quantity == 4


def test_in_reducing_the_strategys_own_open_sells_count(desk: Any) -> None:
    desk.place()
    desk.broker.fate = lambda *_: None  # it works, and does not fill
    put(desk, REDUCING)
    session = desk.connect()
    second: list[Any] = []

    def meanwhile(order: Any, *, seconds: float) -> Any:
        if not second:
            second.append(desk.place(Side.SELL, 7, run_id="run-3"))
        return session.find_by_perm_id(order.perm_id)

    session.wait_terminal = meanwhile
    desk.execute(desk.request(Side.SELL, 6, run_id="run-2"), session)
    assert second[0].quantity == 4


def test_reducing_between_risk_and_send_lets_a_closing_order_through(desk: Any) -> None:
    desk.place()
    session = after_risk(desk, lambda: put(desk, REDUCING))
    outcome = desk.execute(desk.request(Side.SELL, 4, run_id="run-2"), session)
    assert desk.moves(outcome.intent_id)[:4] == ["reserved", "decided", "reserved", "sending"]
    assert [made.outcome for made in outcome.decisions if made.rule == "trading_state"] == ["allow"]


def test_an_installation_that_is_halted_halts_an_active_strategy_and_the_other_way_round(desk: Any) -> None:
    put(desk, HALTED)
    put(desk, REDUCING, "demo")
    with desk.database.read() as transaction:
        effective = TradingStates(transaction).effective("demo")
        assert (effective.state, effective.scope) == (HALTED, "")
    put(desk, ACTIVE)
    with desk.database.read() as transaction:
        effective = TradingStates(transaction).effective("demo")
        assert (effective.state, effective.scope) == (REDUCING, "demo")
        assert TradingStates(transaction).effective("other").state is ACTIVE
