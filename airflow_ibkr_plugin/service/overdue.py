"""Orders of which nobody knows what became of them are told to people after a bounded time, gateway or no gateway."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.service.jobs import Job
from airflow_ibkr_plugin.store.intents import Intents

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.service.term import Term
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

log = structlog.get_logger(__name__)

#: So long after it was first sent, an order that the broker has not been heard of is told to people.
ALERT_AFTER = timedelta(minutes=10)


def overdue_jobs(database: Database, term: Term) -> list[Job]:
    """One job, which needs nothing but the trading database."""
    return [Job(name="ambiguous", period=15.0, work=lambda: alert_overdue(database, term))]


def alert_overdue(database: Database, term: Term) -> bool:
    """Tell people, once for each, of the orders that are unknown for too long, whoever is at work on them.

    :raises NotLeader: the term is over; nothing (more) is stored.
    """
    now, database = datetime.now(UTC), database.guarded(term)
    with database.read() as session:
        rows = Intents(session).unknown(sent_before=now - ALERT_AFTER)
    for row in rows:
        with database.write() as session:
            tell_ambiguous(session, row, row.reason, now)
    return True


def tell_ambiguous(session: Session, row: OrderIntent, reason: str, at: datetime) -> None:
    """Store the alert that an order needs a human; once for each order, in the caller's transaction."""
    message = AlertMessage(
        severity=Severity.CRITICAL,
        title=f"[IBKR] {row.strategy}: order {row.symbol} needs a human",
        summary=f"{row.order_ref} ({row.side} {row.quantity:f} {row.symbol}, account {row.account}): {reason}",
        done=[f"It was sent by run {row.run_id} of DAG {row.dag_id} and is not sent again by itself."],
        next_step=(
            "Look for its orderRef in TWS or in the account's statement; then"
            f" `airflow ibkr orders settle {row.order_ref} --as never-sent|ended --reason TEXT`."
        ),
    )
    stored = enqueue(
        session,
        message,
        dedupe_key=f"ambiguous:{row.order_ref}",
        strategy=row.strategy,
        dag_id=row.dag_id,
        run_id=row.run_id,
        at=at,
    )
    if stored is not None:
        log.error("order is ambiguous", order_ref=row.order_ref, symbol=row.symbol, reason=reason)
