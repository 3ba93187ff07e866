"""Orders against the simulated gateway, with the faults that real ones have shown."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import (
    BrokerError,
    BrokerTimeout,
    GatewayUnavailable,
    OrderIdInUse,
    OrderRejected,
    UnknownContract,
)
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import BrokerOrder, OrderTicket, OrderType, Side, TimeInForce

BUY = OrderTicket(side=Side.BUY, quantity=Decimal(3))
references = (f"aip-{number:032x}" for number in itertools.count())


@pytest.fixture
def ref() -> str:
    return next(references)


@pytest.fixture
def spy(session: BrokerSession) -> Instrument:
    return session.resolve(InstrumentSpec(symbol="SPY"))


@pytest.fixture
def other(spec: GatewaySpec) -> Iterator[BrokerSession]:
    """Another client of the same gateway."""
    with BrokerSession.open(spec, client_id=11) as opened:
        yield opened


def limit(price: str, quantity: int = 3, **changes: object) -> OrderTicket:
    terms = {"side": Side.BUY, "quantity": Decimal(quantity), "order_type": OrderType.LIMIT}
    return OrderTicket(limit_price=Decimal(price), **{**terms, **changes})


FAR_BELOW = limit("1.25")


def place(session: BrokerSession, instrument: Instrument, ticket: OrderTicket, ref: str) -> BrokerOrder:
    return session.place(instrument, ticket, order_id=session.next_order_id(), order_ref=ref, account=session.account)


def test_a_market_order_is_filled_and_paid_for(
    session: BrokerSession, spy: Instrument, ref: str, clock: datetime
) -> None:
    order = place(session, spy, BUY, ref)
    truth = session.wait_terminal(order, seconds=30)

    assert (order.order_ref, order.client_id, order.con_id, order.side) == (ref, 10, spy.con_id, Side.BUY)
    assert order.perm_id > 0
    (ended,) = truth.orders
    assert (ended.status, ended.filled, ended.remaining, ended.perm_id) == ("Filled", 3, 0, order.perm_id)
    (fill,) = truth.executions
    assert (fill.order_ref, fill.order_id, fill.client_id) == (ref, order.order_id, 10)
    assert (fill.quantity, fill.side, fill.account) == (3, Side.BUY, session.account)
    assert fill.price == ended.average_price
    assert fill.commission is not None
    assert fill.commission_currency == "USD"
    assert fill.realized_pnl is None
    assert abs(fill.time - clock) < timedelta(minutes=10)
    assert fill.time.tzinfo is not None


def test_a_buy_and_a_sell_move_position_and_account(own_spec: GatewaySpec) -> None:
    with BrokerSession.open(own_spec, client_id=10) as own:
        ibm = own.resolve(InstrumentSpec(symbol="IBM"))
        bought = own.wait_terminal(place(own, ibm, BUY, next(references)), seconds=30).executions[0]

        (position,) = own.positions()
        assert (position.con_id, position.symbol, position.quantity) == (ibm.con_id, "IBM", 3)
        assert position.average_cost >= bought.price
        snapshot = own.account_snapshot()
        assert snapshot.cash == 1_000_000 - 3 * bought.price - (bought.commission or 0)
        assert snapshot.positions[0].market_value is not None

        sell = OrderTicket(side=Side.SELL, quantity=Decimal(3))
        sold = own.wait_terminal(place(own, ibm, sell, next(references)), seconds=30).executions[0]
        assert (sold.side, sold.realized_pnl is None) == (Side.SELL, False)
        assert own.positions() == []
        assert [fill.side for fill in own.executions()] == [Side.BUY, Side.SELL]


def test_any_client_finds_an_order_by_its_reference(
    session: BrokerSession, other: BrokerSession, spy: Instrument, ref: str
) -> None:
    filled = session.wait_terminal(place(session, spy, BUY, ref), seconds=30)
    working_ref = next(references)
    working = place(session, spy, FAR_BELOW, working_ref)

    found = other.find_by_ref(ref)
    assert found.orders[0].status == "Filled"
    assert (found.orders[0].filled, found.orders[0].average_price) == (3, filled.orders[0].average_price)
    # A completed order comes without its ids; its executions know them.
    assert (found.orders[0].order_id, found.orders[0].client_id) == (filled.orders[0].order_id, 10)
    assert found.executions == filled.executions

    found = other.find_by_ref(working_ref)
    assert (found.orders[0].status, found.orders[0].limit_price) == ("Submitted", Decimal("1.25"))
    assert (found.orders[0].order_id, found.orders[0].client_id) == (working.order_id, 10)
    assert found.executions == ()
    assert other.find_by_perm_id(working.perm_id).orders == found.orders
    session.cancel(working, seconds=30)


def test_what_was_never_sent_is_not_known(session: BrokerSession) -> None:
    truth = session.find_by_ref("aip-never")
    assert not truth.known
    assert truth.asked_at.tzinfo is not None


def test_a_working_order_is_cancelled(session: BrokerSession, spy: Instrument, ref: str) -> None:
    order = place(session, spy, FAR_BELOW, ref)
    assert session.wait_terminal(order, seconds=0.2).orders[0].status == "Submitted"

    truth = session.cancel(order, seconds=30)

    assert [(order.status, order.filled) for order in truth.orders] == [("Cancelled", 0)]
    assert session.find_by_ref(ref).orders[0].status == "Cancelled"


def test_a_cancel_that_comes_too_late_tells_of_the_fill(session: BrokerSession, spy: Instrument, ref: str) -> None:
    order = place(session, spy, BUY, ref)
    session.wait_terminal(order, seconds=30)
    truth = session.cancel(order, seconds=30)
    assert (truth.orders[0].status, truth.filled) == ("Filled", 3)


def test_only_the_client_that_placed_an_order_cancels_it(
    session: BrokerSession, other: BrokerSession, spec: GatewaySpec, spy: Instrument, ref: str
) -> None:
    order = place(session, spy, FAR_BELOW, ref)
    with pytest.raises(BrokerError, match="client id 10"):
        other.cancel(order, seconds=1)
    with pytest.raises(BrokerError, match="belongs to"):
        session.cancel(replace(order, order_id=0), seconds=1)  # as a completed order comes

    session.close()
    with BrokerSession.open(spec, client_id=10) as again:
        truth = again.cancel(other.find_by_ref(ref).orders[0], seconds=30)
    assert truth.orders[0].status == "Cancelled"


def test_another_client_follows_an_order_to_its_end(
    session: BrokerSession, other: BrokerSession, spy: Instrument, ref: str
) -> None:
    order = place(session, spy, BUY, ref)
    truth = other.wait_terminal(order, seconds=30)
    assert (truth.orders[0].status, truth.filled) == ("Filled", 3)
    assert truth.executions[0].commission is not None


def test_an_ioc_order_that_meets_nobody_is_cancelled_not_rejected(
    session: BrokerSession, spy: Instrument, ref: str
) -> None:
    order = place(session, spy, limit("1.25", tif=TimeInForce.IOC), ref)
    assert session.wait_terminal(order, seconds=30).orders[0].status == "Cancelled"


@pytest.mark.parametrize(
    ("ticket", "code"),
    [
        (limit("1.255"), 110),  # not a multiple of the tick
        (OrderTicket(side=Side.BUY, quantity=Decimal(900_000)), 201),  # not enough money
        (OrderTicket(side=Side.BUY, quantity=Decimal("0.5")), 10243),  # fractions
    ],
)
def test_a_refused_order_is_confirmed_as_such(
    session: BrokerSession, spy: Instrument, ref: str, ticket: OrderTicket, code: int
) -> None:
    with pytest.raises(OrderRejected, match=str(code)) as caught:
        place(session, spy, ticket, ref)

    assert caught.value.code == code
    assert not [order for order in session.find_by_ref(ref).orders if order.status != "Inactive"]


def test_an_unacceptable_account_is_refused(session: BrokerSession, spy: Instrument, ref: str) -> None:
    with pytest.raises(OrderRejected, match="321"):
        session.place(spy, BUY, order_id=session.next_order_id(), order_ref=ref, account="DU7654321")


def test_an_order_outside_trading_hours_waits(own_simulator: SimulatorHandle, own_spec: GatewaySpec) -> None:
    own_simulator.control("clock", set="2026-03-10T22:30:00+00:00")
    with BrokerSession.open(own_spec, client_id=10) as own:
        order = place(own, own.resolve(InstrumentSpec(symbol="SPY")), BUY, "aip-closed")
        assert order.status == "PreSubmitted"
        assert own.wait_terminal(order, seconds=0.2).orders[0].status == "PreSubmitted"


# --- faults -------------------------------------------------------------------------------------------


def test_a_false_cancelled_is_not_believed(
    session: BrokerSession, simulator: SimulatorHandle, spy: Instrument, ref: str
) -> None:
    """An error with the order's id: the client libraries call the order Cancelled, while it works on."""
    order = place(session, spy, FAR_BELOW, ref)
    simulator.control("error", client=10, id=order.order_id, code=10000, message="something else")

    truth = session.wait_terminal(order, seconds=0.5)

    assert truth.orders[0].status == "Submitted"
    assert session.find_by_ref(ref).orders[0].status == "Submitted"
    assert session.cancel(order, seconds=30).orders[0].status == "Cancelled"


def test_an_order_lost_on_its_way_is_unknown_and_its_id_is_offered_again(
    session: BrokerSession, simulator: SimulatorHandle, spec: GatewaySpec, spy: Instrument, ref: str
) -> None:
    order_id = session.next_order_id()
    simulator.control("drop_before_accept")
    with pytest.raises(GatewayUnavailable, match="unknown"):
        session.place(spy, BUY, order_id=order_id, order_ref=ref, account=session.account)
    session.close()

    with BrokerSession.open(spec, client_id=10) as again:
        assert again.next_order_id() <= order_id
        assert not again.find_by_ref(ref).known


def test_an_order_that_arrived_before_the_connection_broke_is_found(
    session: BrokerSession, simulator: SimulatorHandle, spec: GatewaySpec, spy: Instrument, ref: str
) -> None:
    order_id = session.next_order_id()
    simulator.control("drop_after_accept")
    with pytest.raises(GatewayUnavailable, match="unknown"):
        session.place(spy, BUY, order_id=order_id, order_ref=ref, account=session.account)
    session.close()

    with BrokerSession.open(spec, client_id=12) as again:
        truth = again.find_by_ref(ref)
        assert (truth.orders[0].status, truth.filled) == ("Filled", 3)
        assert (truth.orders[0].order_id, truth.orders[0].client_id) == (order_id, 10)
        assert again.wait_terminal(truth.orders[0], seconds=30).executions == truth.executions


def test_an_order_id_is_not_sent_twice_in_a_session(session: BrokerSession, spy: Instrument, ref: str) -> None:
    """The gateway would take a second order with the id of a working one for a change of it."""
    first = place(session, spy, FAR_BELOW, ref)
    with pytest.raises(OrderIdInUse):
        session.place(spy, limit("2.50"), order_id=first.order_id, order_ref=next(references), account=session.account)
    assert session.find_by_ref(ref).orders[0].limit_price == Decimal("1.25")
    session.cancel(first, seconds=30)


def test_no_request_takes_the_id_of_an_order(session: BrokerSession, spy: Instrument, ref: str) -> None:
    """They share one counter: an error would name either."""
    order_id = session.next_order_id() + 3
    order = session.place(spy, FAR_BELOW, order_id=order_id, order_ref=ref, account=session.account)
    for _ in range(5):
        with pytest.raises(UnknownContract):
            session.resolve(InstrumentSpec(symbol="NOSUCH"))
    session.cancel(order, seconds=30)


def test_an_order_id_used_before_places_nothing(
    session: BrokerSession, spec: GatewaySpec, spy: Instrument, ref: str
) -> None:
    used = session.wait_terminal(place(session, spy, BUY, ref), seconds=30).orders[0]
    session.close()
    new = next(references)
    with BrokerSession.open(spec, client_id=10) as again:
        with pytest.raises(OrderIdInUse) as caught:
            again.place(spy, BUY, order_id=used.order_id, order_ref=new, account=again.account)
        assert caught.value.code == 103
        assert not again.find_by_ref(new).known
        # The same order again, under the same id: the answer is the order itself.
        found = again.place(spy, BUY, order_id=used.order_id - 1, order_ref=ref, account=again.account)
    assert (found.perm_id, found.status) == (used.perm_id, "Filled")


@pytest.mark.parametrize("end", ["openOrderEnd", "completedOrdersEnd", "execDetailsEnd"])
def test_what_could_not_be_asked_is_not_taken_for_nothing_found(
    session: BrokerSession,
    simulator: SimulatorHandle,
    impatient: Callable[[BrokerSession], AbstractContextManager[None]],
    end: str,
) -> None:
    simulator.control("mute", messages=[end])
    try:
        with impatient(session), pytest.raises(BrokerTimeout):
            session.find_by_ref("aip-never")
    finally:
        simulator.control("mute", messages=[])
    if end != "execDetailsEnd":  # a late answer without an id could pass for the next one: a new session, please
        with pytest.raises(BrokerTimeout, match="new session"):
            session.find_by_ref("aip-never")
    assert session.now()


def test_a_dropped_connection_ends_the_waiting(own_simulator: SimulatorHandle, own_spec: GatewaySpec) -> None:
    with BrokerSession.open(own_spec, client_id=10) as own:
        order = place(own, own.resolve(InstrumentSpec(symbol="SPY")), FAR_BELOW, "aip-dropped")
        timer = threading.Timer(0.2, own_simulator.control, args=("drop",))
        timer.start()
        with pytest.raises(GatewayUnavailable):
            own.wait_terminal(order, seconds=1000)
        timer.join()
