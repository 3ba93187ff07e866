"""One worker at a time on an intent. The lease is checked inside every transaction that changes the intent."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import IntentBusy, StoreError
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.units import Units

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.spec import GatewaySpec
    from airflow_ibkr_plugin.store.database import Database

log = logging.getLogger(__name__)

#: A crashed holder blocks its intent for at least this long.
LEASE_SECONDS = 60.0
# Of the lease that may have gone by when an order goes out: a worker that stood still meanwhile must not send.
_SEND_WITHIN = 0.5


def lease_seconds(spec: GatewaySpec) -> float:
    """How long a lease runs: longer than the longest wait between two renewals, placing with its four questions."""
    return max(LEASE_SECONDS, 6 * spec.timeout)


class IntentLease:
    """A held lease. Times are this machine's UTC, never the broker's clock."""

    def __init__(self, database: Database, intent_id: int, owner: str, seconds: float) -> None:
        self._database = database
        self._intent_id = intent_id
        self._owner = owner
        self._seconds = seconds
        self._renewed = time.monotonic()

    def renew(self, transaction: Session) -> None:
        """Extend it inside a transaction, which then commits only if nobody else took the lease.

        :raises IntentBusy: somebody else has it.
        """
        started = time.monotonic()
        now = datetime.now(UTC)
        if not Intents(transaction).renew_lease(self._intent_id, self._owner, now=now, seconds=self._seconds):
            raise IntentBusy(
                f"The lease on order intent {self._intent_id} was lost to another worker.",
                remedy="Nothing is to be done: the other worker goes on with it.",
            )
        self._renewed = started

    def check_before_send(self) -> None:
        """:raises IntentBusy: so much time has gone by since the last renewal that another worker may take over.

        :raises Exception: what the guard of the database raises.
        """
        self._database.require()
        gone = time.monotonic() - self._renewed
        if gone > self._seconds * _SEND_WITHIN:
            raise IntentBusy(
                f"This worker stood still for {gone:.0f} s just before sending order intent {self._intent_id}.",
                remedy="Nothing is to be done: the next try asks the broker and goes on.",
            )


@contextmanager
def hold(database: Database, intent_id: int, owner: str, *, seconds: float) -> Iterator[IntentLease]:
    """Hold the lease on an intent; on an exit of a bracket, that of its entry.

    :param owner: who wants it, for people; made unique here, as a task can be delivered to two workers at once.
    :raises IntentBusy: somebody else holds it; `retry_after` says for how long at most.
    """
    unique = f"{owner}#{uuid.uuid4().hex[:12]}"
    now = datetime.now(UTC)
    with database.write() as transaction:
        intents, intent_id = Intents(transaction), Units(transaction).head_id(intent_id)
        if not intents.acquire_lease(intent_id, unique, now=now, seconds=seconds):
            row = intents.get(intent_id)
            left = (row.lease_until - now).total_seconds() if row and row.lease_until else seconds
            raise IntentBusy(
                f"Order intent {intent_id} is being worked on by {row.lease_owner if row else 'another worker'}.",
                remedy="Wait: its lease ends by itself, also where its holder has crashed.",
                retry_after=max(1.0, left),
            )
    try:
        yield IntentLease(database, intent_id, unique, seconds)
    finally:
        try:
            with database.unguarded().write() as transaction:
                Intents(transaction).release_lease(intent_id, unique)
        except StoreError as error:
            # It runs out by itself; the error that brought us here must not be hidden by this one.
            log.warning("The lease on order intent %s was not released: %s", intent_id, error)
