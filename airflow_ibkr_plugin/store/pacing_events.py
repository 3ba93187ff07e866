"""What was asked of IBKR for history, who waits to ask, and when IBKR complained."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.market import PacingEvent, PacingRequest
from airflow_ibkr_plugin.trading.pacing import HistoryRequest


class PacingRequests:
    """Requests for history by gateway, in the order in which they came. Hold the gateway's lock while using it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def line_up(
        self, gateway: str, owner: str, request: HistoryRequest, *, now: datetime, until: datetime
    ) -> PacingRequest:
        """The owner's place in line, for this request: the one that it has, or a new one at the end.

        An owner asks one thing after another; when it comes again, what it wants may have changed with the time.

        :param until: how long the place is kept; `sent_at` is None until it is sent.
        """
        query = select(PacingRequest).where(
            PacingRequest.gateway == gateway, PacingRequest.owner == owner, PacingRequest.sent_at.is_(None)
        )
        row = self._session.scalars(query).one_or_none()
        if row is None:
            row = PacingRequest(gateway=gateway, owner=owner, asked_at=now)
            self._session.add(row)
        row.request, row.series, row.weight, row.until = request.key, request.series, request.weight, until
        self._session.flush()
        return row

    def ahead(self, row: PacingRequest, *, now: datetime, since: datetime) -> list[PacingRequest]:
        """What of its gateway was sent or waits in line before it; oldest first.

        :param since: what was over by then is left out, and what has no weight (there may be much of it) if it is over.
        """
        query = select(PacingRequest).where(
            PacingRequest.gateway == row.gateway,
            PacingRequest.until > since,
            or_(PacingRequest.weight > 0, PacingRequest.until > now),
            PacingRequest.id != row.id,
            or_(PacingRequest.sent_at.is_not(None), PacingRequest.id < row.id),
        )
        return list(self._session.scalars(query.order_by(PacingRequest.id)))

    def noted_after(self, gateway: str, moment: datetime) -> list[PacingRequest]:
        """What is open or in line at that moment, or was noted by a clock that was ahead of it."""
        query = select(PacingRequest).where(PacingRequest.gateway == gateway, PacingRequest.until > moment)
        return list(self._session.scalars(query))

    def get(self, row_id: int) -> PacingRequest:
        """One request that is known to be there."""
        return self._session.get_one(PacingRequest, row_id)

    def leave(self, row_id: int) -> None:
        """Give up a place in line."""
        self._session.execute(delete(PacingRequest).where(PacingRequest.id == row_id))

    def forget(self, gateway: str, before: datetime) -> None:
        """Delete what was over by then."""
        self._session.execute(
            delete(PacingRequest).where(PacingRequest.gateway == gateway, PacingRequest.until < before)
        )


class PacingEvents:
    """Rate-limit answers by gateway."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, gateway: str, request: str, code: int, message: str, *, sent_at: datetime, at: datetime) -> None:
        """Store IBKR's complaint about a request."""
        self._session.add(
            PacingEvent(gateway=gateway, request=request, code=code, message=message, sent_at=sent_at, at=at)
        )
        self._session.flush()

    def recent(self, gateway: str, since: datetime) -> list[PacingEvent]:
        """The events since then, oldest first."""
        query = select(PacingEvent).where(PacingEvent.gateway == gateway, PacingEvent.at >= since)
        return list(self._session.scalars(query.order_by(PacingEvent.at, PacingEvent.id)))
