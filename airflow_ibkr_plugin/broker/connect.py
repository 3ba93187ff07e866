"""Sessions for several processes at once: each leases a client id of its own from the trading database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.pacing import note_complaint
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ClientIdInUse, StoreError
from airflow_ibkr_plugin.store.client_leases import ClientLeases

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database

log = logging.getLogger(__name__)

# A crashed holder blocks its id for this long; the gateway itself frees it as soon as the socket is gone.
LEASE_SECONDS = 120.0
RENEW_SECONDS = 30.0


@contextmanager
def leased_session(
    spec: GatewaySpec, database: Database, *, owner: str, avoid: Collection[int] = ()
) -> Iterator[BrokerSession]:
    """A session under a client id that no other process of this installation uses while it is open.

    Leases are kept by the gateway's address, so that two connections to one gateway do not meet. An id that the
    gateway says is in use by someone else is passed over.

    :param owner: who holds the lease, unique to this session, such as DAG, run, task and try.
    :param avoid: client ids that somebody may need for their own orders; used only where the range has no other.
    :raises ClientIdInUse: no id of the range is free.
    :raises GatewayUnavailable, SessionInvalid, ConfigError, LiveTradingRefused: see :meth:`BrokerSession.open`.
    """
    database = database.unguarded()  # an id is given back also by one who may do nothing else any more
    candidates = [client_id for client_id in spec.client_ids if client_id not in avoid]
    session = _open_leased(spec, database, owner, candidates or list(spec.client_ids))
    session.on_complaint = partial(note_complaint, database, spec.address)
    stop = threading.Event()
    keeper = threading.Thread(
        target=_keep,
        args=(spec, database, session.client_id, owner, stop),
        name=f"ibkr-lease-{session.client_id}",
        daemon=True,
    )
    keeper.start()
    try:
        yield session
    finally:
        try:
            session.close()
        finally:
            stop.set()
            keeper.join()
            _give_back(spec, database, session.client_id, owner)


def _open_leased(spec: GatewaySpec, database: Database, owner: str, candidates: Sequence[int]) -> BrokerSession:
    refused: ClientIdInUse | None = None
    while (client_id := _acquire(spec, database, candidates, owner)) is not None:
        try:
            return BrokerSession.open(spec, client_id=client_id)
        except ClientIdInUse as error:
            log.warning("%s Trying the next one.", error)
            refused = error
            _release(spec, database, client_id, owner)
            candidates = [candidate for candidate in candidates if candidate > client_id]
        except BaseException:
            _release(spec, database, client_id, owner)
            raise
    ids = f"{spec.client_ids.start}-{spec.client_ids.stop - 1}"
    raise ClientIdInUse(
        f"All client ids {ids} of connection {spec.conn_id!r} at {spec.address} are taken.",
        remedy="Wait, give the connection a wider range, or make the Airflow pool of the connection smaller.",
        code=refused.code if refused else None,
    )


def _acquire(spec: GatewaySpec, database: Database, candidates: Sequence[int], owner: str) -> int | None:
    with database.write() as transaction:
        return ClientLeases(transaction).acquire(spec.address, candidates, owner, datetime.now(UTC), LEASE_SECONDS)


def _release(spec: GatewaySpec, database: Database, client_id: int, owner: str) -> None:
    with database.write() as transaction:
        ClientLeases(transaction).release(spec.address, client_id, owner)


def _give_back(spec: GatewaySpec, database: Database, client_id: int, owner: str) -> None:
    """Release behind the work, whose own outcome counts: a lease that cannot be released runs out by itself."""
    try:
        _release(spec, database, client_id, owner)
    except StoreError as error:
        log.warning("Lease of client id %s not released: %s", client_id, error)


def _keep(spec: GatewaySpec, database: Database, client_id: int, owner: str, stop: threading.Event) -> None:
    """Renew the lease until told to stop; one that has run out, as while the machine slept, is taken again.

    Losing it harms nobody: the gateway itself lets no second client in, so that whoever has it gives it back.
    """
    while not stop.wait(RENEW_SECONDS):
        try:
            with database.write() as transaction:
                leases, now = ClientLeases(transaction), datetime.now(UTC)
                held = leases.renew(spec.address, client_id, owner, now, LEASE_SECONDS)
                again = held or leases.acquire(spec.address, [client_id], owner, now, LEASE_SECONDS) is not None
        except StoreError as error:
            log.warning("Lease of client id %s not renewed: %s", client_id, error)
        else:
            if not held:
                log.warning("The lease of client id %s had run out; %s.", client_id, "taken again" if again else "lost")
