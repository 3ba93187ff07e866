"""A bracket: an entry whose exits go out with it, found again as one unit after a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import BrokerTimeout
from airflow_ibkr_plugin.execution.intent import Job
from airflow_ibkr_plugin.execution.recover import adopt, recover
from airflow_ibkr_plugin.execution.request import job_of
from airflow_ibkr_plugin.execution.settle import owner_of
from airflow_ibkr_plugin.trading.brackets import is_stop
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, TERMINAL, BrokerOrder, IntentState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.truth import BrokerTruth
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

#: What the broker knows of an intent.
Find = Callable[["OrderIntent"], "BrokerTruth"]


def recover_unit(job: Job) -> BrokerOrder | None:
    """As :func:`recover`, of an order with its exits: where it is absent, nothing of them is left at the broker.

    Its exits are booked by `protect`.

    :raises AmbiguousOrder: besides, an exit is at the broker and its entry is not; a human must look.
    :raises ClientIdInUse: what the gateway may have kept of it can be taken back by another client id only.
    """
    order = recover(job)
    row = job.load()
    exits = [one for one in job.exits() if one.state in MAYBE_AT_BROKER]
    if order is not None or row.state is not IntentState.AMBIGUOUS or not exits:
        return order
    for one in exits:
        if job.session.find_by_ref(one.order_ref).known:
            raise job.ambiguous(f"its {one.leg} {one.order_ref} is at the broker, and it is not.")
    _take_back(job, row, exits)
    for one in exits:
        if one.state is not IntentState.AMBIGUOUS:
            job_of(job, one).move(IntentState.AMBIGUOUS, "absent from the broker with its entry")
    return None


def _take_back(job: Job, row: OrderIntent, exits: list[OrderIntent]) -> None:
    """An entry that was not sent on must not wait in the gateway for somebody who sends it on by hand."""
    if row.client_id is None:
        return
    unit = [row, *exits]
    ids = [one.order_id for one in unit if one.order_id is not None]
    with owner_of(job, row.client_id, f"taking back {row.order_ref}") as owner:
        truth = owner.discard(ids, [one.order_ref for one in unit])
    job.renew()
    if truth.known:
        raise BrokerTimeout(
            f"Order {row.order_ref} arrived after it was absent twice, and was cancelled.",
            remedy="Nothing is to be done: the retry asks the broker again.",
        )


def asked(job: Job) -> Find:
    """Ask the broker afresh, each time."""
    return lambda row: job.session.find_by_ref(row.order_ref)


def unprotected(job: Job, find: Find | None = None) -> str:
    """Why an entry that works must not go on: its stop is gone; '' while that works, or may."""
    find = find or asked(job)
    for one in job.exits():
        if not is_stop(one.leg):
            continue
        if one.state not in TERMINAL:
            truth = find(one)
            if not truth.known:
                return ""  # it may be under way; what is absent is found out once the entry has ended
            adopt(job_of(job, one), truth)
            one = job_of(job, one).load()
        if one.state not in TERMINAL:
            return ""
    return "its stop does not work" if job.exits() else ""
