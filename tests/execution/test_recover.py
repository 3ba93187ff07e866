"""What goes wrong on the way, and the next try, against the broker in memory (see conftest)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.errors import (
    AmbiguousOrder,
    BrokerTimeout,
    Family,
    GatewayUnavailable,
    IBKRPluginError,
    OrderRejected,
)
from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.trading.orders import IntentState, OrderTicket, OrderType, Side

pytestmark = pytest.mark.usefixtures("quick_settle")


def accept_then(error: IBKRPluginError, *, fills: bool) -> Callable[[Any, int], None]:
    def fate(broker: Any, perm_id: int) -> None:
        broker.fate = None
        if fills:
            broker.fill(perm_id)
        raise error

    return fate


def lose(broker: Any, perm_id: int) -> None:
    broker.fate = None
    del broker.orders[perm_id]
    raise GatewayUnavailable("hung up")


@pytest.mark.parametrize("fills", [True, False])
def test_an_order_whose_answer_was_lost_is_found_and_not_sent_again(desk: Any, fills: bool) -> None:
    desk.broker.fate = accept_then(GatewayUnavailable("hung up"), fills=fills)
    request = desk.request(wait_seconds=5.0)
    with pytest.raises(GatewayUnavailable):
        desk.execute(request)
    assert desk.state() is IntentState.AMBIGUOUS
    if not fills:
        desk.broker.fill(9000)
    outcome = desk.execute(request)
    assert (outcome.state, outcome.filled, len(desk.broker.orders)) == (IntentState.FILLED, 10, 1)
    assert desk.position() == 10


def test_a_lost_order_is_sent_once_more_after_two_answers_under_a_fresh_id(desk: Any) -> None:
    desk.broker.fate = lose
    with pytest.raises(GatewayUnavailable):
        desk.place()
    asked = desk.broker.asked
    outcome = desk.place()
    assert (outcome.state, len(desk.broker.orders)) == (IntentState.FILLED, 1)
    assert desk.broker.asked - asked >= 3  # twice for the lost one, once more before sending
    assert next(iter(desk.broker.orders.values())).order_id == 2
    assert desk.moves(outcome.intent_id)[:4] == ["reserved", "sending", "ambiguous", "sending"]


def test_an_order_that_is_still_under_way_when_the_broker_is_first_asked_is_not_sent_again(desk: Any) -> None:
    def cut(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    doomed, request = desk.connect(), desk.request()
    doomed.place = cut
    with pytest.raises(KeyboardInterrupt):
        desk.execute(request, doomed)
    assert desk.state() is IntentState.SENDING
    find, asked = desk.session.find_by_ref, list[bool]()

    def find_then_arrive(order_ref: str) -> Any:
        truth = find(order_ref)
        if not asked:
            desk.arrive(request)
        asked.append(truth.known)
        return truth

    desk.session.find_by_ref = find_then_arrive
    outcome = desk.execute(request)
    assert asked[:2] == [False, True]
    assert (outcome.state, outcome.filled, len(desk.broker.orders)) == (IntentState.FILLED, 10, 1)


def test_a_lost_order_is_checked_again_before_it_is_sent_again(desk: Any) -> None:
    desk.broker.fate = lose
    request = desk.request(rules={"trading_hours": {}})
    with pytest.raises(GatewayUnavailable):
        desk.execute(request)
    desk.broker.now += timedelta(hours=8)  # the same day in New York, after the close
    outcome = desk.execute(request)
    assert outcome.state is IntentState.ABANDONED
    assert outcome.reason == "trading_hours: the market is closed"
    assert not desk.broker.orders


def test_an_order_first_sent_on_an_earlier_broker_day_is_never_sent_again(desk: Any) -> None:
    desk.broker.fate = lose
    with pytest.raises(GatewayUnavailable):
        desk.place()
    desk.broker.now += timedelta(days=1)
    for _ in range(2):
        with pytest.raises(AmbiguousOrder, match="first sent on 2026-03-02") as raised:
            desk.place()
        assert raised.value.family is Family.NEEDS_HUMAN
    assert desk.state() is IntentState.AMBIGUOUS
    assert not desk.broker.orders


def test_midnight_utc_also_ends_the_day(desk: Any) -> None:
    desk.broker.fate = lose
    with freeze_time("2026-03-02 23:59:50"), pytest.raises(GatewayUnavailable):
        desk.place()
    with freeze_time("2026-03-03 00:00:10"), pytest.raises(AmbiguousOrder, match="first sent"):
        desk.place()
    assert not desk.broker.orders


def test_an_order_that_was_acknowledged_and_vanished_is_never_sent_again(desk: Any) -> None:
    desk.broker.fate = lambda broker, perm_id: None
    desk.session.wait_terminal = lambda order, seconds: (_ for _ in ()).throw(GatewayUnavailable("hung up"))
    with pytest.raises(GatewayUnavailable):
        desk.place()
    assert desk.state() is IntentState.WORKING
    desk.broker.orders.clear()
    with pytest.raises(AmbiguousOrder, match="does not know it any more"):
        desk.place()
    assert not desk.broker.orders


def test_two_orders_with_one_reference_need_a_human(desk: Any) -> None:
    desk.broker.fate = accept_then(BrokerTimeout("late"), fills=True)
    with pytest.raises(BrokerTimeout):
        desk.place()
    desk.broker.orders[9001] = replace(desk.broker.orders[9000], perm_id=9001)
    desk.broker.fill(9001, Decimal(10))
    with pytest.raises(AmbiguousOrder, match="2 orders"):
        desk.place()
    assert desk.position() == 20  # booked all the same: the money has moved


def test_the_broker_has_it_although_we_never_sent_it(desk: Any) -> None:
    """The trading database was set back to before the order was sent."""
    request = desk.request()
    desk.arrive(request)
    outcome = desk.execute(request)
    assert (outcome.state, len(desk.broker.orders)) == (IntentState.FILLED, 1)
    assert desk.moves(outcome.intent_id) == ["reserved", "sending", "filled"]


def test_a_rejection_is_an_outcome(desk: Any) -> None:
    def reject(broker: Any, perm_id: int) -> None:
        broker.end(perm_id, "Cancelled")
        raise OrderRejected("no", code=201)

    desk.broker.fate = reject
    outcome = desk.place()
    assert (outcome.state, outcome.reason) == (IntentState.REJECTED, "no")
    assert desk.place() == outcome
    assert len(desk.broker.orders) == 1


def test_what_is_left_at_the_time_out_is_cancelled_and_what_filled_is_kept(desk: Any) -> None:
    desk.broker.fate = lambda broker, perm_id: broker.fill(perm_id, Decimal(3))
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal(100))
    outcome = desk.place(ticket=ticket)
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 3)
    assert desk.moves(outcome.intent_id) == ["reserved", "sending", "working", "cancelling", "cancelled"]
    assert desk.position() == 3
    with desk.database.read() as transaction:
        assert AccountOrders(transaction, outcome.source, outcome.account).open() == ()


def test_an_order_that_only_its_executions_tell_of_is_on_record_as_filled(desk: Any) -> None:
    desk.broker.fate = lambda broker, perm_id: broker.fill(perm_id, Decimal(3))
    request = desk.request(leave_working=True)
    desk.execute(request)
    desk.broker.fill(9000)
    desk.broker.orders.clear()
    outcome = desk.execute(request)
    assert (outcome.state, outcome.filled) == (IntentState.FILLED, 10)
    with desk.database.read() as transaction:
        (order,) = Orders(transaction).for_intent(outcome.intent_id)
    assert (order.status, order.filled, order.remaining) == ("Filled", 10, 0)
    assert order.average_price == 100


def test_a_fill_that_beats_the_cancel_is_a_fill(desk: Any) -> None:
    desk.broker.fate = lambda broker, perm_id: None

    def cancel(order: Any, *, seconds: float) -> Any:
        desk.broker.fill(order.perm_id)
        return desk.session.find_by_perm_id(order.perm_id)

    desk.session.cancel = cancel
    outcome = desk.place()
    assert (outcome.state, outcome.filled, desk.position()) == (IntentState.FILLED, 10, 10)


def test_a_cancel_without_confirmation_stays_open_and_is_asked_for_again(desk: Any) -> None:
    desk.broker.fate = lambda broker, perm_id: None
    cancel, tries = desk.session.cancel, []

    def late(order: Any, *, seconds: float) -> Any:
        tries.append(order)
        if len(tries) == 1:
            raise BrokerTimeout("not confirmed")
        return cancel(order, seconds=seconds)

    desk.session.cancel = late
    with pytest.raises(BrokerTimeout):
        desk.place()
    assert desk.state() is IntentState.CANCELLING
    assert desk.place(wait_seconds=600.0).state is IntentState.CANCELLED
    assert len(tries) == 2


def test_a_cancelled_whose_fills_are_missing_is_not_believed_yet(desk: Any) -> None:
    desk.broker.fate = lambda broker, perm_id: None

    def cancel(order: Any, *, seconds: float) -> Any:
        desk.broker.fill(order.perm_id, Decimal(4))
        desk.broker.end(order.perm_id, "Cancelled")
        return replace(desk.session.find_by_perm_id(order.perm_id), executions=())

    desk.session.cancel = cancel
    with pytest.raises(BrokerTimeout, match="not all its fills"):
        desk.place()
    outcome = desk.place()
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 4)
