"""One order, placed exactly once: every step is committed before the next, and whoever comes later asks first."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError, StoreError
from airflow_ibkr_plugin.execution.consent import check_consent, check_where
from airflow_ibkr_plugin.execution.gate import state_now
from airflow_ibkr_plugin.execution.intent import Job
from airflow_ibkr_plugin.execution.lease import hold, lease_seconds
from airflow_ibkr_plugin.execution.market import Market, gather
from airflow_ibkr_plugin.execution.outcome import OrderOutcome, outcome_of
from airflow_ibkr_plugin.execution.reconciled import keep_reconciled
from airflow_ibkr_plugin.execution.recover import recover
from airflow_ibkr_plugin.execution.request import OrderRequest, request_of
from airflow_ibkr_plugin.execution.reserve import reserve
from airflow_ibkr_plugin.execution.send import send
from airflow_ibkr_plugin.execution.settle import ask_for_commissions, settle
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, TERMINAL, BrokerOrder, IntentState, OrderTicket, Side
from airflow_ibkr_plugin.trading.plans import TicketPlan

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

log = logging.getLogger(__name__)

_ATTEMPTS = 10


def execute(session: BrokerSession, database: Database, request: OrderRequest, *, owner: str) -> OrderOutcome:
    """Place the order, wait for it, book it. Called again for the same key, it goes on from where it was.

    :param owner: who asks, for people: DAG, run, task and try.
    :returns: the outcome: filled, cancelled at the time-out (perhaps partly filled), rejected, denied, or abandoned.
        A denial or a rejection is an outcome, not an error.
    :raises LiveTradingRefused: see :func:`check_consent`.
    :raises IntentBusy: another worker is at it.
    :raises AmbiguousOrder: a human must find out what became of the order.
    :raises BrokerError, StoreError: by their family; whatever was done so far is stored.
    """
    check_consent(session, request)
    row, market = _intent(session, database, request)
    if row.state not in TERMINAL:
        with hold(database, row.id, owner, seconds=lease_seconds(session.spec)) as lease:
            job = Job(session=session, database=database, request=request, lease=lease, intent_id=row.id)
            _work(job, market)
            ask_for_commissions(job)
    return _told(database, row.id)


def unfinished(database: Database, *, dag_id: str, run_id: str, task_id: str, con_id: int) -> list[str]:
    """The orderRefs of a task's orders in an instrument that may be at the broker and have no known end."""
    with database.read() as transaction:
        return [
            row.order_ref
            for row in Intents(transaction).for_run(dag_id, run_id)
            if (row.task_id, row.con_id) == (task_id, con_id) and row.state in MAYBE_AT_BROKER
        ]


def resume(
    session: BrokerSession, database: Database, order_ref: str, *, owner: str, wait_seconds: float
) -> OrderOutcome | None:
    """Finish an order that may be at the broker, without deciding anew and without ever sending it again.

    Nobody need consent: no money is put at risk that is not at risk already.

    :param wait_seconds: how long to wait for it to fill; what is left then is cancelled.
    :returns: the outcome; `abandoned` where it never reached the broker. None where there is nothing to finish.
    :raises IntentBusy, AmbiguousOrder, BrokerError, StoreError: see :func:`execute`.
    :raises ConfigError: the order was made on another connection or account than the session's.
    """
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(order_ref)
    if row is None or row.state not in MAYBE_AT_BROKER:
        return None
    request = request_of(row, wait_seconds)
    check_where(session, request)
    with hold(database, row.id, owner, seconds=lease_seconds(session.spec)) as lease:
        job = Job(session=session, database=database, request=request, lease=lease, intent_id=row.id)
        if job.load().state in MAYBE_AT_BROKER:
            order = recover(job)
            if order is not None:
                settle(job, order)
            elif job.load().state is IntentState.AMBIGUOUS:
                job.move(IntentState.ABANDONED, "it never reached the broker, and is not wanted any more")
            ask_for_commissions(job)
    return _told(database, row.id)


def _told(database: Database, intent_id: int) -> OrderOutcome:
    outcome = outcome_of(database, intent_id)
    log.info(
        "%s %s %s of %s: %s, filled %s (%s)",
        outcome.order_ref,
        outcome.side,
        outcome.quantity,
        outcome.symbol,
        outcome.state,
        outcome.filled,
        outcome.reason,
    )
    return outcome


def _work(job: Job, market: Market | None) -> None:
    state = job.load().state  # under the lease: another worker may have ended it meanwhile
    order = recover(job) if state in MAYBE_AT_BROKER else None
    if order is None:
        order = _reserve_and_send(job, market)
    if order is not None:
        settle(job, order)


def _reserve_and_send(job: Job, market: Market | None) -> BrokerOrder | None:
    """The order as the broker acknowledged it; None where it has ended.

    :raises StoreError: the trading state kept changing between the risk check and the send.
    """
    keep_reconciled(job)
    for _ in range(_ATTEMPTS):
        if job.load().state in TERMINAL:
            return None
        seen = state_now(job)
        if reserve(job, market).state in TERMINAL:
            return None
        if (order := send(job, seen)) is not None:
            return order
        market = None
    raise StoreError(
        f"The trading state changed {_ATTEMPTS} times between the risk check and the send.", remedy="Try again."
    )


def _intent(session: BrokerSession, database: Database, request: OrderRequest) -> tuple[OrderIntent, Market | None]:
    """The stored intent of the request's key; committed here if there is none. It is sized once in its life."""
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(request.key.order_ref)
    if row is not None:
        _check_same(row, request)
        return row, None
    market = None
    ticket = request.ticket
    if isinstance(ticket, TicketPlan) and ticket.bracket is not None:
        raise ConfigError("Brackets are not sent yet.", remedy="Take `bracket` out.")
    if not isinstance(ticket, OrderTicket):
        market = gather(session, database, request.instrument)
        ticket = ticket.ticket(request.instrument, market.quote, market.account)
    with database.write() as transaction:
        row, _ = Intents(transaction).get_or_create(request.key, **_fields(request, ticket))
    _check_same(row, request)
    return row, market


def _fields(request: OrderRequest, ticket: OrderTicket) -> dict[str, object]:
    return {
        "strategy": request.strategy,
        "source": request.source,
        "account": request.account,
        "mode": request.mode,
        "symbol": request.instrument.name,
        "instrument": request.instrument.to_dict(),
        "signal_id": request.signal_id,
        "side": ticket.side,
        "quantity": ticket.quantity,
        "requested_quantity": ticket.quantity,
        "order_type": ticket.order_type,
        "limit_price": ticket.limit_price,
        "stop_price": ticket.stop_price,
        "trail_amount": ticket.trail_amount,
        "trail_percent": ticket.trail_percent,
        "tif": ticket.tif,
        "outside_rth": ticket.outside_rth,
        "state": IntentState.DECIDED,
        "currency": request.instrument.currency,
        "created_at": datetime.now(UTC),
    }


def _check_same(row: OrderIntent, request: OrderRequest) -> None:
    """:raises ConfigError: what is stored under the key is something else, and going on with it would be wrong."""
    asked: Side = request.ticket.side
    if (row.source, row.account, row.mode) != (request.source, request.account, request.mode):
        raise ConfigError(
            f"Order {row.order_ref} belongs to {row.account} at {row.source} ({row.mode}), not to {request.account}"
            f" at {request.source} ({request.mode}).",
            remedy="Do not change the connection or the mode of a run that has decided on an order; start a new run.",
        )
    if row.side is asked:
        return
    if row.state in (IntentState.DECIDED, IntentState.RESERVED):
        raise ConfigError(
            f"Order {row.order_ref} was decided as {row.side} and is now asked for as {asked}; nothing was sent.",
            remedy="Start a new run: a run decides on an order once.",
        )
    log.warning("order %s stays %s although %s is asked for now", row.order_ref, row.side, asked)
