"""Orders that are sent as one unit, and trailing stops, against the simulated gateway."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker import bracket_placement
from airflow_ibkr_plugin.broker.bracket_placement import Leg
from airflow_ibkr_plugin.broker.convert import contract_of, order_of
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, GatewayUnavailable, OrderIdInUse, OrderRejected
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import OrderTicket, OrderType, Side, TimeInForce

numbers = itertools.count()


@pytest.fixture
def spy(session: BrokerSession) -> Instrument:
    return session.resolve(InstrumentSpec(symbol="SPY"))


@pytest.fixture
def other(spec: GatewaySpec) -> Iterator[BrokerSession]:
    with BrokerSession.open(spec, client_id=11) as opened:
        yield opened


def legs(session: BrokerSession, *, limit: str = "1.25", stop: str = "1.00", target: str = "9000") -> list[Leg]:
    """By default an entry far below the market, which works and does not fill."""
    first = session.next_order_id()
    tickets = [
        OrderTicket(side=Side.BUY, quantity=Decimal(3), order_type=OrderType.LIMIT, limit_price=Decimal(limit)),
        OrderTicket(
            side=Side.SELL,
            quantity=Decimal(3),
            order_type=OrderType.LIMIT,
            limit_price=Decimal(target),
            tif=TimeInForce.GTC,
        ),
        OrderTicket(
            side=Side.SELL,
            quantity=Decimal(3),
            order_type=OrderType.STOP,
            stop_price=Decimal(stop),
            tif=TimeInForce.GTC,
        ),
    ]
    return [
        Leg(ticket=ticket, order_id=first + offset, order_ref=f"aip-{next(numbers):032x}")
        for offset, ticket in enumerate(tickets)
    ]


def statuses(session: BrokerSession, unit: list[Leg]) -> list[str]:
    found = [session.find_by_ref(leg.order_ref).orders for leg in unit]
    return [orders[0].status if orders else "" for orders in found]


def kept(session: BrokerSession, instrument: Instrument, entry: Leg) -> bool:
    """Whether the gateway still has an entry that it would send on with a child of it."""
    child = OrderTicket(side=Side.SELL, quantity=Decimal(3), order_type=OrderType.STOP, stop_price=Decimal(1))
    gateway, number = session._gateway, session.next_order_id()
    order = order_of(gateway.library, child, order_ref="aip-child", account=session.account)
    order.parentId, order.transmit = entry.order_id, True
    errors: list[BrokerError] = []
    gateway.journal.order_errors[number] = errors
    gateway.client.placeOrder(number, contract_of(gateway.library, instrument), order)
    session.find_by_ref(entry.order_ref)
    return not errors


def test_the_legs_of_a_unit_work_together_and_the_exits_go_with_a_cancelled_entry(
    session: BrokerSession, spy: Instrument
) -> None:
    unit = legs(session)
    placed = session.place_bracket(spy, unit, account=session.account)
    assert [order.order_ref for order in placed if not isinstance(order, OrderRejected)] == [u.order_ref for u in unit]
    assert statuses(session, unit) == ["Submitted", "PreSubmitted", "PreSubmitted"]
    assert not isinstance(placed[0], OrderRejected)
    session.cancel(placed[0], seconds=10)
    assert statuses(session, unit) == ["Cancelled"] * 3


def test_a_filled_entry_leaves_its_exits_working(session: BrokerSession, spy: Instrument) -> None:
    unit = legs(session, limit="9000")
    session.place_bracket(spy, unit, account=session.account)
    assert statuses(session, unit)[0] == "Filled"
    assert statuses(session, unit)[1:] == ["Submitted", "PreSubmitted"]


@pytest.mark.parametrize(
    ("prices", "left"),
    [
        ({"stop": "1.005"}, ["", "", ""]),  # the stop is refused: nothing was sent on, and nothing is kept
        ({"limit": "1.255"}, ["", "", ""]),  # the entry is refused, and the exits with it
        ({"target": "9000.005"}, ["Submitted", "", "PreSubmitted"]),  # never an entry without its stop
    ],
)
def test_a_refused_leg_never_leaves_an_entry_without_its_stop(
    session: BrokerSession, other: BrokerSession, spy: Instrument, prices: dict[str, str], left: list[str]
) -> None:
    unit = legs(session, **prices)
    placed = session.place_bracket(spy, unit, account=session.account)
    assert [isinstance(order, OrderRejected) for order in placed] == [not status for status in left]
    assert statuses(other, unit) == left
    assert left[0] or not kept(session, spy, unit[0])


@pytest.mark.parametrize("limit", ["9000", "1.25"])
def test_an_entry_that_is_listed_late_is_not_taken_for_a_refused_one(
    session: BrokerSession, spy: Instrument, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Its target is refused at once; the entry was taken, may have filled, and is in no list for a moment."""
    listed, answers = bracket_placement.listed, itertools.count()

    async def late(*arguments: Any) -> BrokerTruth:
        truth = await listed(*arguments)
        return replace(truth, orders=(), executions=()) if next(answers) == 0 else truth

    monkeypatch.setattr(bracket_placement, "listed", late)
    unit = legs(session, limit=limit, target="9000.005")
    if limit == "9000":
        with pytest.raises(BrokerTimeout, match="what became of it is unknown"):
            session.place_bracket(spy, unit, account=session.account)
        assert statuses(session, unit)[0] == "Filled"
    else:
        assert isinstance(session.place_bracket(spy, unit, account=session.account)[0], OrderRejected)
        assert statuses(session, unit) == ["Cancelled", "", "Cancelled"]


def test_an_entry_that_was_lost_on_its_way_is_not_taken_for_a_refused_one(
    session: BrokerSession, spy: Instrument, simulator: SimulatorHandle
) -> None:
    unit = legs(session)
    simulator.control("lose_order", order_ref=unit[0].order_ref)
    with pytest.raises(BrokerTimeout, match="did not arrive"):
        session.place_bracket(spy, unit, account=session.account)
    assert statuses(session, unit) == ["", "", ""]
    assert not kept(session, spy, unit[0])


def test_an_id_that_was_used_is_refused_before_anything_is_sent(session: BrokerSession, spy: Instrument) -> None:
    unit = legs(session)
    session.place_bracket(spy, unit, account=session.account)
    with pytest.raises(OrderIdInUse):
        session.place_bracket(spy, unit, account=session.account)


@pytest.mark.parametrize("after", [1, 2])
def test_legs_that_were_kept_when_their_client_went_are_taken_back(
    session: BrokerSession, other: BrokerSession, spy: Instrument, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The connection ends between the messages of a unit: nothing of it is at the broker, or ever will be."""
    unit = legs(session)
    client, sent = session._gateway.client, itertools.count(1)
    place = client.placeOrder

    def dying(*arguments: object) -> None:
        number = next(sent)
        if number <= after:
            place(*arguments)
        if number == len(unit):
            client.conn.disconnect()

    with monkeypatch.context() as patched:
        patched.setattr(client, "placeOrder", dying)
        with pytest.raises((GatewayUnavailable, BrokerTimeout, ConnectionError)):
            session.place_bracket(spy, unit, account=session.account)
    session.close()
    assert statuses(other, unit) == ["", "", ""]
    ids, refs = [leg.order_id for leg in unit], [leg.order_ref for leg in unit]
    with BrokerSession.open(session.spec, client_id=10) as again:
        assert not again.discard(ids, refs).known
        assert not kept(again, spy, unit[0])
        assert statuses(again, unit) == ["", "", ""]


def test_the_quantity_of_a_working_exit_can_be_changed_by_its_owner_only(
    session: BrokerSession, other: BrokerSession, spy: Instrument
) -> None:
    unit = legs(session, limit="9000")
    _, target, stop = session.place_bracket(spy, unit, account=session.account)
    assert not isinstance(target, OrderRejected)
    assert not isinstance(stop, OrderRejected)
    for order, leg in ((target, unit[1]), (stop, unit[2])):
        assert session.resize(spy, order, leg.ticket, Decimal(2)).quantity == 2
        (found,) = other.find_by_ref(leg.order_ref).orders
        assert (found.quantity, found.perm_id) == (2, order.perm_id)
    with pytest.raises(BrokerError, match="belongs to client id 10"):
        other.resize(spy, stop, unit[2].ticket, Decimal(1))


def trail(side: Side = Side.SELL, **distance: str) -> OrderTicket:
    return OrderTicket(
        side=side,
        quantity=Decimal(3),
        order_type=OrderType.TRAIL,
        tif=TimeInForce.GTC,
        **{name: Decimal(value) for name, value in distance.items()},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("distance", [{"trail_amount": "2"}, {"trail_percent": "0.5"}])
def test_a_trailing_stop_follows_the_market_and_triggers(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec, distance: dict[str, str]
) -> None:
    with BrokerSession.open(own_spec, client_id=10) as session:
        spy = session.resolve(InstrumentSpec(symbol="SPY"))
        price = session.quote(spy).reference
        assert price is not None
        begin = (price * Decimal("0.99")).quantize(Decimal("0.01"))
        ticket = trail(**distance, stop_price=str(begin))
        order = session.place(
            spy, ticket, order_id=session.next_order_id(), order_ref="aip-trail", account=session.account
        )
        assert (order.status, order.order_type, order.stop_price) == ("PreSubmitted", "TRAIL", begin)
        for minutes in range(1, 60 * 24 * 20, 30):
            own_simulator.control("clock", advance=minutes * 60)
            (found,) = session.find_by_ref("aip-trail").orders
            assert found.stop_price is None or found.stop_price >= begin
            if found.status == "Filled":
                break
        assert found.status == "Filled"
        assert (
            session.what_if(spy, trail(Side.BUY, **distance, stop_price=str(price.quantize(Decimal(1))))).refused == ""
        )


def test_a_resized_trailing_stop_stays_where_it_has_come_to(session: BrokerSession, spy: Instrument) -> None:
    price = session.quote(spy).reference
    assert price is not None
    near = (price * Decimal("0.8")).quantize(Decimal("0.01"))
    ticket = trail(trail_percent="10", stop_price=str(near))
    order = session.place(spy, ticket, order_id=session.next_order_id(), order_ref="aip-t2", account=session.account)
    (before,) = session.find_by_ref("aip-t2").orders
    assert session.resize(spy, order, ticket, Decimal(2)).quantity == 2
    (after,) = session.find_by_ref("aip-t2").orders
    assert before.stop_price is not None
    assert after.stop_price is not None
    assert after.stop_price >= before.stop_price >= near
