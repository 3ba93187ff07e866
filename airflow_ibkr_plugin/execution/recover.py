"""An intent that may be at the broker: ask, and believe only what was answered."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import BrokerTimeout
from airflow_ibkr_plugin.execution.book import book, ended
from airflow_ibkr_plugin.execution.intent import Job
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.orders import TERMINAL, BrokerOrder, IntentState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.truth import BrokerTruth
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

#: An order may be under way to the broker when it is first asked: it is asked again after this time.
SETTLE_SECONDS = 5.0


def recover(job: Job) -> BrokerOrder | None:
    """Find the order of an intent at the broker and book what is found. Returns it if it is alive.

    None with a terminal state: it has ended. None with the state AMBIGUOUS: it was asked for twice, was absent from
    open, completed and executed orders, and may be sent again.

    :raises AmbiguousOrder: nobody can say what became of it; a human must look.
    :raises BrokerError: the broker could not be asked, or its answer is not complete yet.
    """
    row = job.load()
    truth = _ask(job, row)
    if not truth.known:
        _refuse_to_assume(job, row)
    if not truth.orders:
        time.sleep(SETTLE_SECONDS)
        job.renew()
        truth = _ask(job, row)
    if truth.known:
        return adopt(job, truth)
    _refuse_to_assume(job, row)
    if row.state is not IntentState.AMBIGUOUS:
        job.move(IntentState.AMBIGUOUS, f"absent from the broker when asked twice, {SETTLE_SECONDS:g} s apart")
    return None


def adopt(job: Job, truth: BrokerTruth) -> BrokerOrder | None:
    """Book what the broker knows of the intent. Returns the order if it is alive.

    :raises AmbiguousOrder: there is more than one.
    :raises BrokerTimeout: fills or the order itself are not listed yet.
    """
    row = book(job, truth)
    if len(truth.orders) > 1:
        ids = ", ".join(str(order.perm_id) for order in truth.orders)
        raise job.ambiguous(f"the broker has {len(truth.orders)} orders with its orderRef: permIds {ids}.")
    if row.state in TERMINAL:
        return None
    if not truth.orders or ended(truth.orders[-1]):
        raise BrokerTimeout(
            f"The broker does not list all of order {row.order_ref} yet.",
            remedy="Nothing is to be done: the retry asks again.",
        )
    return truth.orders[-1]


def _ask(job: Job, row: OrderIntent) -> BrokerTruth:
    truth = job.session.find_by_ref(row.order_ref)
    if not truth.known and row.perm_id:
        truth = job.session.find_by_perm_id(row.perm_id)
    return truth


def _refuse_to_assume(job: Job, row: OrderIntent) -> None:
    """:raises AmbiguousOrder: the order is absent, and that proves nothing."""
    with job.database.read() as transaction:
        booked = bool(Executions(transaction).for_intent(row.id))
    if row.perm_id or booked:
        raise job.ambiguous("the broker acknowledged it once and does not know it any more.")
    # Both calendars: which midnight ends the day for which the gateway returns executions depends on its time zone.
    same_day = row.broker_day == broker_day(job.session.now())
    if not same_day or row.sent_at is None or row.sent_at.date() != datetime.now(UTC).date():
        raise job.ambiguous(f"it was first sent on {row.broker_day}, and the broker tells of the current day only.")
