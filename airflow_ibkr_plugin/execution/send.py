"""Sending: the order id and the intention are committed first, and the broker is asked first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.broker.bracket_placement import Leg
from airflow_ibkr_plugin.broker.order_ids import allocate_order_id
from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, Family, OrderRejected, StoreError
from airflow_ibkr_plugin.execution.book import book
from airflow_ibkr_plugin.execution.gate import begin_sending, state_now
from airflow_ibkr_plugin.execution.intent import Job, ticket_of
from airflow_ibkr_plugin.execution.reconciled import keep_reconciled
from airflow_ibkr_plugin.execution.recover import adopt
from airflow_ibkr_plugin.execution.request import job_of
from airflow_ibkr_plugin.execution.reserve import reserve
from airflow_ibkr_plugin.trading.brackets import is_stop
from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.orders import TERMINAL, BrokerOrder, IntentState
from airflow_ibkr_plugin.trading.trading_state import EffectiveState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.market import Market
    from airflow_ibkr_plugin.store.models.orders import OrderIntent


_ATTEMPTS = 10


def reserve_and_send(job: Job, market: Market | None) -> BrokerOrder | None:
    """The order as the broker acknowledged it; None where it has ended.

    :raises StoreError: the trading state kept changing between the risk check and the send.
    """
    keep_reconciled(job)
    for _ in range(_ATTEMPTS):
        seen = state_now(job)
        row = reserve(job, market)
        if row.state in TERMINAL:
            return None
        if (order := send(job, row, seen)) is not None:
            return order
        market = None
    raise StoreError(
        f"The trading state changed {_ATTEMPTS} times between the risk check and the send.", remedy="Try again."
    )


def send(job: Job, row: OrderIntent, seen: EffectiveState) -> BrokerOrder | None:
    """Send the reserved intent, and the exits of its bracket with it as one unit. Returns the acknowledged order.

    None where the broker refused it or it has ended, and, with the intent not ended, where the trading state has
    changed since it was `seen`: then nothing was sent, and risk must be checked again.

    :raises BrokerError: what became of it is unknown. Its family says retry, and the retry asks the broker.
    """
    exits = [one for one in job.exits() if one.state is row.state] if row.bracket is not None else []
    if row.bracket is not None and not any(is_stop(one.leg) for one in exits):
        raise StoreError(
            f"The stop of order {row.order_ref} does not stand where its entry stands, at {row.state}.",
            remedy="Nothing was sent. Start a new run; report this with the record of the order.",
        )
    truth = job.session.find_by_ref(row.order_ref)
    # Those of the first send stay: they bound how long the broker can be asked about it.
    first: dict[str, Any] = {}
    if row.sent_at is None:
        first = {"broker_day": broker_day(job.session.now()), "sent_at": datetime.now(UTC)}
    if truth.known:  # it arrived very late, or our database was set back to before it was sent
        job.move_unit(IntentState.SENDING, "the broker has it already; nothing is sent", **first)
        return adopt(job, truth)
    order_id, *others = [allocate_order_id(job.session, job.database) for _ in (row, *exits)]
    order_ids = {one.id: number for one, number in zip(exits, others, strict=True)}
    sending = begin_sending(
        job,
        seen,
        f"order id {' and '.join(map(str, (order_id, *others)))} of client id {job.session.client_id}",
        order_ids=order_ids,
        client_id=job.session.client_id,
        order_id=order_id,
        **first,
    )
    if sending is None:
        return None
    job.lease.check_before_send()
    answers = _place(job, sending, [(row, order_id), *((one, order_ids[one.id]) for one in exits)])
    for one, answer in zip(exits, answers[1:], strict=True):
        _store(job_of(job, one), answer)
    return _store(job, answers[0])


def _store(job: Job, answer: BrokerOrder | OrderRejected) -> BrokerOrder | None:
    if isinstance(answer, OrderRejected):
        job.move(IntentState.REJECTED, str(answer))
        return None
    book(job, BrokerTruth(orders=(answer,), executions=(), asked_at=datetime.now(UTC)))
    return answer


def _place(job: Job, row: OrderIntent, legs: list[tuple[OrderIntent, int]]) -> list[BrokerOrder | OrderRejected]:
    """Each leg as the broker acknowledged it, or refused it."""
    unit = [Leg(ticket=ticket_of(one), order_id=number, order_ref=one.order_ref) for one, number in legs]
    try:
        if len(unit) > 1:
            return job.session.place_bracket(job.instrument, unit, account=row.account)
        leg = unit[0]
        return [
            job.session.place(
                job.instrument, leg.ticket, order_id=leg.order_id, order_ref=leg.order_ref, account=row.account
            )
        ]
    except OrderRejected as error:
        return [error]
    except BrokerError as error:
        job.move_unit(IntentState.AMBIGUOUS, str(error))
        if error.family in (Family.RETRY, Family.RETRY_AFTER):
            raise
        # Whatever it was, the order may be there: the task must come back and ask.
        raise BrokerTimeout(
            f"Order {row.order_ref} was sent and its answer was an error: {error}",
            remedy="Nothing is to be done: the retry asks the broker for it.",
        ) from error
