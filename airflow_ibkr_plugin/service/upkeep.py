"""The jobs that need no broker: what waits in the outboxes is sent, what nobody holds is released."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.alerts.sender import NO_TARGET, deliver_due
from airflow_ibkr_plugin.errors import AlertNotDelivered, TrackingUnavailable
from airflow_ibkr_plugin.execution.summary import record_order
from airflow_ibkr_plugin.service.jobs import Job
from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.sql import current_time
from airflow_ibkr_plugin.store.unheld import UnheldIntents
from airflow_ibkr_plugin.tracking.writer import drain

if TYPE_CHECKING:
    from airflow_ibkr_plugin.service.term import Term
    from airflow_ibkr_plugin.settings import Settings
    from airflow_ibkr_plugin.store.database import Database

log = structlog.get_logger(__name__)

# One round of sending to MLflow; what is left is sent in the next.
DRAIN_SECONDS = 5.0


def upkeep_jobs(database: Database, settings: Settings, term: Term) -> list[Job]:
    """Tracking, alerts, leases, limits."""
    return [
        Job(name="tracking", period=10.0, work=lambda: send_records(database, settings.mlflow_tracking_uri)),
        Job(name="alerts", period=5.0, work=lambda: send_alerts(database, settings.alert_urls)),
        Job(name="leases", period=15.0, work=lambda: expire_leases(database, term)),
        Job(name="limits", period=60.0, work=lambda: record_limits_that_ended(database, term)),
    ]


def send_records(database: Database, tracking_uri: str) -> bool:
    """Send what waits for MLflow and is due.

    :raises TrackingUnavailable: MLflow does not take it.
    """
    result = drain(database, tracking_uri, now=datetime.now(UTC), deadline_seconds=DRAIN_SECONDS)
    if result.error:
        raise TrackingUnavailable(f"Records wait for MLflow: {result.error}")
    return result.sent > 0 or result.left == 0


def send_alerts(database: Database, urls: tuple[str, ...]) -> bool:
    """Deliver the alerts that are due. Without a target there is nothing to be done.

    :raises AlertNotDelivered: something is wrong with a target.
    """
    result = deliver_due(database, urls, now=datetime.now(UTC))
    if result.error and result.error != NO_TARGET:
        raise AlertNotDelivered(f"Alerts wait: {result.error}")
    return result.delivered > 0 or result.waiting == 0 or result.error == NO_TARGET


def expire_leases(database: Database, term: Term) -> bool:
    """Take back what crashed holders left: reservations that were never sent, and client ids."""
    now, database = datetime.now(UTC), database.guarded(term)
    with database.read() as session:
        places = UnheldIntents(session, now).reserved()
    for source, account in places:
        with database.write() as session:
            released = Intents(session).release_unheld(source, account, now=now)
        for intent in released:
            log.warning("reservation released", order_ref=intent.order_ref, symbol=intent.symbol, run_id=intent.run_id)
            record_order(database.unguarded(), intent.dag_id, intent.run_id, intent.order_ref)
    with database.write() as session:
        if expired := ClientLeases(session).expire(now):
            log.info("client ids released", count=expired)
    return True


def record_limits_that_ended(database: Database, term: Term) -> bool:
    """Record the account limits whose time is over. They have not been in force since, recorded or not."""
    with database.guarded(term).write() as session:
        for change in Limits(session).record_ends(current_time(session)):
            log.info("account limit reverted", rule=change.rule, account=change.account, limit=change.new_parameters)
    return True
