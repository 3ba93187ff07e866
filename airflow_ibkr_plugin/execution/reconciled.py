"""On the order path: exposure is opened only in an account whose books were held against the broker's lately."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.errors import BrokerError, GatewayUnavailable, SessionInvalid
from airflow_ibkr_plugin.execution.gate import Rules, is_closing
from airflow_ibkr_plugin.execution.intent import Job
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.trading.reconcile import Result
from airflow_ibkr_plugin.trading.risk import RiskContext
from airflow_ibkr_plugin.trading.trading_state import RECONCILIATION, TradingState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.models.reconciliations import ReconciliationRow

log = logging.getLogger(__name__)

# What was young enough before the broker was asked for prices is so in the transaction behind it.
_GRACE = timedelta(seconds=60)


def keep_reconciled(job: Job) -> None:
    """Reconcile the account through the order's own session, unless that was done lately and went well.

    Where it cannot be made, that is stored, and the risk check lets the order only close.

    :raises GatewayUnavailable, SessionInvalid: nothing can be sent either.
    :raises StoreError: the trading database failed. :raises IntentBusy: the lease was lost meanwhile.
    """
    if is_closing(job.request):
        return
    oldest = datetime.now(UTC) - _max_age()
    with job.database.read() as transaction:
        reconciliations = Reconciliations(transaction, job.session.source, job.session.account)
        last = reconciliations.last()
    if last is not None and last.result is not Result.FAILED and last.at >= oldest:
        return
    try:
        reconcile(job.session, job.database, by=f"order {job.request.key.order_ref}")
    except (GatewayUnavailable, SessionInvalid):
        raise
    except BrokerError as error:
        log.warning("%s: the account could not be reconciled: %s", job.request.key.order_ref, error)
    job.renew()


def reconciled_rules(transaction: Session, row: OrderIntent, context: RiskContext) -> Rules:
    """A rule that lets the order only close, where the account is not reconciled, or its contract disagrees."""
    reconciliations = Reconciliations(transaction, row.source, row.account)
    why = _why_not(reconciliations, reconciliations.last(), row.con_id)
    if not why:
        return []
    holdings = (context.held, context.position + context.reserved)
    given = {"state": TradingState.REDUCING, "why": why, "closing": False, "holdings": holdings}
    return [(RECONCILIATION, given)]


def _why_not(reconciliations: Reconciliations, last: ReconciliationRow | None, con_id: int) -> str:
    """Why nothing is to be opened in the contract; '' where nothing speaks against it."""
    closing = "reduced to closing"
    if last is None:
        return f"{closing}: the account was never reconciled with the broker"
    if last.result is Result.FAILED:
        return f"{closing}: the account could not be reconciled with the broker: {last.reason}"
    if last.at < datetime.now(UTC) - _max_age() - _GRACE:
        return f"{closing}: the account was last reconciled with the broker at {last.at:%Y-%m-%d %H:%M:%S} UTC"
    differing = [one for one in reconciliations.differences(last.id, con_id) if not one.accepted]
    return f"{closing}: books disagree with the broker, reconciliation {last.id}" if differing else ""


def _max_age() -> timedelta:
    return timedelta(seconds=settings.load().reconcile_max_age)
