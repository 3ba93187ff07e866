"""A reservation counts as long as a worker holds it, against the broker in memory (see conftest)."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_ibkr_plugin.errors import BrokerTimeout, GatewayUnavailable, IntentBusy
from airflow_ibkr_plugin.trading.orders import IntentState

pytestmark = pytest.mark.usefixtures("quick_settle")
both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
ROOM_FOR_ONE = {"position_size": {"max_quantity": 10}}
OTHER = {"strategy": "other", "rules": ROOM_FOR_ONE}


def reserve_only(desk: Any, **request: Any) -> None:
    """Risk passes, and then the broker cannot be asked: nothing is sent, the worker gives up."""
    desk.broker.unreachable = True
    with pytest.raises(BrokerTimeout):
        desk.place(**request)
    desk.broker.unreachable = False
    assert desk.state() is IntentState.RESERVED


@both_databases
@pytest.mark.parametrize("rules", [ROOM_FOR_ONE, {"orders_per_day": {"max": 1}}])
def test_an_order_that_was_never_sent_blocks_nobody_when_its_worker_is_gone(desk: Any, rules: Any) -> None:
    reserve_only(desk, rules=rules)
    assert desk.place(run_id="run-2", rules=rules).filled == 10
    assert desk.state() is IntentState.DECIDED


def test_a_retry_or_a_clear_places_a_released_order_under_its_own_reference(desk: Any) -> None:
    reserve_only(desk)
    desk.place(run_id="run-2")
    outcome = desk.place()
    assert outcome.filled == 10
    assert desk.moves(outcome.intent_id) == ["reserved", "decided", "reserved", "sending", "working", "filled"]
    assert [order.order_ref for order in desk.broker.orders.values()].count(outcome.order_ref) == 1


def test_a_released_order_is_not_placed_if_others_have_taken_its_room(desk: Any) -> None:
    reserve_only(desk, rules=ROOM_FOR_ONE)
    desk.place(**OTHER)
    outcome = desk.place(rules=ROOM_FOR_ONE)
    assert desk.moves(outcome.intent_id) == ["reserved", "decided", "denied"]
    assert desk.broker.position() == 10


@both_databases
def test_a_worker_that_comes_back_after_its_reservation_was_released_sends_nothing(desk: Any) -> None:
    find, sleeper = desk.session.find_by_ref, desk.connect()

    def sleep(order_ref: str) -> Any:  # between the reservation and the sending, for longer than the lease
        desk.let_leases_run_out()
        assert desk.place(**OTHER).filled == 10
        return find(order_ref)

    sleeper.find_by_ref = sleep
    with pytest.raises(IntentBusy, match="lost"):
        desk.execute(desk.request(rules=ROOM_FOR_ONE), sleeper)
    assert desk.state() is IntentState.DECIDED
    assert desk.broker.position() == 10


def test_the_reservation_of_a_worker_at_work_counts(desk: Any) -> None:
    find, denied = desk.session.find_by_ref, []

    def meanwhile(order_ref: str) -> Any:
        denied.append(desk.execute(desk.request(**OTHER), desk.connect()).state)
        return find(order_ref)

    desk.session.find_by_ref = meanwhile
    assert desk.place(rules=ROOM_FOR_ONE).filled == 10
    assert denied == [IntentState.DENIED]


@pytest.mark.parametrize("error", [KeyboardInterrupt, GatewayUnavailable("hung up")], ids=["sending", "ambiguous"])
def test_an_order_that_may_have_been_sent_counts_although_its_worker_is_gone(desk: Any, error: Any) -> None:
    def stop(*_: Any) -> None:
        desk.broker.fate = None
        raise error

    desk.broker.fate = stop
    with pytest.raises((KeyboardInterrupt, GatewayUnavailable)):
        desk.place(rules=ROOM_FOR_ONE)
    state = desk.state()
    assert state in (IntentState.SENDING, IntentState.AMBIGUOUS)
    desk.let_leases_run_out()
    assert desk.place(**OTHER).state is IntentState.DENIED
    assert desk.state() is state
