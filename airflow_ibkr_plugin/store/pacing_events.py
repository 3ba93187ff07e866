"""When and why IBKR's pacing held us up."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.market import PacingEvent


class PacingEvents:
    """Pacing events by source."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self, source: str, request: str, code: int | None, message: str, waited_seconds: float, at: datetime
    ) -> PacingEvent:
        """Store an event; `code` is IBKR's error code, None where we waited by ourselves."""
        row = PacingEvent(
            source=source, request=request, code=code, message=message, waited_seconds=waited_seconds, at=at
        )
        self._session.add(row)
        self._session.flush()
        return row

    def recent(self, source: str, since: datetime) -> list[PacingEvent]:
        """The events since then, oldest first."""
        query = select(PacingEvent).where(PacingEvent.source == source, PacingEvent.at >= since)
        return list(self._session.scalars(query.order_by(PacingEvent.at, PacingEvent.id)))
