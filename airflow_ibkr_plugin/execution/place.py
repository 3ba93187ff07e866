"""One order, placed exactly once: every step is committed before the next, and whoever comes later asks first."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.execution.consent import check_consent
from airflow_ibkr_plugin.execution.intent import Job
from airflow_ibkr_plugin.execution.lease import hold, lease_seconds
from airflow_ibkr_plugin.execution.market import Market, gather
from airflow_ibkr_plugin.execution.outcome import OrderOutcome, outcome_of
from airflow_ibkr_plugin.execution.recover import recover
from airflow_ibkr_plugin.execution.reserve import reserve
from airflow_ibkr_plugin.execution.send import send
from airflow_ibkr_plugin.execution.settle import settle
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, TERMINAL, IntentState, OrderTicket, Side

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.execution.request import OrderRequest
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
    if row.state not in TERMINAL:
        with hold(database, row.id, owner, seconds=lease_seconds(session.spec)) as lease:
            _work(Job(session=session, database=database, request=request, lease=lease, intent_id=row.id), market)
    outcome = outcome_of(database, row.id)
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
        state = job.load().state
        if state in TERMINAL:
            return
        if reserve(job, market).state in TERMINAL:
            return
        order = send(job)
    if order is not None:
        settle(job, order)


def _intent(session: BrokerSession, database: Database, request: OrderRequest) -> tuple[OrderIntent, Market | None]:
    """The stored intent of the request's key; committed here if there is none. It is sized once in its life."""
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(request.key.order_ref)
    if row is not None:
        _check_same(row, request)
        return row, None
    market = None
    ticket = request.ticket
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
