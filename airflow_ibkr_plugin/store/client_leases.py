"""Client ids: two sessions with one id would throw each other out of the gateway."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.connections import ClientLease
from airflow_ibkr_plugin.store.sql import changed, insert


class ClientLeases:
    """Leases by source and client id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def acquire(self, source: str, candidates: Iterable[int], owner: str, now: datetime, seconds: float) -> int | None:
        """The first candidate that nobody holds, not even this owner; None if all are held. Compare and set."""
        until = now + timedelta(seconds=seconds)
        query = select(ClientLease.client_id).where(ClientLease.source == source, ClientLease.until > now)
        held = set(self._session.scalars(query))
        for client_id in candidates:
            if client_id in held:
                continue
            statement = insert(self._session, ClientLease).values(
                source=source, client_id=client_id, owner=owner, until=until
            )
            statement = statement.on_conflict_do_update(
                index_elements=("source", "client_id"),
                set_={"owner": owner, "until": until},
                where=ClientLease.until <= now,
            )
            if changed(self._session, statement) == 1:
                return client_id
        return None

    def holder(self, source: str, client_id: int) -> str | None:
        """Who has it, or had it last and never gave it back."""
        query = select(ClientLease.owner).where(ClientLease.source == source, ClientLease.client_id == client_id)
        return self._session.scalar(query)

    def renew(self, source: str, client_id: int, owner: str, now: datetime, seconds: float) -> bool:
        """Hold the id longer. False if the lease has run out or is another's: disconnect."""
        statement = (
            update(ClientLease)
            .where(
                ClientLease.source == source,
                ClientLease.client_id == client_id,
                ClientLease.owner == owner,
                ClientLease.until > now,
            )
            .values(until=now + timedelta(seconds=seconds))
        )
        return changed(self._session, statement) == 1

    def expire(self, now: datetime) -> int:
        """Forget the leases that have run out, which hold nothing any more; how many they were."""
        return changed(self._session, delete(ClientLease).where(ClientLease.until <= now))

    def release(self, source: str, client_id: int, owner: str) -> bool:
        """Give the id back; False if it was not the owner's."""
        statement = delete(ClientLease).where(
            ClientLease.source == source, ClientLease.client_id == client_id, ClientLease.owner == owner
        )
        return changed(self._session, statement) == 1
