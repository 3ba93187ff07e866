"""Carrying out a command at the broker while the person waits: cancel, confirm, close, and say what is left."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.halt import Enforcement
    from airflow_ibkr_plugin.store.database import Database

NOT_VERIFIED = 3
# A worker that holds its order cancels it by itself within seconds; the lease of one that died ends after a minute.
PATIENCE_SECONDS = 90.0
_PAUSE_SECONDS = 1.0


def at_broker(database: Database, command_id: str, *, flatten: bool) -> None:
    """Until it is verified, or patience is at its end: then exit status 3, and what is left on stderr."""
    done = _cancel(database, command_id)
    if not done.verified:
        not_verified([*done.left, *done.unreachable], "cancelled")
    print("The broker has confirmed that nothing of it is left working.", flush=True)
    if not flatten:
        return
    if left := _flatten(database, command_id):
        not_verified(left, "closed")
    print("All that it was to close is closed.")


def _cancel(database: Database, command_id: str) -> Enforcement:
    """Rounds until it is verified, a gateway cannot be asked, or patience is at its end."""
    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.execution.halt import enforce

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = enforce(database, command_id, gateway_of=gateway_of, owner=_owner(command_id))
        for line in found.cancelled:
            print(f"cancelled: {line}", flush=True)
        if found.verified or found.unreachable or time.monotonic() > deadline:
            return found
        time.sleep(_PAUSE_SECONDS)


def _flatten(database: Database, command_id: str) -> tuple[str, ...]:
    """Close the positions, or wait for the service that is about it; returns what is left."""
    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.execution.flatten import flatten

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = flatten(database, command_id, gateway_of=gateway_of, owner=_owner(command_id))
        for line in found.closed:
            print(f"closing: {line}", flush=True)
        if not found.busy or time.monotonic() > deadline:
            return found.left
        time.sleep(_PAUSE_SECONDS)


def _owner(command_id: str) -> str:
    return f"command {command_id}/{uuid.uuid4().hex[:8]}"


def not_verified(left: Iterable[str], what: str) -> NoReturn:
    """Say what is left, and exit with status 3."""
    for line in left:
        print(f"left: {line}", file=sys.stderr)
    print(
        f"NOT VERIFIED: the command is stored, and not all is {what}. A running service goes on with it; or repeat it"
        " by its id.",
        file=sys.stderr,
    )
    sys.exit(NOT_VERIFIED)
