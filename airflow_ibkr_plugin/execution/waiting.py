"""What a strategy waits for before it acts: an open market and a valid session."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.auth import SessionStatus
    from airflow_ibkr_plugin.broker.spec import GatewaySpec


log = logging.getLogger(__name__)

# A worker's slot is held no longer than this for the gateway's new login; the triggerer goes on waiting.
RECONNECT_SECONDS = 10.0


class Effort(StrEnum):
    """How far to go for a session that is not valid; each includes the one before."""

    CHECK = "check"  # only look
    RECONNECT = "reconnect"  # IBC logs the gateway in again, where the connection names it; bounded by seconds
    RESTART = "restart"  # IBC restarts the gateway, which takes minutes; after that, a person


@dataclass(frozen=True, kw_only=True)
class Status:
    """Whether the wait is over, and one line that says why or why not.

    :param needs_human: nothing but a person can end the wait; the alert is stored.
    """

    ready: bool
    detail: str
    needs_human: bool = False


def market_status(
    spec: GatewaySpec, symbols: Sequence[str | Mapping[str, Any]], calendar: str, *, owner: str
) -> Status:
    """Whether the market of every symbol is open, by the broker's clock and each contract's liquidHours.

    A symbol that the broker does not know, or not by one contract only, is left out while there is another: its own
    tasks say so, and the other symbols trade.

    :param calendar: name of an exchange calendar that must be open as well; '' for none.
    :raises BrokerError: the gateway could not be asked.
    :raises UnknownContract, AmbiguousContract: of all symbols; the first one's error.
    :raises ConfigError: the hours of a symbol cannot be told.
    """
    from airflow_ibkr_plugin.broker.connect import leased_session
    from airflow_ibkr_plugin.broker.contracts import pin
    from airflow_ibkr_plugin.errors import AmbiguousContract, ConfigError, UnknownContract
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
    from airflow_ibkr_plugin.trading.market_hours import is_open

    database = open_database()
    with leased_session(spec, database, owner=owner) as session:
        now = session.now()
        clock = "simulated clock" if session.simulated else "broker's clock"
        closed, unknown = [], []
        for symbol in symbols:
            try:
                instrument = pin(session, database, InstrumentSpec.parse(symbol))
            except (UnknownContract, AmbiguousContract) as error:
                log.warning("not waited for: %s", error)
                unknown.append(error)
                continue
            opened = is_open(instrument, now, calendar=calendar)
            if opened is None:
                raise ConfigError(
                    f"nobody can tell when the market of {instrument.name} is open.",
                    remedy="Name the exchange calendar: `calendar: XNYS`.",
                )
            if not opened or (calendar and not is_open(None, now, calendar=calendar)):
                closed.append(instrument.name)
    if unknown and len(unknown) == len(symbols):
        raise unknown[0]
    state = f"closed for {', '.join(closed)}" if closed else "open"
    return Status(ready=not closed, detail=f"{now:%Y-%m-%d %H:%M:%S %Z} ({clock}): market {state}")


def session_status(spec: GatewaySpec, *, strategy: str, effort: Effort) -> Status:
    """Whether the gateway's session with IBKR is valid; if not, re-authenticate, and alert where a human is needed.

    Of several that wait for one gateway, one at a time sends IBC's commands, and none after a person was called.

    :raises ConfigError, ClientIdInUse: see :func:`airflow_ibkr_plugin.broker.auth.check_session`.
    :raises StoreError: the claim on IBC cannot be stored.
    """
    from airflow_ibkr_plugin.broker.auth import check_session

    status = check_session(spec)
    if spec.ibc_port is None:
        if not status.valid and effort is not Effort.CHECK:
            status = _reauthenticate(spec, effort)
    else:
        status = _with_ibc(spec, strategy, effort, status)
    if status.needs_human:
        _alert_human(spec, strategy, status.detail)
    return Status(ready=status.valid, detail=status.detail, needs_human=status.needs_human)


def _reauthenticate(spec: GatewaySpec, effort: Effort) -> SessionStatus:
    from airflow_ibkr_plugin.broker.auth import reauthenticate

    if effort is Effort.RECONNECT:
        return reauthenticate(spec, reconnect_seconds=RECONNECT_SECONDS, restart_seconds=None)
    return reauthenticate(spec)


def _with_ibc(spec: GatewaySpec, strategy: str, effort: Effort, status: SessionStatus) -> SessionStatus:
    """Re-authenticate if need be, unless somebody else is at it."""
    from airflow_ibkr_plugin.broker import auth
    from airflow_ibkr_plugin.execution.ibc_claim import IbcClaim
    from airflow_ibkr_plugin.store.database import open_database

    claim = IbcClaim(open_database(), spec, strategy)
    if status.valid:
        claim.end_person()
        return status
    if effort is Effort.CHECK:
        return status
    # Besides the waits: two commands, and the looks before and after them.
    waits = RECONNECT_SECONDS if effort is Effort.RECONNECT else auth.RECONNECT_SECONDS + auth.RESTART_SECONDS
    if not claim.take(waits + 6 * spec.timeout):
        detail = f"{status.detail} Another task sends IBC's commands, or a person was called: this one only looks."
        return replace(status, detail=detail)
    try:
        status = _reauthenticate(spec, effort)
    except BaseException:
        claim.leave()
        raise
    if status.needs_human:
        claim.leave_to_person(auth.RESTART_SECONDS)
    elif effort is Effort.RESTART:
        # IBC restarts at a full minute to come: a session that stands may yet go down once.
        claim.keep(auth.RESTART_SECONDS)
    else:
        claim.leave()
    return status


def _alert_human(spec: GatewaySpec, strategy: str, detail: str) -> None:
    from airflow_ibkr_plugin import settings
    from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
    from airflow_ibkr_plugin.alerts.outbox import enqueue
    from airflow_ibkr_plugin.alerts.sender import deliver_due
    from airflow_ibkr_plugin.store.database import open_database

    database, at = open_database(), datetime.now(UTC)
    message = AlertMessage(
        severity=Severity.CRITICAL,
        title=f"The broker session of {spec.conn_id} needs a human",
        summary=detail,
        done=[f"strategy {strategy} waits; nothing was sent"],
        next_step=f"Log in to the gateway at {spec.address}.",
    )
    with database.write() as session:
        key = f"needs-human:{spec.conn_id}:{at:%Y-%m-%d}"
        enqueue(session, message, dedupe_key=key, strategy=strategy, dag_id="", run_id="", at=at)
    deliver_due(database, settings.load().alert_urls, now=at)
