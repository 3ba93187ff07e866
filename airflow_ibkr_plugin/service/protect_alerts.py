"""People are told of a position that may be without its stop, and what they can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.store.models.orders import OrderIntent

log = structlog.get_logger(__name__)


def tell_unprotected(
    session: Session, entry: OrderIntent, unknown: Sequence[OrderIntent], reason: str, at: datetime
) -> None:
    """Store the alert that what a bracket holds may be without its stop; once a day (UTC), in the caller's transaction.

    :param unknown: its orders of which nobody knows what became of them.
    """
    settle = " and ".join(f"`airflow ibkr orders settle {row.order_ref} --as ended --reason TEXT`" for row in unknown)
    message = AlertMessage(
        severity=Severity.CRITICAL,
        title=f"[IBKR] {entry.strategy}: {entry.symbol} may be without its stop",
        summary=f"Bracket {entry.order_ref} ({entry.side} {entry.symbol}, account {entry.account}): {reason}",
        done=[f"It was sent by run {entry.run_id} of DAG {entry.dag_id}.", "It is looked at again and again."],
        next_step=(
            "Look in TWS what is held, and whether its stop works."
            + (f" What is gone there: {settle}; the service then sends a new stop." if unknown else "")
        ),
    )
    stored = enqueue(
        session,
        message,
        dedupe_key=f"unprotected:{entry.order_ref}:{at:%Y-%m-%d}",
        strategy=entry.strategy,
        dag_id=entry.dag_id,
        run_id=entry.run_id,
        at=at,
    )
    if stored is not None:
        log.error("bracket may be without its stop", order_ref=entry.order_ref, symbol=entry.symbol, reason=reason)
