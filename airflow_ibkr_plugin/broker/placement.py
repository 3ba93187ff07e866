"""Orders: place, follow, cancel. Coroutines over an open gateway.

An order counts as placed when an openOrder or orderStatus message gave it a permId, as ended when such a message says
so, and as refused only when the broker, asked afresh after an error, does not have it alive.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from airflow_ibkr_plugin.broker.codes import CODES
from airflow_ibkr_plugin.broker.convert import contract_of, order_of
from airflow_ibkr_plugin.broker.gateway import Gateway
from airflow_ibkr_plugin.broker.queries import listed, select
from airflow_ibkr_plugin.broker.truth import DEAD_STATUSES, TERMINAL_STATUSES, BrokerTruth, belongs_to
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, GatewayUnavailable, OrderIdInUse, OrderRejected
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution, OrderTicket

_WITHOUT_REASON = re.compile(r"reason:?[\s.]*$")
_CANCELLED = 202  # "order cancelled": the end of an order that was taken, such as an IOC order that met nobody
# An error that is in no table may come ahead of the acknowledgement of the very order it names.
_LATE_ACKNOWLEDGEMENT_SECONDS = 1.0
# The gateway reports only a client's own orders to it by itself; this often the broker is asked besides.
_ASK_AGAIN_SECONDS = 3.0


async def place(
    gateway: Gateway, instrument: Instrument, ticket: OrderTicket, *, order_id: int, order_ref: str, account: str
) -> BrokerOrder:
    """Send the order and return it as the broker acknowledged it.

    :raises OrderRejected: the broker refused it; confirmed by asking.
    :raises OrderIdInUse: nothing was placed, the id had been used.
    :raises GatewayUnavailable, BrokerTimeout: whether it arrived is unknown.
    """
    gateway.check_connected()
    journal, client = gateway.journal, gateway.client
    if order_id in journal.order_errors:
        # The gateway would take it for a change of the order that has the id.
        raise OrderIdInUse(f"Order id {order_id} was used in this session.", remedy="Allocate a new order id.")
    errors = journal.order_errors[order_id] = []
    # Request ids and order ids share one counter: keep requests off this id, so that an error names one thing only.
    client.updateReqId(order_id + 1)
    deadline = time.monotonic() + gateway.spec.timeout
    order = order_of(gateway.library, ticket, order_ref=order_ref, account=account)
    client.placeOrder(order_id, contract_of(gateway.library, instrument), order)
    while True:
        acknowledged = journal.order(gateway.client_id, order_id, order_ref)
        if errors:
            return await _confirm(gateway, order_id, order_ref, errors)
        if acknowledged is not None and acknowledged.perm_id:
            if acknowledged.status not in DEAD_STATUSES:
                return acknowledged
            return await _confirm(gateway, order_id, order_ref, errors)
        if not client.isReady():
            raise GatewayUnavailable(
                f"The connection was lost before order {order_ref} was acknowledged; whether it arrived is unknown.",
                remedy="Look for its orderRef at the broker before anything is sent again.",
            )
        if (left := deadline - time.monotonic()) <= 0:
            raise BrokerTimeout(
                f"Order {order_ref} was not acknowledged within {gateway.spec.timeout:g} s; whether it arrived is"
                " unknown.",
                remedy="Look for its orderRef at the broker before anything is sent again.",
            )
        await journal.message(left)


async def _confirm(gateway: Gateway, order_id: int, order_ref: str, errors: list[BrokerError]) -> BrokerOrder:
    """Ask what became of an order after an error or a dead first status: return it, or raise why it is not there."""
    if errors and errors[0].code not in CODES:
        until = time.monotonic() + _LATE_ACKNOWLEDGEMENT_SECONDS
        while gateway.journal.order(gateway.client_id, order_id, order_ref) is None and time.monotonic() < until:
            await gateway.journal.message(until - time.monotonic())
    return what_became_of(await listed(gateway, by_ref(order_ref)), errors, order_ref=order_ref)


def what_became_of(truth: BrokerTruth, errors: Sequence[BrokerError], *, order_ref: str) -> BrokerOrder:
    """The order as the broker has it after an error or a dead first status. Pure.

    :param truth: what the broker, asked afresh, knows of the orderRef.
    :param errors: that came with the order's id, oldest first.
    :raises OrderRejected: it never lived. :raises OrderIdInUse: nothing was placed, the id had been used.
    :raises BrokerTimeout: it has executions, and is not listed.
    """
    said = str(errors[0]) if errors else ""
    dead = DEAD_STATUSES if errors else TERMINAL_STATUSES
    alive = [order for order in truth.orders if order.status not in dead or order.filled]
    if alive:
        return replace(alive[-1], reason=said)
    if truth.orders and all(error.code == _CANCELLED for error in errors):
        return replace(truth.orders[-1], reason=truth.orders[-1].reason or said)  # it was taken, and has ended since
    if truth.executions:
        raise BrokerTimeout(
            f"Order {order_ref} has executions, but the gateway does not list it yet.",
            remedy="Look for its orderRef again.",
        )
    if not truth.orders and errors and isinstance(errors[0], OrderIdInUse):
        raise errors[0]
    raise OrderRejected(
        f"IBKR refused order {order_ref}: {said or 'it was never listed as alive, and no reason was given.'}",
        remedy="Change the order; the same one would be refused again.",
        code=errors[0].code if errors else None,
    )


async def wait_terminal(gateway: Gateway, order: BrokerOrder, *, seconds: float) -> BrokerTruth:
    """Follow the order until it has ended and all its executions and commissions are in, or the time is over."""
    truth, _ = await _follow(gateway, order, seconds)
    return truth


async def cancel(gateway: Gateway, order: BrokerOrder, *, seconds: float) -> BrokerTruth:
    """Cancel the order and follow it until it has ended, filled or cancelled.

    :raises BrokerError: this session's client id is not the one that placed it.
    :raises BrokerTimeout: no end was confirmed in time; the order may be alive.
    """
    gateway.check_connected()
    if order.client_id != gateway.client_id or not order.order_id:
        raise BrokerError(
            f"Order {order.perm_id} belongs to client id {order.client_id}; this session has {gateway.client_id}.",
            remedy=f"Open a session with client id {order.client_id}: only it can cancel the order.",
        )
    errors = gateway.journal.order_errors.setdefault(order.order_id, [])
    heard = len(errors)
    gateway.client.cancelOrder(order.order_id, "")
    truth, ended = await _follow(gateway, order, seconds)
    if not ended:
        said = "; ".join(str(error) for error in errors[heard:])
        raise BrokerTimeout(
            f"Order {order.perm_id} was not confirmed as ended within {seconds:g} s of its cancel."
            f"{f' {said}' if said else ''}",
            remedy="Ask the broker again; cancel it by hand in TWS if it stays.",
        )
    return truth


async def _follow(gateway: Gateway, order: BrokerOrder, seconds: float) -> tuple[BrokerTruth, bool]:
    """What is known of the order when it has ended with all its executions and commissions, or when time is over."""
    matches = partial(belongs_to, order=order)
    own = order.client_id == gateway.client_id and order.order_id in gateway.journal.order_errors
    errors = gateway.journal.order_errors.get(order.order_id, []) if own else []
    heard = len(errors)
    deadline = time.monotonic() + seconds
    # An order of an earlier session of this client id is unknown here until it is asked for.
    ask_at = time.monotonic() + (_ASK_AGAIN_SECONDS if own and order.perm_id in gateway.journal.orders else 0)
    while True:
        truth = _known(gateway, matches, errors)
        if truth.complete:
            return truth, True
        gateway.check_connected()
        now = time.monotonic()
        if now >= deadline:
            return truth, truth.ended
        if now >= ask_at or len(errors) > heard:
            heard = len(errors)
            await listed(gateway, matches)
            ask_at = time.monotonic() + _ASK_AGAIN_SECONDS
        else:
            await gateway.journal.message(min(deadline, ask_at) - now)


def _known(
    gateway: Gateway, matches: Callable[[BrokerOrder | Execution], bool], errors: list[BrokerError]
) -> BrokerTruth:
    """What messages have said since the session was opened; a dead order with the error that says why."""
    truth = select(gateway.journal.orders.values(), gateway.journal.executions.values(), matches)
    said = why(errors)
    if not said:
        return truth
    return replace(
        truth,
        orders=tuple(
            replace(order, reason=order.reason or said) if order.status in DEAD_STATUSES else order
            for order in truth.orders
        ),
    )


def why(errors: Sequence[BrokerError]) -> str:
    """What the first of them says that says anything: "Order Canceled - reason:" without a reason does not. Pure."""
    telling = (error for error in errors if error.code != _CANCELLED or not _WITHOUT_REASON.search(error.message))
    return next(map(str, telling), "")


def by_ref(order_ref: str) -> Callable[[BrokerOrder | Execution], bool]:
    """Matches the orders and executions with this orderRef."""
    return lambda item: item.order_ref == order_ref


def by_perm_id(perm_id: int) -> Callable[[BrokerOrder | Execution], bool]:
    """Matches the order with this permId and its executions."""
    return lambda item: item.perm_id == perm_id
