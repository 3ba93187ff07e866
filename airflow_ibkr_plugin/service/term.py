"""One term of leading: how long it holds, and how everything that acts in it knows that it is over."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import NotLeader
from airflow_ibkr_plugin.store.leaders import SERVICE, Leaders

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.store.database import Database

#: A leader that has died is succeeded after this long at most, and one look of the next.
LEASE_SECONDS = 8.0
RENEW_SECONDS = 2.0


def new_owner() -> str:
    """Host, process and a random part: two processes of one number, in two containers, are told apart."""
    return f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


class Term:
    """A term that was won. It ends when it is told to, when another one begins, or when it was not renewed in time.
    Once over it stays over, although the lease may still run: what acted in it has stopped.

    The lease's times are this machine's UTC; whether it still holds is measured by the monotonic clock, from before
    the renewal was asked for. What acts asks :meth:`over`; what writes does so through a database that it guards.

    :ivar fence: its number; every later term's is higher.
    """

    def __init__(self, database: Database, owner: str, fence: int, *, began: float, seconds: float) -> None:
        """Use :func:`stand`."""
        self.owner = owner
        self.fence = fence
        self._database = database
        self._seconds = seconds
        self._until = began + seconds
        self._ended = threading.Event()

    def over(self) -> bool:
        """Whether nothing may be done in its name any more."""
        if time.monotonic() >= self._until:
            self._ended.set()
        return self._ended.is_set()

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or as soon as it is told to end."""
        self._ended.wait(seconds)

    def end(self) -> None:
        """Tell everything that acts in it to stop."""
        self._ended.set()

    def renew(self) -> None:
        """Lead on.

        :raises NotLeader: it has run out, or another has begun; it is over.
        :raises StoreError: that could not be stored; it holds until its time is over.
        """
        self.require()  # also where the database cannot say so
        began = time.monotonic()
        with self._database.write() as session:
            if not Leaders(session).renew(SERVICE, self.fence, datetime.now(UTC), self._seconds):
                self.end()
                raise self._lost()
            self.require()  # also while it waited for the database: its jobs have stopped
        self._until = began + self._seconds

    def release(self) -> bool:
        """Give the lease back, once nothing acts any more; False if it was lost."""
        with self._database.write() as session:
            return Leaders(session).release(SERVICE, self.fence, datetime.now(UTC))

    def check(self, transaction: Session) -> None:
        """Let the transaction commit only if no other term has begun before it does.

        :raises NotLeader: one has, or this one is over.
        """
        if self.over() or not Leaders(transaction).leads(SERVICE, self.fence):
            raise self._lost()

    def require(self) -> None:
        """:raises NotLeader: it is over."""
        if self.over():
            raise self._lost()

    def _lost(self) -> NotLeader:
        return NotLeader(
            f"Term {self.fence} of the service is over.", remedy="Nothing is to be done: whoever leads now goes on."
        )


def stand(database: Database, owner: str, *, seconds: float = LEASE_SECONDS) -> Term | None:
    """Win a term, or None while somebody leads. Looks first, and writes only where nobody does.

    :raises StoreError: the trading database fails.
    """
    now, began = datetime.now(UTC), time.monotonic()
    with database.read() as session:
        if Leaders(session).current(SERVICE, now) is not None:
            return None
    with database.write() as session:
        fence = Leaders(session).acquire(SERVICE, owner, now, seconds)
    return None if fence is None else Term(database, owner, fence, began=began, seconds=seconds)
