"""Sending: the order id and the intention are committed first, and the broker is asked first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.order_ids import allocate_order_id
from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, Family, OrderRejected
from airflow_ibkr_plugin.execution.book import book
from airflow_ibkr_plugin.execution.gate import begin_sending
from airflow_ibkr_plugin.execution.intent import Job, ticket_of
from airflow_ibkr_plugin.execution.recover import adopt
from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.orders import BrokerOrder, IntentState
from airflow_ibkr_plugin.trading.trading_state import EffectiveState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.models.orders import OrderIntent


def send(job: Job, seen: EffectiveState) -> BrokerOrder | None:
    """Send the reserved intent. Returns the acknowledged order.

    None where the broker refused it or it has ended, and, with the intent not ended, where the trading state has
    changed since it was `seen`: then nothing was sent, and risk must be checked again.

    :raises BrokerError: what became of it is unknown. Its family says retry, and the retry asks the broker.
    """
    row = job.load()
    truth = job.session.find_by_ref(row.order_ref)
    # Those of the first send stay: they bound how long the broker can be asked about it.
    first = {} if row.sent_at else {"broker_day": broker_day(job.session.now()), "sent_at": datetime.now(UTC)}
    if truth.known:  # it arrived very late, or our database was set back to before it was sent
        job.move(IntentState.SENDING, "the broker has it already; nothing is sent", **first)
        return adopt(job, truth)
    order_id = allocate_order_id(job.session, job.database)
    sending = begin_sending(
        job,
        seen,
        f"order id {order_id} of client id {job.session.client_id}",
        client_id=job.session.client_id,
        order_id=order_id,
        **first,
    )
    if sending is None:
        return None
    job.lease.check_before_send()
    try:
        order = _place(job, sending, order_id)
    except OrderRejected as error:
        job.move(IntentState.REJECTED, str(error))
        return None
    book(job, BrokerTruth(orders=(order,), executions=(), asked_at=datetime.now(UTC)))
    return order


def _place(job: Job, row: OrderIntent, order_id: int) -> BrokerOrder:
    try:
        return job.session.place(
            job.instrument, ticket_of(row), order_id=order_id, order_ref=row.order_ref, account=row.account
        )
    except OrderRejected:
        raise
    except BrokerError as error:
        job.move(IntentState.AMBIGUOUS, str(error))
        if error.family in (Family.RETRY, Family.RETRY_AFTER):
            raise
        # Whatever it was, the order may be there: the task must come back and ask.
        raise BrokerTimeout(
            f"Order {row.order_ref} was sent and its answer was an error: {error}",
            remedy="Nothing is to be done: the retry asks the broker for it.",
        ) from error
