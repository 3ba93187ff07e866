"""Cached bars. A series is named by source, con_id, bar_size, what (TRADES, MIDPOINT, ...) and use_rth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.market import BarRow
from airflow_ibkr_plugin.store.sql import changed, upsert
from airflow_ibkr_plugin.trading.bars import Bar

_KEYS = ("source", "con_id", "bar_size", "what", "use_rth", "time")


class Bars:
    """Bars by series and start time."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def load(
        self, source: str, con_id: int, bar_size: str, what: str, use_rth: bool, start: datetime, end: datetime
    ) -> list[Bar]:
        """Bars that start between `start` and `end`, both included, oldest first."""
        columns = (BarRow.time, BarRow.open, BarRow.high, BarRow.low, BarRow.close, BarRow.volume, BarRow.wap)
        query = (
            select(*columns, BarRow.count)
            .where(*_series(source, con_id, bar_size, what, use_rth), BarRow.time.between(start, end))
            .order_by(BarRow.time)
        )
        return [Bar(*row) for row in self._session.execute(query)]

    def save(self, source: str, con_id: int, bar_size: str, what: str, use_rth: bool, bars: Iterable[Bar]) -> int:
        """Store bars, replacing those with the same start; returns how many were given."""
        key = {"source": source, "con_id": con_id, "bar_size": bar_size, "what": what, "use_rth": use_rth}
        rows: list[dict[str, Any]] = [{**key, **asdict(bar)} for bar in bars]
        upsert(self._session, BarRow, _KEYS, rows)
        return len(rows)

    def span(
        self, source: str, con_id: int, bar_size: str, what: str, use_rth: bool
    ) -> tuple[datetime, datetime, int] | None:
        """Start of the first and of the last stored bar, and how many there are; None if there is none."""
        query = select(func.min(BarRow.time), func.max(BarRow.time), func.count()).where(
            *_series(source, con_id, bar_size, what, use_rth)
        )
        first, last, count = self._session.execute(query).one()
        return (first, last, count) if count else None

    def latest_series(self, source: str, con_id: int, bar_size: str) -> tuple[str, bool, datetime] | None:
        """`what`, `use_rth` and the start of the last bar of the series of that size that reaches furthest."""
        query = (
            select(BarRow.what, BarRow.use_rth, func.max(BarRow.time))
            .where(BarRow.source == source, BarRow.con_id == con_id, BarRow.bar_size == bar_size)
            .group_by(BarRow.what, BarRow.use_rth)
        )
        rows = [(what, use_rth, last) for what, use_rth, last in self._session.execute(query)]
        return max(rows, key=lambda row: (row[2], row[:2]), default=None)

    def delete(self, source: str, con_id: int, bar_size: str, what: str, use_rth: bool) -> int:
        """Forget the whole series; returns how many bars it had."""
        return changed(self._session, delete(BarRow).where(*_series(source, con_id, bar_size, what, use_rth)))


def _series(source: str, con_id: int, bar_size: str, what: str, use_rth: bool) -> tuple[ColumnElement[bool], ...]:
    return (
        BarRow.source == source,
        BarRow.con_id == con_id,
        BarRow.bar_size == bar_size,
        BarRow.what == what,
        BarRow.use_rth == use_rth,
    )
