"""One order, placed exactly once: every step is committed before the next, and whoever comes later asks first."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.execution.bracket import recover_unit, unprotected
from airflow_ibkr_plugin.execution.consent import check_consent, check_where
from airflow_ibkr_plugin.execution.intent import Job, exit_fields, ticket_fields
from airflow_ibkr_plugin.execution.lease import hold, lease_seconds
from airflow_ibkr_plugin.execution.market import Market, gather
from airflow_ibkr_plugin.execution.outcome import OrderOutcome, outcome_of
from airflow_ibkr_plugin.execution.protect import protect
from airflow_ibkr_plugin.execution.request import OrderRequest, request_of
from airflow_ibkr_plugin.execution.send import reserve_and_send
from airflow_ibkr_plugin.execution.settle import ask_for_commissions, settle
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.brackets import Exit
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, TERMINAL, BracketState, IntentState, OrderTicket, Side
from airflow_ibkr_plugin.trading.plans import TicketPlan

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

log = logging.getLogger(__name__)


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
    if row.state not in TERMINAL or row.bracket is BracketState.OPEN:
        with hold(database, row.id, owner, seconds=lease_seconds(session.spec)) as lease:
            job = Job(session=session, database=database, request=request, lease=lease, intent_id=row.id)
            work(job, market)
            if row.bracket is not None:
                protect(job)
            ask_for_commissions(job)
    return _told(database, row.id)


def unfinished(database: Database, *, dag_id: str, run_id: str, task_id: str, con_id: int) -> list[str]:
    """The orderRefs of a task's orders in an instrument that may be at the broker and have no known end, or whose
    bracket is not over; an exit is not one of its own."""
    with database.read() as transaction:
        return [
            row.order_ref
            for row in Intents(transaction).for_run(dag_id, run_id)
            if (row.task_id, row.con_id, row.parent_id) == (task_id, con_id, None) and _unfinished(row)
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
    if row is None or not _unfinished(row):
        return None
    request = request_of(row, wait_seconds)
    check_where(session, request)
    with hold(database, row.id, owner, seconds=lease_seconds(session.spec)) as lease:
        job = Job(session=session, database=database, request=request, lease=lease, intent_id=row.id)
        if job.load().state in MAYBE_AT_BROKER:
            order = recover_unit(job)
            if order is not None:
                settle(job, order)
            elif job.load().state is IntentState.AMBIGUOUS:
                job.move_unit(IntentState.ABANDONED, "it never reached the broker, and is not wanted any more")
        protect(job)
        ask_for_commissions(job)
    return _told(database, row.id)


def _unfinished(row: OrderIntent) -> bool:
    was_sent = row.bracket is BracketState.OPEN and row.sent_at is not None
    return row.state in MAYBE_AT_BROKER or (was_sent and row.state in TERMINAL)


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


def work(job: Job, market: Market | None = None) -> None:
    """Bring an intent that is held to its end: find its order, or reserve and send it, and follow it."""
    row = job.load()  # under the lease: another worker may have ended it meanwhile
    if row.state in TERMINAL:
        return
    order = recover_unit(job) if row.state in MAYBE_AT_BROKER else None
    if order is None:
        order = reserve_and_send(job, market)
    if order is not None:
        settle(job, order, unsafe=partial(unprotected, job) if row.bracket is not None else None)


def _intent(session: BrokerSession, database: Database, request: OrderRequest) -> tuple[OrderIntent, Market | None]:
    """The stored intent of the request's key; committed here if there is none. It is sized once in its life."""
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(request.key.order_ref)
    if row is not None:
        _check_same(row, request)
        return row, None
    market = None
    ticket = request.ticket
    exits: tuple[Exit, ...] = ()
    if isinstance(ticket, TicketPlan):
        plan, market = ticket, gather(session, database, request.instrument)
        ticket = plan.ticket(request.instrument, market.quote, market.account)
        exits = plan.exits(request.instrument, ticket, market.quote)
    with database.write() as transaction:
        intents, at = Intents(transaction), datetime.now(UTC)
        row, created = intents.get_or_create(request.key, **_fields(request, ticket, exits, at))
        for one in exits if created else ():
            intents.get_or_create(replace(request.key, leg=one.leg), **exit_fields(row, one.ticket, at))
    _check_same(row, request)
    return row, market


def _fields(request: OrderRequest, ticket: OrderTicket, exits: tuple[Exit, ...], at: datetime) -> dict[str, object]:
    return {
        "strategy": request.strategy,
        "source": request.source,
        "account": request.account,
        "mode": request.mode,
        "symbol": request.instrument.name,
        "instrument": request.instrument.to_dict(),
        "signal_id": request.signal_id,
        "state": IntentState.DECIDED,
        "bracket": BracketState.OPEN if exits else None,
        "currency": request.instrument.currency,
        "created_at": at,
        **ticket_fields(ticket),
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
