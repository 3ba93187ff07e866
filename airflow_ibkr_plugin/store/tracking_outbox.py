"""The outbox of records for MLflow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.outbox import TrackingRow
from airflow_ibkr_plugin.store.sql import insert_if_absent


class TrackingOutbox:
    """Records by id, which gives their order."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def enqueue(
        self,
        dag_id: str,
        run_id: str,
        kind: str,
        payload: Mapping[str, Any],
        at: datetime,
        dedupe_key: str | None = None,
    ) -> TrackingRow | None:
        """Store a record to be sent from `at` on; None if there was one with this key already."""
        values: dict[str, Any] = {
            "dag_id": dag_id,
            "run_id": run_id,
            "kind": kind,
            "payload": dict(payload),
            "created_at": at,
            "next_attempt_at": at,
        }
        if dedupe_key is None:
            row = TrackingRow(**values)
            self._session.add(row)
            self._session.flush()
            return row
        if not insert_if_absent(self._session, TrackingRow, ("dedupe_key",), {**values, "dedupe_key": dedupe_key}):
            return None
        return self._session.scalars(select(TrackingRow).where(TrackingRow.dedupe_key == dedupe_key)).one()

    def pending(
        self, now: datetime, dag_id: str | None = None, run_id: str | None = None, limit: int = 500
    ) -> list[TrackingRow]:
        """Unsent records whose time has come, oldest first."""
        query = select(TrackingRow).where(TrackingRow.sent_at.is_(None), TrackingRow.next_attempt_at <= now)
        if dag_id is not None:
            query = query.where(TrackingRow.dag_id == dag_id)
        if run_id is not None:
            query = query.where(TrackingRow.run_id == run_id)
        return list(self._session.scalars(query.order_by(TrackingRow.id).limit(limit)))

    def sent(self, ids: Collection[int], at: datetime) -> None:
        """MLflow has taken these."""
        self._session.execute(
            update(TrackingRow)
            .where(TrackingRow.id.in_(ids))
            .values(sent_at=at, attempts=TrackingRow.attempts + 1, last_error="")
        )

    def failed(self, record_id: int, error: str, next_attempt_at: datetime) -> None:
        """MLflow did not take this one; try again later."""
        self._session.execute(
            update(TrackingRow)
            .where(TrackingRow.id == record_id)
            .values(next_attempt_at=next_attempt_at, attempts=TrackingRow.attempts + 1, last_error=error)
        )
