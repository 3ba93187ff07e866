"""Charts, by reference: the pictures themselves are in object storage."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.market import Chart


class Charts:
    """Charts by id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, **fields: Any) -> Chart:
        """Store a chart; `fields` are the columns of :class:`Chart` without its id."""
        row = Chart(**fields)
        self._session.add(row)
        self._session.flush()
        return row

    def get(self, chart_id: int) -> Chart | None:
        """The chart of that id."""
        return self._session.get(Chart, chart_id)

    def latest(self, dag_id: str, symbol: str) -> Chart | None:
        """The newest chart of a symbol in a DAG."""
        query = select(Chart).where(Chart.dag_id == dag_id, Chart.symbol == symbol)
        return self._session.scalar(query.order_by(Chart.id.desc()).limit(1))

    def for_run(self, dag_id: str, run_id: str) -> list[Chart]:
        """The charts of a run, oldest first."""
        query = select(Chart).where(Chart.dag_id == dag_id, Chart.run_id == run_id)
        return list(self._session.scalars(query.order_by(Chart.id)))
