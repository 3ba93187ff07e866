"""What failed in which try of which task."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.runs import Failure
from airflow_ibkr_plugin.store.sql import insert_if_absent

_KEYS = ("dag_id", "run_id", "task_id", "map_index", "try_number")


class Failures:
    """Failures by run."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        *,
        dag_id: str,
        run_id: str,
        task_id: str,
        map_index: int,
        try_number: int,
        family: str,
        error_type: str,
        message: str,
        created_at: datetime,
        traceback: str = "",
        log_url: str = "",
    ) -> Failure:
        """Store a failure once per try; the first report stays.

        :param task_id: '' for the run as a whole.
        :param map_index: -1 for a task that is not mapped.
        """
        key = {
            "dag_id": dag_id,
            "run_id": run_id,
            "task_id": task_id,
            "map_index": map_index,
            "try_number": try_number,
        }
        values = key | {
            "family": family,
            "error_type": error_type,
            "message": message,
            "traceback": traceback,
            "log_url": log_url,
            "created_at": created_at,
        }
        insert_if_absent(self._session, Failure, _KEYS, values)
        return self._session.scalars(select(Failure).filter_by(**key)).one()

    def for_run(self, dag_id: str, run_id: str) -> list[Failure]:
        """The failures of a run, oldest first."""
        query = select(Failure).where(Failure.dag_id == dag_id, Failure.run_id == run_id)
        return list(self._session.scalars(query.order_by(Failure.id)))
