"""The outbox of alerts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.outbox import AlertRow
from airflow_ibkr_plugin.store.sql import insert_if_absent


class Alerts:
    """Alerts by their dedupe key."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def enqueue(
        self,
        dedupe_key: str,
        severity: str,
        title: str,
        body: str,
        strategy: str,
        dag_id: str,
        run_id: str,
        at: datetime,
    ) -> AlertRow | None:
        """Store an alert to be delivered from `at` on; None if there was one with this key already."""
        values = {
            "dedupe_key": dedupe_key,
            "severity": severity,
            "title": title,
            "body": body,
            "strategy": strategy,
            "dag_id": dag_id,
            "run_id": run_id,
            "created_at": at,
            "next_attempt_at": at,
        }
        if not insert_if_absent(self._session, AlertRow, ("dedupe_key",), values):
            return None
        return self._session.scalars(select(AlertRow).where(AlertRow.dedupe_key == dedupe_key)).one()

    def due(self, now: datetime, limit: int = 50) -> list[AlertRow]:
        """Undelivered alerts whose time has come, oldest first."""
        query = select(AlertRow).where(AlertRow.delivered_at.is_(None), AlertRow.next_attempt_at <= now)
        return list(self._session.scalars(query.order_by(AlertRow.id).limit(limit)))

    def claim_due(self, now: datetime, *, limit: int, until: datetime) -> list[AlertRow]:
        """Like :meth:`due`, but nobody else gets these alerts before `until`; commit before they are sent."""
        due = select(AlertRow).where(AlertRow.delivered_at.is_(None), AlertRow.next_attempt_at <= now)
        due = due.order_by(AlertRow.id).limit(limit).with_for_update(skip_locked=True)
        rows = list(self._session.scalars(due))
        for row in rows:
            row.next_attempt_at = until
        self._session.flush()
        return rows

    def count_waiting(self) -> int:
        """How many alerts are not delivered yet, whenever they are due."""
        query = select(func.count()).select_from(AlertRow).where(AlertRow.delivered_at.is_(None))
        return self._session.scalars(query).one()

    def delivered(self, alert_id: int, at: datetime) -> None:
        """The alert has reached somebody."""
        self._session.execute(
            update(AlertRow)
            .where(AlertRow.id == alert_id)
            .values(delivered_at=at, attempts=AlertRow.attempts + 1, last_error="")
        )

    def failed(self, alert_id: int, error: str, next_attempt_at: datetime) -> None:
        """Nobody took the alert; try again later."""
        self._session.execute(
            update(AlertRow)
            .where(AlertRow.id == alert_id)
            .values(next_attempt_at=next_attempt_at, attempts=AlertRow.attempts + 1, last_error=error)
        )
