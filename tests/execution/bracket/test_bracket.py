"""Brackets over sockets: whatever becomes of its orders, no entry is left without its stop."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import BrokerError, ConfigError
from airflow_ibkr_plugin.execution import protect
from airflow_ibkr_plugin.execution.halt import enforce, set_state
from airflow_ibkr_plugin.execution.place import resume, unfinished
from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.models import PositionRow
from airflow_ibkr_plugin.store.models.reconciliations import AdjustmentKind, PositionAdjustment
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import BracketState, IntentState, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.trading_state import TradingState

ACCOUNT = "DU1234567"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_a_filled_entry_has_its_stop_and_target_working_at_the_broker(floor: Any) -> None:
    outcome = floor.bracket()
    assert (outcome.state, outcome.filled) == (IntentState.FILLED, 10)
    assert floor.states() == {"entry": "filled", "target": "working", "stop": "working"}
    assert floor.working() == {"target": ("10", "LMT"), "stop": ("10", "STP")}
    entry = floor.legs()["entry"]
    assert entry.bracket is BracketState.OPEN
    assert {leg.parent_id for name, leg in floor.legs().items() if name != "entry"} == {entry.id}
    assert len({leg.order_ref for leg in floor.legs().values()}) == 3
    # A clear of the task finds the same orders.
    assert floor.bracket().order_ref == outcome.order_ref
    assert len(floor.orders()) == 3
    assert floor.alerts() == []


@pytest.mark.parametrize("order_type", ["STP LMT", "TRAIL"])
def test_the_stop_may_have_a_limit_or_trail(floor: Any, order_type: str) -> None:
    stop = {"offset": 0.2, "order_type": order_type} | ({"limit_offset": 0.01} if order_type == "STP LMT" else {})
    assert floor.bracket(bracket={"stop": stop}).state is IntentState.FILLED
    assert floor.working() == {"stop": ("10", order_type)}


def test_risk_clamps_the_exits_with_the_entry_and_counts_the_unit_once(floor: Any) -> None:
    given = {"order_quantity": {"max": 7}, "orders_per_day": {"max": 2}, "position_size": {"max_quantity": 7}}
    outcome = floor.bracket(rules=given)
    assert (outcome.state, outcome.quantity) == (IntentState.FILLED, 7)
    assert floor.working() == {"target": ("7", "LMT"), "stop": ("7", "STP")}
    with floor.database.read() as transaction:
        open_orders = AccountOrders(transaction, outcome.source, ACCOUNT).open()
        assert sorted(order.remaining for order in open_orders) == [0, 7]  # one exit or the other fills
    # What is held and protected counts once, in either direction: nothing more fits, and nothing is short.
    with floor.session() as session:
        more = floor.execute(session, floor.request(session, "run-2", rules=given))
        assert more.state is IntentState.DENIED
        plain = replace(
            floor.request(session, "run-3"), ticket=OrderTicket(side=Side.SELL, quantity=Decimal(7)), rules=()
        )
        sold = floor.execute(session, plain)
    assert sold.state is IntentState.DENIED  # both it and the stop could fill: a task that closes cancels first
    assert floor.states("run-2") == {"entry": "denied", "target": "denied", "stop": "denied"}


def test_a_denied_entry_takes_its_exits_with_it(floor: Any) -> None:
    assert floor.bracket(rules={"restricted_list": {"instruments": ["KO"]}}).state is IntentState.DENIED
    assert floor.states() == {"entry": "denied", "target": "denied", "stop": "denied"}
    assert floor.legs()["entry"].bracket is BracketState.CLOSED
    assert floor.orders() == []


def test_an_entry_that_does_not_fill_is_cancelled_with_its_exits(floor: Any) -> None:
    outcome = floor.bracket(order_type=OrderType.LIMIT, limit_offset=Decimal("-0.1"), wait_seconds=0.5)
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 0)
    assert floor.states() == {"entry": "cancelled", "target": "cancelled", "stop": "cancelled"}
    assert floor.working() == {}
    assert floor.legs()["entry"].bracket is BracketState.CLOSED


def test_of_a_partly_filled_entry_the_exits_are_for_what_is_held(floor: Any) -> None:
    floor.gateway.control("clock", freeze=True)
    outcome = floor.bracket(quantity=12_000, wait_seconds=0.5)
    assert outcome.state is IntentState.CANCELLED
    assert 0 < outcome.filled == floor.held() < 12_000
    left = f"{outcome.filled:f}"
    assert floor.working() == {"target": (left, "LMT"), "stop": (left, "STP")}


@pytest.mark.parametrize("refused", ["stop", "entry", "target"])
def test_a_leg_that_is_refused_never_leaves_a_naked_entry(
    floor: Any, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """A price off the grid, which the broker refuses by 110."""
    place = BrokerSession.place_bracket

    def off_the_grid(self: Any, instrument: Any, legs: Any, **named: Any) -> Any:
        number = {"entry": 0, "target": 1, "stop": 2}[refused]
        ticket = legs[number].ticket
        name = "limit_price" if ticket.limit_price is not None else "stop_price"
        bent = replace(ticket, **{name: getattr(ticket, name) + Decimal("0.005")})
        return place(
            self, instrument, [*legs[:number], replace(legs[number], ticket=bent), *legs[number + 1 :]], **named
        )

    monkeypatch.setattr(BrokerSession, "place_bracket", off_the_grid)
    outcome = floor.bracket(order_type=OrderType.LIMIT, limit_offset=Decimal("0.05"))
    if refused == "target":
        assert outcome.state is IntentState.FILLED
        assert floor.states() == {"entry": "filled", "target": "rejected", "stop": "working"}
        assert floor.working() == {"stop": ("10", "STP")}
    else:
        assert outcome.state is IntentState.REJECTED
        assert floor.working() == {}
        assert floor.held() == 0


def test_a_unit_whose_last_message_was_lost_is_taken_back_and_sent_once_more(floor: Any) -> None:
    with floor.session() as session:
        request = floor.request(session)
        stop = replace(request.key, leg="stop").order_ref
        floor.gateway.control("lose_order", order_ref=stop)
        with pytest.raises(BrokerError):
            floor.execute(session, request)
    assert floor.states() == {"entry": "ambiguous", "target": "ambiguous", "stop": "ambiguous"}
    assert floor.orders() == []
    first = floor.legs()["entry"].order_id
    with floor.session(client_ids=range(15, 16)) as other:  # a retry has another client id
        assert floor.execute(other, floor.request(other)).state is IntentState.FILLED
    assert floor.working() == {"target": ("10", "LMT"), "stop": ("10", "STP")}
    assert len(floor.orders()) == 3
    assert floor.legs()["entry"].client_id == 15
    with BrokerSession.open(floor.spec, client_id=10) as owner:  # nothing is kept under the first id
        assert first is not None
        assert not owner.discard([first], []).known


@pytest.mark.parametrize("fault", ["drop_before_accept", "drop_after_accept"])
@pytest.mark.parametrize("leg", ["entry", "target", "stop"])
def test_a_connection_lost_at_any_leg_ends_with_one_order_a_leg(floor: Any, fault: str, leg: str) -> None:
    with floor.session() as session:
        request = floor.request(session)
        floor.gateway.control(fault, order_ref=replace(request.key, leg=leg).order_ref)
        with pytest.raises(BrokerError):
            floor.execute(session, request)
    with floor.session() as again:
        assert floor.execute(again, floor.request(again)).state is IntentState.FILLED
    assert floor.held() == 10
    assert floor.working() == {"target": ("10", "LMT"), "stop": ("10", "STP")}
    for row in floor.legs().values():
        assert len(floor.orders(row.order_ref)) == 1


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_a_stop_that_is_gone_while_its_position_is_held_is_sent_anew(floor: Any) -> None:
    floor.bracket()
    with floor.session(client_ids=range(10, 11)) as owner:  # somebody cancels it by hand; its group goes with it
        owner.cancel(floor.owner(owner, floor.legs()["stop"].order_ref), seconds=10)
    assert floor.working() == {}
    floor.bracket()
    assert floor.states() == {"entry": "filled", "target": "cancelled", "stop": "cancelled", "stop.2": "working"}
    assert floor.working() == {"stop.2": ("10", "STP")}
    old, new = floor.legs()["stop"], floor.legs()["stop.2"]
    assert (new.stop_price, new.parent_id) == (old.stop_price, old.parent_id)
    assert len(floor.alerts()) == 1


def test_where_no_stop_can_be_had_the_position_is_closed_and_a_person_alerted(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.bracket()
    with floor.session(client_ids=range(10, 11)) as owner:
        owner.cancel(floor.owner(owner, floor.legs()["stop"].order_ref), seconds=10)
    place = BrokerSession.place

    def off_the_grid(self: Any, instrument: Any, ticket: OrderTicket, **named: Any) -> Any:
        if ticket.stop_price is not None:
            ticket = replace(ticket, stop_price=ticket.stop_price + Decimal("0.005"))
        return place(self, instrument, ticket, **named)

    monkeypatch.setattr(BrokerSession, "place", off_the_grid)
    floor.bracket()
    assert floor.held() == 0
    assert (floor.states()["stop.2"], floor.states()["rescue"]) == ("rejected", "filled")
    assert floor.working() == {}
    assert floor.legs()["entry"].bracket is BracketState.CLOSED
    assert len(floor.alerts()) == 1
    floor.bracket()
    assert len(floor.orders()) == 4  # nothing more is sent


def test_an_entry_that_still_works_is_cancelled_when_its_stop_is_gone(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = BrokerSession.wait_terminal

    def cancelled_by_hand(self: Any, order: Any, *, seconds: float) -> Any:
        stop = floor.owner(self, floor.legs()["stop"].order_ref)
        if stop.status == "PreSubmitted":
            self.cancel(stop, seconds=10)
        return wait(self, order, seconds=0.2)

    monkeypatch.setattr(BrokerSession, "wait_terminal", cancelled_by_hand)
    outcome = floor.bracket(order_type=OrderType.LIMIT, limit_offset=Decimal("-0.1"))
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 0)
    assert "its stop does not work" in outcome.reason
    assert floor.working() == {}


def test_a_position_that_was_closed_elsewhere_gets_no_new_stop(floor: Any) -> None:
    floor.bracket()
    with floor.session(client_ids=range(10, 11)) as owner:
        owner.cancel(floor.owner(owner, floor.legs()["stop"].order_ref), seconds=10)
    floor.gateway.control("manual_order", symbol="KO", action="SELL", quantity=10)
    floor.bracket()
    assert floor.working() == {}  # a stop would open a short position
    assert floor.alerts()


def test_a_target_that_fills_ends_the_stop_and_the_bracket(floor: Any) -> None:
    floor.bracket(bracket={"stop": {"offset": 0.2}, "target": {"amount": 0.02}})
    for _ in range(200):
        if floor.working() == {}:
            break
        floor.gateway.control("clock", advance=1800)
    floor.bracket()
    assert floor.states() == {"entry": "filled", "target": "filled", "stop": "cancelled"}
    assert floor.held() == 0
    assert floor.legs()["entry"].bracket is BracketState.CLOSED
    assert floor.alerts() == []


def test_a_target_that_fills_in_part_leaves_a_stop_for_the_rest(floor: Any) -> None:
    floor.bracket(quantity=12_000, bracket={"stop": {"offset": 0.2}, "target": {"amount": 0.02}})
    floor.gateway.control("clock", freeze=True)
    for _ in range(20_000):
        floor.gateway.control("clock", advance=1)
        if floor.working().get("stop") != ("12000", "STP"):
            break
    floor.bracket()
    left = floor.held()
    assert 0 < left < 12_000
    assert floor.working()["stop"] == (f"{left:f}", "STP")


def test_a_stop_that_is_for_less_than_is_held_is_mended(floor: Any) -> None:
    floor.bracket()
    stop = floor.legs()["stop"]
    with floor.session(client_ids=range(10, 11)) as owner:
        instrument = owner.resolve(InstrumentSpec.parse("KO"))
        ticket = OrderTicket(
            side=Side.SELL, quantity=Decimal(10), order_type=OrderType.STOP, stop_price=stop.stop_price, tif=stop.tif
        )
        owner.resize(instrument, floor.owner(owner, stop.order_ref), ticket, Decimal(4))
    assert floor.working()["stop"] == ("4", "STP")
    with floor.session(client_ids=range(15, 16)) as other:
        floor.execute(other, floor.request(other))
    assert floor.working() == {"target": ("10", "LMT"), "stop": ("10", "STP")}


def test_a_halt_cancels_an_entry_and_keeps_the_stop_of_what_is_held(floor: Any) -> None:
    floor.bracket()
    with floor.session() as session:
        waiting = floor.request(
            session,
            "run-2",
            order_type=OrderType.LIMIT,
            limit_offset=Decimal("-0.1"),
            leave_working=True,
            wait_seconds=0.2,
        )
        assert floor.execute(session, waiting).state is IntentState.WORKING
    set_state(floor.database, "", TradingState.HALTED, by="t", reason="t", command_id="c1")
    done = enforce(floor.database, "c1", gateway_of=lambda _: floor.spec, owner="t")
    assert done.verified, done
    assert floor.states("run-2")["entry"] == "cancelled"
    assert floor.working() == {"target": ("10", "LMT"), "stop": ("10", "STP")}
    # And while trading is halted what is held is protected all the same.
    with floor.session(client_ids=range(10, 11)) as owner:
        owner.cancel(floor.owner(owner, floor.legs()["stop"].order_ref), seconds=10)
    floor.bracket()
    assert floor.working() == {"stop.2": ("10", "STP")}


def test_what_a_command_flattens_is_not_protected_against_it(floor: Any) -> None:
    floor.bracket()
    set_state(floor.database, "", TradingState.HALTED, by="t", reason="t", command_id="c1", flatten=True)
    done = enforce(floor.database, "c1", gateway_of=lambda _: floor.spec, owner="t")
    assert done.verified, done
    assert floor.working() == {}
    floor.bracket()  # the service, or a retry, looks at it
    assert floor.working() == {}
    assert floor.held() == 10


def test_a_run_that_says_hold_now_finishes_the_bracket_and_not_its_exits(floor: Any) -> None:
    floor.bracket()
    entry = floor.legs()["entry"]
    refs = unfinished(floor.database, dag_id="demo", run_id="run-1", task_id="order", con_id=entry.con_id)
    assert refs == [entry.order_ref]
    with floor.session() as session:
        resume(session, floor.database, entry.order_ref, owner="t", wait_seconds=0)
    assert floor.working() == {"target": ("10", "LMT"), "stop": ("10", "STP")}


def test_a_bracket_that_cannot_stand_is_refused_before_anything_is_stored(floor: Any) -> None:
    with floor.session() as session, pytest.raises(ConfigError, match="stop"):
        floor.execute(session, floor.request(session, bracket={"stop": {"amount": 0.001}}))
    assert floor.legs() == {}


def test_the_lease_of_a_unit_is_one(floor: Any) -> None:
    from airflow_ibkr_plugin.errors import IntentBusy
    from airflow_ibkr_plugin.execution.lease import hold

    floor.bracket()
    legs = floor.legs()
    with hold(floor.database, legs["entry"].id, "one", seconds=60):
        with pytest.raises(IntentBusy), hold(floor.database, legs["stop"].id, "two", seconds=60):
            pass
        with floor.database.read() as transaction:
            assert Units(transaction).open_entries(now=datetime.now(UTC)) == []
    with floor.database.read() as transaction:
        assert [row.leg for row in Units(transaction).open_entries(now=datetime.now(UTC))] == ["entry"]


def test_an_entry_that_was_left_with_a_part_filled_is_ended_so_that_its_exits_work(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.gateway.control("clock", freeze=True)
    left: dict[str, Any] = {"quantity": 12_000, "wait_seconds": 0.5, "leave_working": True}
    outcome = floor.bracket(**left)
    assert outcome.state is IntentState.WORKING
    assert 0 < outcome.filled < 12_000
    monkeypatch.setattr(protect, "PARTLY_FILLED", timedelta(0))
    outcome = floor.bracket(**left)
    assert outcome.state is IntentState.CANCELLED
    held = f"{floor.held():f}"
    assert floor.working() == {"target": (held, "LMT"), "stop": (held, "STP")}


@pytest.mark.parametrize("side", list(Side))
def test_a_stop_that_a_split_has_cancelled_is_sent_at_new_prices_once_the_split_is_booked(
    floor: Any, side: Side
) -> None:
    """Behind a BUY the market is far beyond the stop, behind a SELL far away from it."""
    order = {"side": side, "allow_short": True}
    floor.bracket(**order)
    old = floor.legs()["stop"].stop_price
    floor.gateway.control("split", symbol="KO", ratio=4)
    assert floor.working() == {}
    floor.bracket(**order)
    assert floor.working() == {}  # at its old price it would trade at once, or never
    assert ["as after a split" in alert for alert in floor.alerts()] == [True]
    with floor.session() as session, floor.database.write() as transaction:
        entry = floor.legs()["entry"]
        made = Reconciliations(transaction, entry.source, entry.account).last()
        assert made is not None
        transaction.add(
            PositionAdjustment(
                kind=AdjustmentKind.SPLIT,
                source=entry.source,
                account=entry.account,
                strategy=entry.strategy,
                con_id=entry.con_id,
                new_shares=Decimal(4),
                old_shares=Decimal(1),
                paid_out=Decimal(0),
                price=Decimal(0),
                currency="USD",
                at=session.now() + timedelta(seconds=1),  # of two at one moment the split comes first
                made_by="t",
                reason="",
                reconciliation_id=made.id,
            )
        )
        place = (entry.source, entry.account, entry.strategy, entry.con_id)
        Positions(transaction).add_up_again(transaction.get_one(PositionRow, place), at=datetime.now(UTC))
    assert floor.held() == 40 * side.sign
    floor.bracket(**order)
    assert floor.working() == {"stop.2": ("40", "STP")}
    assert 0 <= (floor.legs()["stop.2"].stop_price - old / 4) * side.sign < Decimal("0.01")
