"""Waiting for the end of an order, booking fills as they come; what is left at the time-out is cancelled, or left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout
from airflow_ibkr_plugin.execution.book import book
from airflow_ibkr_plugin.execution.gate import cancel_wanted
from airflow_ibkr_plugin.execution.intent import Job
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.leaders import SERVICE, Leaders
from airflow_ibkr_plugin.trading.orders import TERMINAL, BrokerOrder, IntentState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.broker.truth import BrokerTruth

log = logging.getLogger(__name__)

# Fills are booked at least this often, and the lease is renewed with them.
_SLICE_SECONDS = 5.0
#: How long the broker may take to confirm a cancel.
CANCEL_SECONDS = 15.0


def settle(job: Job, order: BrokerOrder, *, unsafe: Callable[[], str] | None = None) -> None:
    """Follow the order to its end: filled, rejected, or cancelled when `wait_seconds` are over or by command.

    :param unsafe: asked between looks: why the order must not go on working; '' while it may.

    With the request's `leave_working` the end of `wait_seconds` leaves it at the broker, and its intent `working`.

    :raises BrokerTimeout: the broker did not confirm the cancel; the retry asks again.
    :raises ClientIdInUse: only another client id can cancel the order, and it is in use.
    """
    deadline = time.monotonic() + job.request.wait_seconds
    # A cancel that was asked for before a crash is asked for again, not waited for.
    cancelling = job.load().state is IntentState.CANCELLING
    command = ""
    while not (cancelling or command) and (left := deadline - time.monotonic()) > 0:
        truth = job.session.wait_terminal(order, seconds=min(left, _SLICE_SECONDS))
        if book(job, truth).state in TERMINAL:
            return
        command = cancel_wanted(job) or (unsafe() if unsafe is not None else "")
    if job.request.leave_working and not (cancelling or command):
        _leave(job, order)
        return
    if not cancelling:
        job.move(IntentState.CANCELLING, command or f"not filled within {job.request.wait_seconds:g} s")
    row = book(job, cancel_order(job, order))
    if row.state not in TERMINAL:
        raise BrokerTimeout(
            f"The end of order {row.order_ref} is confirmed, but not all its fills are listed yet.",
            remedy="Nothing is to be done: the retry asks again.",
        )


def _leave(job: Job, order: BrokerOrder) -> None:
    log.info("order %s is left at the broker, not filled within %g s", order.order_ref, job.request.wait_seconds)
    with job.database.read() as transaction:
        leader = Leaders(transaction).current(SERVICE, datetime.now(UTC))
    if leader is None:
        log.warning("no `airflow ibkr service` leads: what becomes of order %s is booked by the next", order.order_ref)


def ask_for_commissions(job: Job) -> None:
    """Ask once more about fills whose commission had not come when the order ended: nobody asks later.

    :raises IntentBusy: the lease was lost.
    """
    if not _without_commission(job):
        return
    order_ref = job.load().order_ref
    try:
        book(job, job.session.find_by_ref(order_ref))
    except BrokerError as error:  # the order itself is done, whatever becomes of this question
        log.warning("%s: the broker could not be asked for commissions: %s", order_ref, error)
    if missing := _without_commission(job):
        log.warning("%s: no commission is known for %s; it is not in the books", order_ref, ", ".join(missing))


def _without_commission(job: Job) -> list[str]:
    with job.database.read() as transaction:
        fills = Executions(transaction).for_intent(job.intent_id)
        return [fill.exec_id for fill in fills if fill.commission is None]


def cancel_order(job: Job, order: BrokerOrder) -> BrokerTruth:
    """Cancel it through the client id that placed it.

    :raises BrokerTimeout: its end was not confirmed. :raises ClientIdInUse: that client id is in use.
    """
    with owner_of(job, order.client_id, f"cancel of {order.order_ref}") as owner:
        return owner.cancel(order, seconds=CANCEL_SECONDS)


@contextmanager
def owner_of(job: Job, client_id: int, what_for: str) -> Iterator[BrokerSession]:
    """A session with the client id that placed an order, perhaps of a worker that has crashed: only it can change it.

    :raises ClientIdInUse: somebody else is it.
    """
    if client_id == job.session.client_id:
        yield job.session
        return
    spec = replace(job.session.spec, client_ids=range(client_id, client_id + 1))
    with leased_session(spec, job.database, owner=what_for) as owner:
        yield owner
