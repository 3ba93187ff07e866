"""How often a person has let a task of a run trade an instrument again."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.again import GenerationRow


class Generations:
    """Generations by DAG, run, task and con_id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def current(self, dag_id: str, run_id: str, task_id: str, con_id: int) -> int:
        """The generation of the task's next try; 0 where nobody has raised it."""
        row = self.latest(dag_id, run_id, task_id, con_id)
        return row.generation if row is not None else 0

    def latest(self, dag_id: str, run_id: str, task_id: str, con_id: int) -> GenerationRow | None:
        """Who raised it last, when and why."""
        query = select(GenerationRow).where(
            GenerationRow.dag_id == dag_id,
            GenerationRow.run_id == run_id,
            GenerationRow.task_id == task_id,
            GenerationRow.con_id == con_id,
        )
        return self._session.scalar(query.order_by(GenerationRow.generation.desc()).limit(1))

    def add(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        con_id: int,
        *,
        symbol: str,
        generation: int,
        by: str,
        reason: str,
        at: datetime,
    ) -> GenerationRow:
        """Store a raise to `generation`, which must not be there yet."""
        row = GenerationRow(
            dag_id=dag_id,
            run_id=run_id,
            task_id=task_id,
            con_id=con_id,
            symbol=symbol,
            generation=generation,
            raised_by=by,
            reason=reason,
            at=at,
        )
        self._session.add(row)
        self._session.flush()
        return row
