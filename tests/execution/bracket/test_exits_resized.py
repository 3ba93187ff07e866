"""Exits whose quantity has to be changed: what goes out on the wire, and what is left of a stop that filled in part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.convert import contract_of, order_of
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout
from airflow_ibkr_plugin.execution import protect
from airflow_ibkr_plugin.execution.intent import ticket_of
from airflow_ibkr_plugin.simulator.orders.desk import Desk
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import OrderType

#: What ties an exit to its entry and to the other exit.
TIES = ("parentId", "ocaGroup", "ocaType")


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The placeOrder messages that reach the gateway, decoded, oldest first."""
    messages: list[dict[str, Any]] = []
    place = Desk.place

    def noting(self: Any, client_id: int, order_id: int, instrument: Any, fields: dict[str, Any]) -> Any:
        messages.append(fields)
        return place(self, client_id, order_id, instrument, fields)

    monkeypatch.setattr(Desk, "place", noting)
    return messages


def by_hand(floor: Any, leg: str, quantity: int | Decimal, **terms: Decimal) -> None:
    """Somebody changes an exit: its quantity in all, what has filled of it included, and perhaps its price."""
    client_id = floor.legs()[leg].client_id
    with floor.session(client_ids=range(client_id, client_id + 1)) as owner:
        change(floor, owner, leg, quantity, **terms)


def change(floor: Any, owner: Any, leg: str, quantity: int | Decimal, **terms: Decimal) -> None:
    """The same, in a session of the client id that placed it."""
    row = floor.legs()[leg]
    ticket = replace(ticket_of(row), quantity=Decimal(quantity), **terms)
    gateway, instrument = owner._gateway, owner.resolve(InstrumentSpec.parse("KO"))
    assert floor.owner(owner, row.order_ref).order_type == row.order_type
    order = order_of(gateway.library, ticket, order_ref=row.order_ref, account=row.account)
    gateway.client.placeOrder(row.order_id, contract_of(gateway.library, instrument), order)
    assert floor.owner(owner, row.order_ref).quantity == quantity


def mend(floor: Any, client_id: int = 15) -> None:
    """As a retry of the task does, or the service."""
    with floor.session(client_ids=range(client_id, client_id + 1)) as session:
        floor.execute(session, floor.request(session))


@pytest.mark.parametrize("keeper", [10, 15])  # the client id that placed it, and another one's that becomes it
def test_an_exit_that_is_resized_stays_tied_to_its_entry_and_to_the_other_exit(
    floor: Any, received: list[dict[str, Any]], keeper: int
) -> None:
    """A change is the whole order: what it does not name, the broker takes away. Two exits apart could both fill."""
    floor.bracket()
    rows = floor.legs()
    for leg in ("target", "stop"):
        by_hand(floor, leg, 4)
    received.clear()
    mend(floor, keeper)
    assert floor.working() == {"target": ("10", "LMT"), "stop": ("10", "STP")}
    sent = {message["orderRef"]: message for message in received}
    assert sent.keys() == {rows["target"].order_ref, rows["stop"].order_ref}
    entry = rows["entry"]
    for leg in ("target", "stop"):
        message = sent[rows[leg].order_ref]
        assert (message["orderId"], message["quantity"], message["transmit"]) == (rows[leg].order_id, 10, True)
        assert {name: message[name] for name in TIES} == {
            "parentId": entry.order_id,
            "ocaGroup": str(entry.perm_id),
            "ocaType": 3,  # IBKR's default for the exits of a bracket: reduce, without block
        }


@pytest.mark.parametrize("stop_type", ["STP", "STP LMT", "TRAIL"])
def test_a_price_that_somebody_has_changed_stays_when_its_quantity_is_mended(
    floor: Any, received: list[dict[str, Any]], stop_type: str
) -> None:
    stop = {"offset": 0.2, "order_type": stop_type} | ({"limit_offset": 0.01} if stop_type == "STP LMT" else {})
    floor.bracket(bracket={"stop": stop})
    sent = floor.legs()["stop"]
    changes = {
        "STP": {"stop_price": sent.stop_price + 1},
        "STP LMT": {"stop_price": sent.stop_price + 1, "limit_price": (sent.limit_price or 0) + 1},
        "TRAIL": {"trail_percent": Decimal(12)},
    }[stop_type]
    with floor.session(client_ids=range(sent.client_id, sent.client_id + 1)) as owner:
        change(floor, owner, "stop", 4, **changes)
        received.clear()
        floor.execute(owner, floor.request(owner))
    assert floor.working() == {"stop": ("10", stop_type)}
    (message,) = received
    if stop_type == "TRAIL":
        assert message["trailingPercent"] == 12
    else:
        prices = {"stop_price": "auxPrice", "limit_price": "lmtPrice"}
        assert {name: message[prices[name]] for name in changes} == changes
    assert floor.legs()["stop"].stop_price == sent.stop_price  # what was decided; `orders show` tells the difference


def test_an_exit_whose_type_somebody_has_changed_is_not_changed_back(
    floor: Any, received: list[dict[str, Any]]
) -> None:
    floor.bracket(bracket={"stop": {"offset": 0.2}})
    by_hand(floor, "stop", 4, order_type=OrderType.STOP_LIMIT, limit_price=Decimal(10))
    received.clear()
    with pytest.raises(BrokerError, match="was sent as STP and is STP LMT: somebody changed it"):
        mend(floor)
    assert received == []
    assert floor.working() == {"stop": ("4", "STP LMT")}


def test_an_exit_that_has_ended_meanwhile_is_not_sent_again_as_a_change(
    floor: Any, received: list[dict[str, Any]]
) -> None:
    floor.bracket()
    row = floor.legs()["stop"]
    with floor.session(client_ids=range(row.client_id, row.client_id + 1)) as owner:
        order, instrument = floor.owner(owner, row.order_ref), owner.resolve(InstrumentSpec.parse("KO"))
        owner.cancel(order, seconds=10)
        received.clear()
        with pytest.raises(BrokerTimeout, match="not listed as working any more"):
            owner.resize(instrument, order, ticket_of(row), Decimal(4))
    assert received == []


LARGE = Decimal(60_000)


@pytest.fixture
def stop_filled_in_part(floor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large bracket whose stop has begun to fill. The clock stands still, but for the seconds that it needs."""
    floor.gateway.control("clock", freeze=True)
    wait = BrokerSession.wait_terminal

    def a_second_on(self: Any, order: Any, *, seconds: float) -> Any:
        floor.gateway.control("clock", advance=1)
        return wait(self, order, seconds=0.1)

    with monkeypatch.context() as patched:
        patched.setattr(BrokerSession, "wait_terminal", a_second_on)
        floor.bracket(quantity=int(LARGE), bracket={"stop": {"amount": 0.02}, "target": {"offset": 0.3}})
    assert floor.held() == LARGE
    for _ in range(5_000):
        (order,) = floor.orders(floor.legs()["stop"].order_ref)
        if filled := Decimal(order["filled"]):
            break
        floor.gateway.control("clock", advance=1)
    assert 0 < filled < 20_000


@pytest.mark.parametrize("by_hand_to", [50_000, 90_000])  # less than has still to go, and more than is held
@pytest.mark.usefixtures("stop_filled_in_part")
def test_a_stop_that_has_filled_in_part_is_brought_back_to_what_is_left(
    floor: Any, received: list[dict[str, Any]], by_hand_to: int
) -> None:
    by_hand(floor, "stop", by_hand_to)
    received.clear()
    mend(floor)
    (stop,) = floor.orders(floor.legs()["stop"].order_ref)
    left = Decimal(stop["quantity"]) - Decimal(stop["filled"])
    assert 0 < left < 50_000
    assert floor.held() == left
    ours = floor.legs()
    changes = [message["quantity"] for message in received if message["orderRef"] == ours["stop"].order_ref]
    assert changes == [LARGE]  # in all: IBKR counts what has filled of it
    assert ours["stop"].quantity == LARGE
    (target,) = floor.orders(ours["target"].order_ref)
    assert ours["target"].quantity == Decimal(target["quantity"]) == left
    floor.gateway.control("clock", advance=60)
    mend(floor)
    assert floor.states() == {"entry": "filled", "stop": "filled", "target": "cancelled"}
    assert floor.held() == 0
    with floor.session() as session:
        assert session.positions() == []


@pytest.mark.usefixtures("stop_filled_in_part")
def test_a_stop_that_is_gone_after_a_part_of_it_filled_is_sent_anew_for_the_rest(floor: Any) -> None:
    row = floor.legs()["stop"]
    with floor.session(client_ids=range(row.client_id, row.client_id + 1)) as owner:
        owner.cancel(floor.owner(owner, row.order_ref), seconds=10)
    (gone,) = floor.orders(row.order_ref)
    mend(floor)
    new = floor.legs()["stop.2"]
    (order,) = floor.orders(new.order_ref)
    assert new.quantity == Decimal(order["quantity"]) == LARGE - Decimal(gone["filled"])
    assert new.stop_price == row.stop_price
    floor.gateway.control("clock", advance=60)
    mend(floor)
    assert floor.states()["stop"] == "cancelled"
    assert floor.held() == 0
    with floor.session() as session:
        assert session.positions() == []


@pytest.mark.usefixtures("stop_filled_in_part")
def test_while_a_stop_fills_the_broker_alone_makes_the_target_smaller(
    floor: Any, received: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two questions it fills further: of the answers, what is held is more than the target may be for."""
    target, asked, looks = floor.legs()["target"].order_ref, protect.asked, iter(range(3))

    def later(job: Any) -> Any:
        find = asked(job)

        def answer(row: Any) -> Any:
            if row.order_ref == target and next(looks, None) is not None:
                floor.gateway.control("clock", advance=1)
            return find(row)

        return answer

    monkeypatch.setattr(protect, "asked", later)
    mend(floor)
    assert next(looks, None) is None
    assert received == []
    (order,) = floor.orders(target)
    assert floor.held() == Decimal(order["quantity"]) > 0
