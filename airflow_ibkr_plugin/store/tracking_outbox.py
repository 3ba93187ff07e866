"""The outbox of records for MLflow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.outbox import TrackingRow
from airflow_ibkr_plugin.store.sql import insert_if_absent

_Query = TypeVar("_Query", bound=Select[Any])


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
        self, now: datetime | None, dag_id: str | None = None, run_id: str | None = None, limit: int = 500
    ) -> list[TrackingRow]:
        """Unsent records whose time has come, oldest first; all unsent ones if `now` is None."""
        query = _unsent(select(TrackingRow), dag_id, run_id)
        if now is not None:
            query = query.where(TrackingRow.next_attempt_at <= now)
        return list(self._session.scalars(query.order_by(TrackingRow.id).limit(limit)))

    def waiting_runs(
        self, now: datetime | None, dag_id: str | None = None, run_id: str | None = None, limit: int = 100
    ) -> list[tuple[str, str]]:
        """(dag_id, run_id) of runs with unsent records, the longest waiting first.

        :param now: leave out runs whose first unsent record is not due yet; None leaves out none.
        """
        first = _unsent(select(func.min(TrackingRow.id)), dag_id, run_id)
        first = first.group_by(TrackingRow.dag_id, TrackingRow.run_id)
        query = select(TrackingRow.dag_id, TrackingRow.run_id).where(TrackingRow.id.in_(first))
        if now is not None:
            query = query.where(TrackingRow.next_attempt_at <= now)
        return [(dag, run) for dag, run in self._session.execute(query.order_by(TrackingRow.id).limit(limit))]

    def count_waiting(self, dag_id: str | None = None, run_id: str | None = None) -> int:
        """How many records are not sent yet, whenever they are due."""
        query = _unsent(select(func.count()).select_from(TrackingRow), dag_id, run_id)
        return self._session.scalars(query).one()

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


def _unsent(query: _Query, dag_id: str | None, run_id: str | None) -> _Query:
    query = query.where(TrackingRow.sent_at.is_(None))
    if dag_id is not None:
        query = query.where(TrackingRow.dag_id == dag_id)
    return query if run_id is None else query.where(TrackingRow.run_id == run_id)
