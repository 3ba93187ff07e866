"""Who is connected, under which client id."""

from __future__ import annotations

import asyncio
import logging

from airflow_ibkr_plugin.simulator.api.session import Session
from airflow_ibkr_plugin.simulator.control.faults import Faults

log = logging.getLogger(__name__)

#: Clients at once. Source: TWS API documentation, "Connectivity".
MAX_CLIENTS = 32
#: Connections at once, with those that have not said who they are.
MAX_CONNECTIONS = 256


class Clients:
    """All connections, and those that have a client id."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._sessions: set[Session] = set()
        self._by_id: dict[int, Session] = {}
        # Ids of dead connections that the gateway has not given free, and when it will.
        self._stuck: dict[int, asyncio.TimerHandle] = {}

    def __contains__(self, session: Session) -> bool:
        return session in self._sessions

    @property
    def ids(self) -> list[int]:
        """Ids of the connected clients."""
        return sorted(self._by_id)

    @property
    def started(self) -> list[Session]:
        """Connections with a client id."""
        return list(self._by_id.values())

    @property
    def connections(self) -> list[Session]:
        """All connections."""
        return list(self._sessions)

    def client(self, client_id: int) -> Session | None:
        """The session of a client id."""
        return self._by_id.get(client_id)

    def opened(self, session: Session) -> bool:
        """A connection was accepted; False if it is one too many."""
        self._sessions.add(session)
        return len(self._sessions) <= MAX_CONNECTIONS

    def closed(self, session: Session) -> None:
        """A connection has ended."""
        self._sessions.discard(session)
        number = session.client_id
        if number is None or self._by_id.get(number) is not session:
            return
        del self._by_id[number]
        if (fault := self._faults.take("keep_client_id", client=number)) is not None:
            free = asyncio.get_running_loop().call_later(fault.details["seconds"], self._stuck.pop, number, None)
            self._stuck[number] = free

    def admit(self, session: Session, client_id: int) -> tuple[int, str] | None:
        """Give a client its id; or the error that it gets."""
        if client_id in self._by_id or client_id in self._stuck:
            return 326, "Unable to connect as the client id is already in use. Retry with a unique client id."
        if len(self._by_id) >= MAX_CLIENTS:
            return 507, f"The maximum of {MAX_CLIENTS} API clients is connected."
        self._by_id[client_id] = session
        return None

    def drop(self, reason: str) -> int:
        """Cut all connections off; returns how many."""
        dropped = self.connections
        for session in dropped:
            session.close(reason)
        return len(dropped)

    def free_stuck(self) -> None:
        """Give ids of dead connections free: what a restart of the gateway does."""
        for timer in self._stuck.values():
            timer.cancel()
        self._stuck.clear()
