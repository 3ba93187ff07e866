"""Orders that the gateway keeps without having sent them on: they are taken back before their unit goes out once more.

What is kept is in no list. It goes out, entry and all, with whatever order is attached to it next.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.convert import contract_of, order_of
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, ClientIdInUse
from airflow_ibkr_plugin.execution.intent import ticket_of
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentState, OrderTicket, OrderType, Side

FIRST, SECOND = range(10, 11), range(15, 16)


def lose_the_stop(floor: Any) -> None:
    """The worker with the client id 10 sends a unit whose last message, that of the stop, does not arrive."""
    with floor.session(client_ids=FIRST) as session:
        request = floor.request(session)
        floor.gateway.control("lose_order", order_ref=replace(request.key, leg="stop").order_ref)
        with pytest.raises(BrokerError):
            floor.execute(session, request)
    assert floor.orders() == []


def retry(floor: Any) -> Any:
    """A retry has another client id."""
    with floor.session(client_ids=SECOND) as session:
        return floor.execute(session, floor.request(session))


def attach(owner: BrokerSession, parent: int, order_id: int, order_ref: str, ticket: OrderTicket) -> list[BrokerError]:
    """Send an order that belongs to a kept one, and so sends that on; returns what the gateway says against it."""
    gateway, errors = owner._gateway, list[BrokerError]()
    order = order_of(gateway.library, ticket, order_ref=order_ref, account=owner.account)
    order.parentId = parent
    gateway.journal.order_errors[order_id] = errors
    instrument = owner.resolve(InstrumentSpec.parse("KO"))
    gateway.client.placeOrder(order_id, contract_of(gateway.library, instrument), order)
    owner.find_by_ref(order_ref)
    return errors


def test_when_the_unit_goes_out_once_more_nothing_of_the_first_is_kept(floor: Any) -> None:
    lose_the_stop(floor)
    entry = floor.legs()["entry"].order_id
    assert retry(floor).state is IntentState.FILLED
    child = OrderTicket(side=Side.SELL, quantity=Decimal(10), order_type=OrderType.STOP, stop_price=Decimal(1))
    with BrokerSession.open(floor.spec, client_id=10) as owner:
        errors = attach(owner, entry, owner.next_order_id(), "by hand", child)
    assert [error.code for error in errors] == [135]  # it has no such entry
    assert (len(floor.orders()), floor.held()) == (3, 10)


def test_nothing_goes_out_while_another_program_has_the_client_id_that_can_take_it_back(floor: Any) -> None:
    lose_the_stop(floor)
    with BrokerSession.open(floor.spec, client_id=10):
        for _ in range(2):
            with pytest.raises(ClientIdInUse):
                retry(floor)
            assert floor.orders() == []
    assert floor.states() == {"entry": "ambiguous", "target": "ambiguous", "stop": "ambiguous"}
    assert retry(floor).state is IntentState.FILLED
    assert floor.held() == 10


def test_a_unit_that_arrives_while_it_is_taken_back_is_not_sent_again(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stop was on its way all the time: the entry fills, and the exits are cancelled with what should be kept."""
    lose_the_stop(floor)
    rows, discard = floor.legs(), BrokerSession.discard

    def late(self: Any, *given: Any) -> Any:
        stop = rows["stop"]
        assert attach(self, rows["entry"].order_id, stop.order_id, stop.order_ref, ticket_of(stop)) == []
        return discard(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(BrokerSession, "discard", late)
        with pytest.raises(BrokerTimeout, match="arrived after it was absent twice"):
            retry(floor)
    assert [order["status"] for order in floor.orders(rows["entry"].order_ref)] == ["Filled"]
    assert retry(floor).state is IntentState.FILLED
    assert len(floor.orders(rows["entry"].order_ref)) == 1
    assert floor.held() == 10
    assert floor.working() == {"stop.2": ("10", "STP")}
