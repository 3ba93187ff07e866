"""Alerts wait in the trading database until a target has taken them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.alerts.messages import AlertMessage
    from airflow_ibkr_plugin.store.models.outbox import AlertRow


def enqueue(
    session: Session,
    message: AlertMessage,
    *,
    dedupe_key: str,
    strategy: str,
    dag_id: str,
    run_id: str,
    at: datetime,
) -> AlertRow | None:
    """Store an alert in the caller's transaction; None where one with this key is stored already."""
    from airflow_ibkr_plugin.store.alerts import Alerts

    return Alerts(session).enqueue(
        dedupe_key, message.severity, message.title, message.body(), strategy, dag_id, run_id, at
    )


def run_failed_key(dag_id: str, run_id: str, occasion: str) -> str:
    """Key of the alert for one failure of one run.

    :param occasion: what is new when a cleared run fails again.
    """
    return f"run-failed:{dag_id}:{run_id}:{occasion}"
