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
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.orders import IntentState, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.risk_rules import rules

RULES = {rule.name: rule for rule in rules()}
Make = Callable[..., OrderRequest]
ACCOUNT = "DU1234567"


def moves(database: Database, intent_id: int) -> list[str]:
    with database.read() as transaction:
        return [move.to_state.value for move in Intents(transaction).transitions(intent_id)]


def position(database: Database, strategy: str = "demo") -> Decimal:
    with database.read() as transaction:
        rows = Positions(transaction).list(strategy=strategy)
        return sum((row.quantity for row in rows), Decimal(0))


def state_of(database: Database, request: OrderRequest) -> IntentState:
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(request.key.order_ref)
        assert row is not None
        return row.state


class Killed(BaseException):
    """Ends a worker at once: nothing catches it."""


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


@pytest.mark.usefixtures("quick_settle")
@pytest.mark.parametrize("fills", [True, False])
def test_an_order_whose_answer_was_lost_is_found_and_not_sent_again(
    session: Any, broker: Any, database: Database, make_request: Make, fills: bool
) -> None:
    broker.fate = accept_then(GatewayUnavailable("hung up"), fills=fills)
    request = make_request(wait_seconds=5.0)
    with pytest.raises(GatewayUnavailable):
        execute(session, database, request, owner="t")
    assert state_of(database, request) is IntentState.AMBIGUOUS
    if not fills:
        broker.fill(9000)
    outcome = execute(session, database, request, owner="t")
    assert (outcome.state, outcome.filled, len(broker.orders)) == (IntentState.FILLED, 10, 1)
    assert position(database) == 10


@pytest.mark.usefixtures("quick_settle")
def test_a_lost_order_is_sent_once_more_after_two_answers_under_a_fresh_id(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lose
    with pytest.raises(GatewayUnavailable):
        execute(session, database, make_request(), owner="t")
    asked = broker.asked
    outcome = execute(session, database, make_request(), owner="t")
    assert (outcome.state, len(broker.orders)) == (IntentState.FILLED, 1)
    assert broker.asked - asked >= 3  # twice for the lost one, once more before sending
    assert next(iter(broker.orders.values())).order_id == 2
    assert moves(database, outcome.intent_id)[:4] == ["reserved", "sending", "ambiguous", "sending"]


@pytest.mark.usefixtures("quick_settle")
def test_an_order_that_is_still_under_way_when_the_broker_is_first_asked_is_not_sent_again(
    session: Any, make_session: Callable[..., Any], broker: Any, database: Database, make_request: Make
) -> None:
    def cut(*_: Any, **__: Any) -> Any:
        raise Killed

    doomed, request = make_session(), make_request()
    doomed.place = cut
    with pytest.raises(Killed):
        execute(doomed, database, request, owner="t")
    assert state_of(database, request) is IntentState.SENDING
    find, asked = session.find_by_ref, []

    def find_then_arrive(order_ref: str) -> Any:
        truth = find(order_ref)
        if not asked:
            make_session().place(request.instrument, request.ticket, order_id=1, order_ref=order_ref, account=ACCOUNT)
        asked.append(truth.known)
        return truth

    session.find_by_ref = find_then_arrive
    outcome = execute(session, database, request, owner="t")
    assert asked[:2] == [False, True]
    assert (outcome.state, outcome.filled, len(broker.orders)) == (IntentState.FILLED, 10, 1)


@pytest.mark.usefixtures("quick_settle")
def test_a_lost_order_is_checked_again_before_it_is_sent_again(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lose
    request = make_request(rules=((RULES["trading_hours"], {}),))
    with pytest.raises(GatewayUnavailable):
        execute(session, database, request, owner="t")
    broker.now += timedelta(hours=8)  # the same day in New York, after the close
    outcome = execute(session, database, request, owner="t")
    assert outcome.state is IntentState.ABANDONED
    assert outcome.reason == "trading_hours: the market is closed"
    assert not broker.orders


@pytest.mark.usefixtures("quick_settle")
def test_an_order_first_sent_on_an_earlier_broker_day_is_never_sent_again(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lose
    with pytest.raises(GatewayUnavailable):
        execute(session, database, make_request(), owner="t")
    broker.now += timedelta(days=1)
    for _ in range(2):
        with pytest.raises(AmbiguousOrder, match="first sent on 2026-03-02") as raised:
            execute(session, database, make_request(), owner="t")
        assert raised.value.family is Family.NEEDS_HUMAN
    assert state_of(database, make_request()) is IntentState.AMBIGUOUS
    assert not broker.orders


@pytest.mark.usefixtures("quick_settle")
def test_midnight_utc_also_ends_the_day(session: Any, broker: Any, database: Database, make_request: Make) -> None:
    broker.fate = lose
    with freeze_time("2026-03-02 23:59:50"), pytest.raises(GatewayUnavailable):
        execute(session, database, make_request(), owner="t")
    with freeze_time("2026-03-03 00:00:10"), pytest.raises(AmbiguousOrder, match="first sent"):
        execute(session, database, make_request(), owner="t")


@pytest.mark.usefixtures("quick_settle")
def test_an_order_that_was_acknowledged_and_vanished_is_never_sent_again(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: None
    session.wait_terminal = lambda order, seconds: (_ for _ in ()).throw(GatewayUnavailable("hung up"))
    with pytest.raises(GatewayUnavailable):
        execute(session, database, make_request(), owner="t")
    assert state_of(database, make_request()) is IntentState.WORKING
    broker.orders.clear()
    with pytest.raises(AmbiguousOrder, match="does not know it any more"):
        execute(session, database, make_request(), owner="t")


@pytest.mark.usefixtures("quick_settle")
def test_two_orders_with_one_reference_need_a_human(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = accept_then(BrokerTimeout("late"), fills=True)
    with pytest.raises(BrokerTimeout):
        execute(session, database, make_request(), owner="t")
    broker.orders[9001] = replace(broker.orders[9000], perm_id=9001)
    broker.fill(9001, Decimal(10))
    with pytest.raises(AmbiguousOrder, match="2 orders"):
        execute(session, database, make_request(), owner="t")
    assert position(database) == 20  # booked all the same: the money has moved


@pytest.mark.usefixtures("quick_settle")
def test_the_broker_has_it_although_we_never_sent_it(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    """The trading database was set back to before the order was sent."""
    request = make_request()
    session.place(
        request.instrument, request.ticket, order_id=7, order_ref=request.key.order_ref, account=request.account
    )
    outcome = execute(session, database, request, owner="t")
    assert (outcome.state, len(broker.orders)) == (IntentState.FILLED, 1)
    assert moves(database, outcome.intent_id) == ["reserved", "sending", "filled"]


def test_a_rejection_is_an_outcome(session: Any, broker: Any, database: Database, make_request: Make) -> None:
    def reject(broker: Any, perm_id: int) -> None:
        broker.end(perm_id, "Cancelled")
        raise OrderRejected("no", code=201)

    broker.fate = reject
    outcome = execute(session, database, make_request(), owner="t")
    assert (outcome.state, outcome.reason) == (IntentState.REJECTED, "no")
    assert execute(session, database, make_request(), owner="t") == outcome


def test_what_is_left_at_the_time_out_is_cancelled_and_what_filled_is_kept(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: broker.fill(perm_id, Decimal(3))
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal(100))
    outcome = execute(session, database, make_request(ticket=ticket), owner="t")
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 3)
    assert moves(database, outcome.intent_id) == ["reserved", "sending", "working", "cancelling", "cancelled"]
    assert position(database) == 3
    with database.read() as transaction:
        assert Intents(transaction).reserved_quantity(outcome.source, outcome.account, 756733) == 0


def test_a_fill_that_beats_the_cancel_is_a_fill(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: None

    def cancel(order: Any, *, seconds: float) -> Any:
        broker.fill(order.perm_id)
        return session.find_by_perm_id(order.perm_id)

    session.cancel = cancel
    assert execute(session, database, make_request(), owner="t").state is IntentState.FILLED


def test_a_cancel_without_confirmation_stays_open_and_is_asked_for_again(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: None
    cancel, tries = session.cancel, []

    def late(order: Any, *, seconds: float) -> Any:
        tries.append(order)
        if len(tries) == 1:
            raise BrokerTimeout("not confirmed")
        return cancel(order, seconds=seconds)

    session.cancel = late
    with pytest.raises(BrokerTimeout):
        execute(session, database, make_request(), owner="t")
    assert state_of(database, make_request()) is IntentState.CANCELLING
    assert execute(session, database, make_request(wait_seconds=600.0), owner="t").state is IntentState.CANCELLED


def test_a_cancelled_whose_fills_are_missing_is_not_believed_yet(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: None

    def cancel(order: Any, *, seconds: float) -> Any:
        broker.fill(order.perm_id, Decimal(4))
        broker.end(order.perm_id, "Cancelled")
        return replace(session.find_by_perm_id(order.perm_id), executions=())

    session.cancel = cancel
    with pytest.raises(BrokerTimeout, match="not all its fills"):
        execute(session, database, make_request(), owner="t")
    outcome = execute(session, database, make_request(), owner="t")
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 4)
