"""The books: what the broker said, stored in one transaction with the positions and the state that follow from it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.execution.changes import note_changes
from airflow_ibkr_plugin.execution.intent import Job, load_row
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.positions import ACCOUNT, Positions
from airflow_ibkr_plugin.trading.orders import TERMINAL, BrokerOrder, IntentState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.models.orders import OrderIntent


def book(job: Job, truth: BrokerTruth) -> OrderIntent:
    """Store orders, executions, positions and the intent's state, all or nothing. Booking twice changes nothing.

    :raises IntentBusy: the lease was lost; nothing is stored.
    """
    at = datetime.now(UTC)
    with job.database.write() as transaction:
        job.lease.renew(transaction)
        row = load_row(transaction, job.intent_id)
        for order in truth.orders:
            Orders(transaction).record(row.source, row.symbol, order, row.id, at)
            if len(truth.orders) == 1:
                note_changes(transaction, row, order, alive=not ended(order), at=at)
        for execution in truth.executions:
            stored, _ = Executions(transaction).record(row.source, execution, row, at)
            if row.strategy == ACCOUNT:
                continue  # it closed what is in no strategy's book
            Positions(transaction).apply(
                stored,
                row.strategy,
                at=at,
                currency=job.instrument.currency,
                sec_type=job.instrument.sec_type.value,
            )
        fills = Executions(transaction).for_intent(row.id)
        Orders(transaction).keep_up(row.id, fills, at)
        filled = sum((fill.quantity for fill in fills), Decimal(0))
        if row.state in TERMINAL:
            return row  # a fill or a commission that came after the end
        # What was raised by hand in TWS is not filled before all of it is.
        quantity = max([row.quantity, *(order.quantity for order in Orders(transaction).for_intent(row.id))])
        implied = implied_state(row.state, quantity, truth, filled)
        if implied is None:
            return row
        state, reason = implied
        if row.state is IntentState.CANCELLING and state is IntentState.CANCELLED:
            reason = f"cancelled by us, {row.reason}: {reason}"  # and what the broker says
        perm_id = truth.orders[-1].perm_id if truth.orders else truth.executions[-1].perm_id
        return Intents(transaction).transition(row, state, at=at, reason=reason, perm_id=perm_id)


def implied_state(
    state: IntentState, quantity: Decimal, truth: BrokerTruth, filled: Decimal
) -> tuple[IntentState, str] | None:
    """The state that the broker's answer means, and why; None where it means no change, or not enough is known.

    An end is believed only when all fills that it speaks of are booked.

    :param quantity: of the intent, or, where that is more, of its order. :param filled: booked so far.
    """
    if len(truth.orders) > 1:
        return None  # it was sent more than once: a human must look
    order = truth.orders[0] if truth.orders else None
    if order is None:
        # Executions of an order that the broker does not list (yet) can only prove that it was filled.
        return (IntentState.FILLED, f"filled {filled:f}") if truth.executions and filled >= quantity else None
    if filled >= order.quantity:
        return IntentState.FILLED, f"filled {filled:f}"
    if ended(order) and filled >= order.filled and order.status != "Filled":
        why = order.reason or order.status
        if order.status == "Inactive" and not filled:
            return IntentState.REJECTED, why
        return IntentState.CANCELLED, f"{why}; filled {filled:f} of {order.quantity:f}"
    if not ended(order) and state in (IntentState.SENDING, IntentState.AMBIGUOUS):
        return IntentState.WORKING, f"{order.status} as {order.perm_id}{f': {order.reason}' if order.reason else ''}"
    return None


def ended(order: BrokerOrder) -> bool:
    """Whether the broker says that the order is over."""
    # Inactive is the end only where the broker said why; else the order waits for something.
    return order.status in ("Filled", "Cancelled", "ApiCancelled") or (
        order.status == "Inactive" and bool(order.reason)
    )
