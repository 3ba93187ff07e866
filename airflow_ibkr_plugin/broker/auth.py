"""Is the gateway logged in to IBKR, and what can be done without a person if it is not."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from airflow_ibkr_plugin.broker.accounts import choose_account
from airflow_ibkr_plugin.broker.gateway import Gateway
from airflow_ibkr_plugin.broker.ibc import RECONNECT, RESTART, send_command
from airflow_ibkr_plugin.broker.loop import PrivateLoop
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import (
    BrokerError,
    BrokerTimeout,
    ClientIdInUse,
    GatewayUnavailable,
    SessionInvalid,
)

log = logging.getLogger(__name__)

# What a gateway needs at most after IBC's commands: a new login to the account server, and a restart of its Java.
# IBC sets a restart for the next full minute or the one after it.
RECONNECT_SECONDS = 30.0
RESTART_SECONDS = 240.0
_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class SessionStatus:
    """Whether a session with IBKR stands.

    :param detail: one sentence for people.
    :param needs_human: only a person can bring it back, such as by confirming a second factor.
    :param listening: somebody listens at the gateway's address.
    """

    valid: bool
    detail: str
    needs_human: bool = False
    listening: bool = True


def check_session(spec: GatewaySpec) -> SessionStatus:
    """Log in under a free client id (the highest one first: leases begin at the lowest), ask for the time, hang up.

    :raises ConfigError: the gateway does not manage the spec's account.
    :raises ClientIdInUse: no client id of the range is free, so that nothing could be asked.
    """
    loop = PrivateLoop(f"ibkr-check-{spec.conn_id}")
    try:
        for client_id in reversed(spec.client_ids):
            try:
                detail = loop.run(_probe(spec, client_id))
            except ClientIdInUse as error:
                log.info("%s", error)
            except (GatewayUnavailable, SessionInvalid, BrokerTimeout) as error:
                return SessionStatus(
                    valid=False, detail=str(error), listening=not isinstance(error, GatewayUnavailable)
                )
            else:
                return SessionStatus(valid=True, detail=detail)
    finally:
        loop.close()
    raise ClientIdInUse(
        f"All client ids of connection {spec.conn_id!r} at {spec.address} are taken: the session cannot be checked.",
        remedy="Wait, or give the connection a wider range.",
    )


async def _probe(spec: GatewaySpec, client_id: int) -> str:
    gateway = Gateway(spec, client_id)
    try:
        account = choose_account(spec, await gateway.log_in())
        now = await gateway.now()
        if gateway.journal.down is not None:
            raise gateway.journal.down
    finally:
        await gateway.close()
    return (
        f"The gateway at {spec.address} is logged in with account {account}; its clock says {now:%Y-%m-%dT%H:%M:%SZ}."
    )


def reauthenticate(
    spec: GatewaySpec,
    *,
    reconnect_seconds: float = RECONNECT_SECONDS,
    restart_seconds: float | None = RESTART_SECONDS,
) -> SessionStatus:
    """Bring the session back: reconnect; then, where the spec names IBC's command server, have it log in again and
    restart the gateway; then say that a person is needed.

    Nothing on the wire says that a gateway waits for a second factor. What can be seen is an IBC that takes RESTART,
    and an API port that stays closed: a gateway opens it when its login is complete.

    :param reconnect_seconds, restart_seconds: to wait for the session after IBC's command. Without `restart_seconds`
        the gateway is not restarted, and it stays open whether a person is needed.
    :raises ConfigError, ClientIdInUse: see :func:`check_session`.
    """
    status = check_session(spec)
    log.info("Re-authentication of %s, step 1, reconnect: %s", spec.conn_id, status.detail)
    if status.valid:
        return status
    tried, restarted = "reconnecting", False
    if spec.ibc_port is not None:
        for command, seconds in ((RECONNECT, reconnect_seconds), (RESTART, restart_seconds)):
            if seconds is None:
                return status
            status, accepted = _command(spec, spec.ibc_port, command, seconds)
            if status.valid:
                return status
            restarted = accepted and command == RESTART
        tried = f"reconnecting and IBC's {RECONNECT} and {RESTART}"
    detail = f"{status.detail} {tried[0].upper()}{tried[1:]} did not help: a person must log in to the gateway."
    if restarted and not status.listening:
        detail += (
            " It most likely waits at its login window for a second factor: IBC runs, and the API port stays closed."
        )
    log.error("Re-authentication of %s: %s", spec.conn_id, detail)
    return SessionStatus(valid=False, detail=detail, needs_human=True, listening=status.listening)


def _command(spec: GatewaySpec, port: int, command: str, seconds: float) -> tuple[SessionStatus, bool]:
    """The session after a command, and whether IBC accepted it."""
    try:
        answer = send_command(spec.host, port, command, timeout=spec.timeout)
    except BrokerError as error:
        log.warning("Re-authentication of %s, IBC %s: %s", spec.conn_id, command, error)
        return SessionStatus(valid=False, detail=str(error)), False
    log.info("Re-authentication of %s, IBC %s: %s", spec.conn_id, command, answer or "accepted")
    deadline = time.monotonic() + seconds
    while not (status := check_session(spec)).valid and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    log.info("Re-authentication of %s after IBC %s: %s", spec.conn_id, command, status.detail)
    return status, True
