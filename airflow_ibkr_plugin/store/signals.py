"""Signals as analysts gave them, with the raw answer."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.market import SignalRow


class Signals:
    """Signals by id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, **fields: Any) -> SignalRow:
        """Store a signal; `fields` are the columns of :class:`SignalRow` without its id."""
        row = SignalRow(**fields)
        self._session.add(row)
        self._session.flush()
        return row

    def get(self, signal_id: int) -> SignalRow | None:
        """The signal of that id."""
        return self._session.get(SignalRow, signal_id)

    def latest(self, dag_id: str, symbol: str | None = None) -> SignalRow | None:
        """The newest signal of a DAG, of one symbol or of any."""
        query = select(SignalRow).where(SignalRow.dag_id == dag_id)
        if symbol is not None:
            query = query.where(SignalRow.symbol == symbol)
        return self._session.scalar(query.order_by(SignalRow.id.desc()).limit(1))

    def for_run(self, dag_id: str, run_id: str) -> list[SignalRow]:
        """The signals of a run, oldest first."""
        query = select(SignalRow).where(SignalRow.dag_id == dag_id, SignalRow.run_id == run_id)
        return list(self._session.scalars(query.order_by(SignalRow.id)))
