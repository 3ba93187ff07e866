"""Runs: one DAG run, one effective configuration, one MLflow run."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import StoreError
from airflow_ibkr_plugin.store.models.runs import Run, RunState
from airflow_ibkr_plugin.store.sql import changed, insert_if_absent


class Runs:
    """Runs by dag_id and run_id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_or_create(self, dag_id: str, run_id: str, **fields: Any) -> tuple[Run, bool]:
        """The run; made from `fields` if it is not known yet, also when its tasks race for it.

        :param fields: further columns of :class:`Run`. `started_at` is needed; `created_at` starts as `started_at`.
        :returns: the row, and whether this call made it. A run that was there keeps its own fields: a run goes on
            with the configuration it began with.
        """
        values = {"dag_id": dag_id, "run_id": run_id, "created_at": fields["started_at"], **fields}
        created = insert_if_absent(self._session, Run, ("dag_id", "run_id"), values)
        row = self.get(dag_id, run_id)
        assert row is not None
        return row, created

    def get(self, dag_id: str, run_id: str) -> Run | None:
        """The run, if it is known."""
        return self._session.scalar(select(Run).where(Run.dag_id == dag_id, Run.run_id == run_id))

    def claim_mlflow(self, dag_id: str, run_id: str, owner: str, now: datetime, seconds: float) -> bool:
        """Become, or stay, the only one who writes the run to MLflow; False while another's claim still runs."""
        free = or_(Run.claim_owner.is_(None), Run.claim_owner == owner, Run.claim_until <= now)
        statement = (
            update(Run)
            .where(Run.dag_id == dag_id, Run.run_id == run_id, free)
            .values(claim_owner=owner, claim_until=now + timedelta(seconds=seconds))
        )
        return changed(self._session, statement) == 1

    def release_mlflow(self, dag_id: str, run_id: str, owner: str) -> bool:
        """Give the claim back; False if it was not the owner's."""
        statement = (
            update(Run)
            .where(Run.dag_id == dag_id, Run.run_id == run_id, Run.claim_owner == owner)
            .values(claim_owner=None, claim_until=None)
        )
        return changed(self._session, statement) == 1

    def set_mlflow(self, dag_id: str, run_id: str, experiment: str, experiment_id: str, mlflow_run_id: str) -> bool:
        """Bind the MLflow run. The first one stays: False if another was bound before."""
        statement = (
            update(Run)
            .where(Run.dag_id == dag_id, Run.run_id == run_id, Run.mlflow_run_id.is_(None))
            .values(mlflow_experiment=experiment, mlflow_experiment_id=experiment_id, mlflow_run_id=mlflow_run_id)
        )
        return changed(self._session, statement) == 1

    def finish(self, dag_id: str, run_id: str, state: str, at: datetime) -> Run:
        """Set how the run ended. A run that Airflow runs again ends again: the last end counts.

        :raises StoreError: the run is not known.
        """
        row = self.get(dag_id, run_id)
        if row is None:
            raise StoreError(
                f"Run {run_id} of {dag_id} is not in the trading database.",
                remedy="Clear the whole DAG run, so that its first task stores it.",
            )
        row.state, row.ended_at = RunState(state), at
        self._session.flush()
        return row

    def latest(self, dag_id: str) -> Run | None:
        """The newest run of a DAG."""
        return self._session.scalar(select(Run).where(Run.dag_id == dag_id).order_by(Run.id.desc()).limit(1))
