"""Orders that are sent as one unit: an entry and its exits. Coroutines over an open gateway.

All but the last carry `transmit=False`: the gateway keeps them, in no list, until the last one comes, and then sends
all of them on. An entry is the first of them, so it cannot trade before its exits are there. Source: TWS API,
"Bracket Orders".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.broker.convert import contract_of, order_of
from airflow_ibkr_plugin.broker.gateway import Gateway
from airflow_ibkr_plugin.broker.placement import by_ref, what_became_of
from airflow_ibkr_plugin.broker.queries import listed, select
from airflow_ibkr_plugin.broker.truth import DEAD_STATUSES, TERMINAL_STATUSES, BrokerTruth
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, GatewayUnavailable, OrderIdInUse, OrderRejected
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution, OrderTicket, OrderType

_UNSET = 1.7976931348623157e308  # how the protocol says that a field has no value
# "Can't find order with id": of an exit, where the gateway does not have its entry.
_NO_PARENT = 135


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One order of a unit, with an order id that is used for nothing else."""

    ticket: OrderTicket
    order_id: int
    order_ref: str


async def place_bracket(
    gateway: Gateway, instrument: Instrument, legs: Sequence[Leg], *, account: str
) -> list[BrokerOrder | OrderRejected]:
    """Send the legs, the entry first and the stop last; returns each as the broker acknowledged it, or refused it.

    Where the entry was refused, or was never sent on because the last leg was refused, nothing of it is left behind.

    :raises OrderIdInUse: nothing was placed, an id had been used.
    :raises GatewayUnavailable, BrokerTimeout: whether they arrived, or what they filled, is unknown.
    """
    gateway.check_connected()
    journal, client, ids = gateway.journal, gateway.client, [leg.order_id for leg in legs]
    if used := [number for number in ids if number in journal.order_errors]:
        raise OrderIdInUse(f"Order id {used[0]} was used in this session.", remedy="Allocate new order ids.")
    errors: dict[int, list[BrokerError]] = {number: journal.order_errors.setdefault(number, []) for number in ids}
    client.updateReqId(max(ids) + 1)
    contract, deadline = contract_of(gateway.library, instrument), time.monotonic() + gateway.spec.timeout
    for leg in legs:
        order = order_of(gateway.library, leg.ticket, order_ref=leg.order_ref, account=account)
        order.parentId = 0 if leg is legs[0] else legs[0].order_id
        order.transmit = leg is legs[-1]
        client.placeOrder(leg.order_id, contract, order)
    about = f"Orders {', '.join(leg.order_ref for leg in legs)}"
    while True:
        heard = [journal.order(gateway.client_id, leg.order_id, leg.order_ref) for leg in legs]
        known = [order for order in heard if order is not None and order.perm_id]
        if any(errors.values()) or any(order.status in DEAD_STATUSES for order in known):
            return await _confirm(gateway, legs, errors)
        if len(known) == len(legs):
            return [*known]
        if not client.isReady():
            raise GatewayUnavailable(
                f"{about}: the connection was lost before they were acknowledged; whether they arrived is unknown.",
                remedy="Look for their orderRefs at the broker before anything is sent again.",
            )
        if (left := deadline - time.monotonic()) <= 0:
            raise BrokerTimeout(
                f"{about} were not acknowledged within {gateway.spec.timeout:g} s; whether they arrived is unknown.",
                remedy="Look for their orderRefs at the broker before anything is sent again.",
            )
        await journal.message(left)


async def _confirm(
    gateway: Gateway, legs: Sequence[Leg], errors: dict[int, list[BrokerError]]
) -> list[BrokerOrder | OrderRejected]:
    """Ask what became of the legs after an error, or a dead first status, of one of them."""
    truth = await listed(gateway, _any_of([leg.order_ref for leg in legs]))
    found: list[BrokerOrder | OrderRejected] = []
    for leg in legs:
        own = select(truth.orders, truth.executions, by_ref(leg.order_ref))
        try:
            found.append(what_became_of(own, errors[leg.order_id], order_ref=leg.order_ref))
        except OrderRejected as refused:
            found.append(refused)
    if isinstance(found[0], OrderRejected):
        entry, *exits = (errors[leg.order_id] for leg in legs)
        lost = not entry and any(error.code == _NO_PARENT for own in exits for error in own)
        after = await discard(gateway, [leg.order_id for leg in legs], [leg.order_ref for leg in legs])
        if any(order.order_ref == legs[0].order_ref and _lived(order) for order in after.orders) or after.executions:
            raise BrokerTimeout(
                f"Order {legs[0].order_ref} came to be listed after its cancel; what became of it is unknown.",
                remedy="Look for its orderRef at the broker before anything is sent again.",
            )
        if lost:  # nobody refused it
            raise BrokerTimeout(
                f"Order {legs[0].order_ref} did not arrive: the gateway refused its exits for want of it.",
                remedy="Look for its orderRef at the broker before anything is sent again.",
            )
    return found


def _lived(order: BrokerOrder) -> bool:
    return order.status not in DEAD_STATUSES or order.filled > 0


async def discard(gateway: Gateway, order_ids: Collection[int], order_refs: Collection[str]) -> BrokerTruth:
    """Take back orders of this client id that the gateway keeps without having sent them on.

    One that it does not have is no error; one that works after all is cancelled.

    :returns: what the broker, asked after that, knows of the orderRefs.
    """
    gateway.check_connected()
    for number in order_ids:
        gateway.journal.order_errors.setdefault(number, [])  # what it says to that is no answer to a request
        gateway.client.cancelOrder(number, "")
    return await listed(gateway, _any_of(order_refs))


async def resize(
    gateway: Gateway, instrument: Instrument, order: BrokerOrder, ticket: OrderTicket, quantity: Decimal
) -> BrokerOrder:
    """Change the quantity of a working order of this client id; returns it as the broker has it then.

    A change is the whole order: prices that somebody changed in TWS, and what ties it to others, go out as they are.

    :param ticket: what it was sent with. :param quantity: in all, what it has filled included.
    :raises BrokerError: another client id placed it, its type was changed in TWS, or the change was refused.
    :raises BrokerTimeout: it is not listed as working; or whether it was changed is unknown.
    """
    gateway.check_connected()
    if order.client_id != gateway.client_id or not order.order_id:
        raise BrokerError(
            f"Order {order.perm_id} belongs to client id {order.client_id}; this session has {gateway.client_id}.",
            remedy=f"Open a session with client id {order.client_id}: only it can change the order.",
        )
    journal = gateway.journal
    changed = await _as_it_stands(gateway, order, ticket)
    changed.totalQuantity = Decimal(f"{quantity:f}")
    errors = journal.order_errors.setdefault(order.order_id, [])
    heard, deadline = len(errors), time.monotonic() + gateway.spec.timeout
    gateway.client.placeOrder(order.order_id, contract_of(gateway.library, instrument), changed)
    while True:
        now = journal.orders.get(order.perm_id)
        if now is not None and now.quantity == quantity:
            return now
        if len(errors) > heard:
            raise errors[heard]
        gateway.check_connected()
        if (left := deadline - time.monotonic()) <= 0:
            raise BrokerTimeout(
                f"The change of order {order.perm_id} to {quantity:f} was not confirmed.", remedy="Ask again."
            )
        await journal.message(left)


async def _as_it_stands(gateway: Gateway, order: BrokerOrder, ticket: OrderTicket) -> Any:
    """The library's order for a ticket that was sent, with the prices and ties that the broker reports of it now."""
    wrapper = gateway.wrapper
    # What it holds of an order it does not read anew, but for a few fields; of one that it does not know it reads all.
    wrapper.permId2Trade.pop(order.perm_id, None)
    wrapper.trades.pop(wrapper.orderKey(order.client_id, order.order_id, order.perm_id), None)
    await listed(gateway, lambda item: item.perm_id == order.perm_id)
    reported, now = wrapper.permId2Trade.get(order.perm_id), gateway.journal.orders.get(order.perm_id)
    if reported is None or now is None or now.status in TERMINAL_STATUSES:
        raise BrokerTimeout(f"Order {order.perm_id} is not listed as working any more.", remedy="Ask again.")
    if now.order_type != ticket.order_type:
        raise BrokerError(
            f"Order {order.perm_id} was sent as {ticket.order_type} and is {now.order_type}: somebody changed it.",
            remedy="Change its quantity in TWS too, or cancel it there.",
        )
    if ticket.order_type is not OrderType.TRAIL:
        ticket = replace(ticket, limit_price=now.limit_price, stop_price=now.stop_price)
    changed = order_of(gateway.library, ticket, order_ref=order.order_ref, account=order.account)
    if ticket.order_type is OrderType.TRAIL:
        changed.trailStopPrice = _UNSET  # it stays where it has come to
        distance = "auxPrice" if ticket.trail_amount is not None else "trailingPercent"
        setattr(changed, distance, getattr(reported.order, distance))
    changed.parentId, changed.ocaGroup = reported.order.parentId, reported.order.ocaGroup
    changed.ocaType = reported.order.ocaType
    return changed


def _any_of(order_refs: Collection[str]) -> Callable[[BrokerOrder | Execution], bool]:
    return lambda item: item.order_ref in order_refs
