"""One leader among several processes: a lease with a fencing number."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.connections import LeaderRow
from airflow_ibkr_plugin.store.sql import changed, insert

#: The name that the background services of a trading database stand under.
SERVICE = "service"


class Leaders:
    """Leader leases by name. A row is never deleted, so that its fencing number only grows."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def current(self, name: str, now: datetime) -> LeaderRow | None:
        """Who leads now; None where nobody does."""
        return self._session.scalar(select(LeaderRow).where(LeaderRow.name == name, LeaderRow.until > now))

    def acquire(self, name: str, owner: str, now: datetime, seconds: float) -> int | None:
        """Begin a term, unless somebody leads, be it this owner. Compare and set.

        :returns: the term's fencing number, higher than that of every term before; None where somebody leads.
        """
        until = now + timedelta(seconds=seconds)
        statement = insert(self._session, LeaderRow).values(name=name, owner=owner, fence=1, since=now, until=until)
        statement = statement.on_conflict_do_update(
            index_elements=("name",),
            set_={"owner": owner, "fence": LeaderRow.fence + 1, "since": now, "until": until},
            where=LeaderRow.until <= now,
        )
        if changed(self._session, statement) != 1:
            return None
        return self._session.scalars(select(LeaderRow.fence).where(LeaderRow.name == name)).one()

    def renew(self, name: str, fence: int, now: datetime, seconds: float) -> bool:
        """Make the term longer. False if it has run out or another one has begun: it is over for good."""
        return self._set_until(name, fence, now, now + timedelta(seconds=seconds))

    def release(self, name: str, fence: int, now: datetime) -> bool:
        """End the term, so that another may begin at once; False if it was over."""
        return self._set_until(name, fence, now, now)

    def leads(self, name: str, fence: int) -> bool:
        """Whether no later term has begun. It stays so until the caller's transaction ends."""
        query = select(LeaderRow.fence).where(LeaderRow.name == name, LeaderRow.fence == fence)
        return self._session.scalar(query.with_for_update(read=True)) is not None

    def _set_until(self, name: str, fence: int, now: datetime, until: datetime) -> bool:
        statement = update(LeaderRow).where(LeaderRow.name == name, LeaderRow.fence == fence, LeaderRow.until > now)
        return changed(self._session, statement.values(until=until)) == 1
