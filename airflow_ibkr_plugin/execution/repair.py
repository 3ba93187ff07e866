"""What the broker has told and our book lacks is booked: that is repair, not disagreement."""

from __future__ import annotations

import logging
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.errors import IntentBusy
from airflow_ibkr_plugin.execution.account_book import Look
from airflow_ibkr_plugin.execution.book import book, implied_state
from airflow_ibkr_plugin.execution.intent import Job
from airflow_ibkr_plugin.execution.lease import hold, lease_seconds
from airflow_ibkr_plugin.execution.request import request_of
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.trading.orders import TERMINAL, BrokerOrder, Execution, IntentState
from airflow_ibkr_plugin.trading.reconcile import BookedOrder

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database

log = logging.getLogger(__name__)


def repair(session: BrokerSession, database: Database, seen: Look, *, owner: str) -> int:
    """Book fills, commissions and ends that the broker told of orders that nobody is at work on.

    Each order in a transaction of its own, under its lease, as everywhere. One that a worker comes for meanwhile is
    left to it.

    :returns: how many fills were booked that our book did not have.
    """
    booked = 0
    for order_ref, truth in _lacking(seen):
        with database.read() as transaction:
            row = Intents(transaction).by_order_ref(order_ref)
        assert row is not None
        try:
            _book(session, database, row, truth, owner)
        except IntentBusy as error:
            log.info("%s is left to whoever works on it: %s", order_ref, error)
        else:
            booked += sum(fill.exec_id not in seen.book.executions for fill in truth.executions)
    return booked


def _book(session: BrokerSession, database: Database, row: OrderIntent, truth: BrokerTruth, owner: str) -> None:
    with hold(database, row.id, owner, seconds=lease_seconds(session.spec)) as lease:
        job = Job(
            session=session,
            database=database,
            request=request_of(row, wait_seconds=0),
            lease=lease,
            intent_id=row.id,
        )
        book(job, truth)


def _lacking(seen: Look) -> list[tuple[str, BrokerTruth]]:
    orders, fills = _by_order(seen)
    found = []
    for order_ref in sorted(seen.unheld):
        truth = BrokerTruth(
            orders=tuple(orders[order_ref]), executions=tuple(fills[order_ref]), asked_at=datetime.now(UTC)
        )
        if truth.known and _is_lacking(seen, seen.book.orders[order_ref], truth):
            found.append((order_ref, truth))
    return found


def _by_order(seen: Look) -> tuple[dict[str, list[BrokerOrder]], dict[str, list[Execution]]]:
    by_perm_id = {order.perm_id: order.order_ref for order in seen.book.orders.values() if order.perm_id}
    orders: defaultdict[str, list[BrokerOrder]] = defaultdict(list)
    fills: defaultdict[str, list[Execution]] = defaultdict(list)
    for order in seen.orders:
        known = order.order_ref in seen.book.orders
        orders[order.order_ref if known else by_perm_id.get(order.perm_id, "")].append(order)
    for fill in seen.broker.executions:
        fills[fill.order_ref].append(fill)
    return orders, fills


def _is_lacking(seen: Look, order: BookedOrder, truth: BrokerTruth) -> bool:
    for fill in truth.executions:
        stored = seen.book.executions.get(fill.exec_id)
        if stored is None or (stored.commission is None and fill.commission is not None):
            return True
    if order.state in TERMINAL or order.state in (IntentState.DECIDED, IntentState.RESERVED):
        return False
    filled = sum((fill.quantity for fill in truth.executions), Decimal(0))
    return implied_state(order.state, order.quantity, truth, filled) is not None
