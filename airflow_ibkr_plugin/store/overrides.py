"""Parameters that people set over a workflow's own, by version."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.database import lock
from airflow_ibkr_plugin.store.models.runs import Override


class Overrides:
    """Overrides by strategy. Old versions stay."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def active(self, strategy: str) -> Override | None:
        """The version in force."""
        return self._session.scalar(select(Override).where(Override.strategy == strategy, Override.active))

    def all_active(self) -> dict[str, Override]:
        """The versions in force, by strategy."""
        return {row.strategy: row for row in self._session.scalars(select(Override).where(Override.active))}

    def add(self, strategy: str, parameters: Mapping[str, Any], author: str, reason: str, at: datetime) -> Override:
        """Put the next version in force, in place of the one before."""
        lock(self._session, f"overrides:{strategy}")
        last = self._session.scalar(select(func.max(Override.version)).where(Override.strategy == strategy))
        self._session.execute(update(Override).where(Override.strategy == strategy).values(active=False))
        row = Override(
            strategy=strategy,
            version=(last or 0) + 1,
            parameters=dict(parameters),
            author=author,
            reason=reason,
            created_at=at,
            active=True,
        )
        self._session.add(row)
        self._session.flush()
        return row
