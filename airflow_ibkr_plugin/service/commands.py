"""Halts are carried on until the broker has confirmed them, also when whoever gave the command has gone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.errors import BrokerTimeout
from airflow_ibkr_plugin.execution.halt import enforce
from airflow_ibkr_plugin.service.jobs import Job
from airflow_ibkr_plugin.store.trading_commands import TradingCommands

if TYPE_CHECKING:
    from airflow_ibkr_plugin.service.follow import GatewayOf
    from airflow_ibkr_plugin.service.term import Term
    from airflow_ibkr_plugin.store.database import Database

log = structlog.get_logger(__name__)


#: However long a gateway is away: once it is back, what works is cancelled this soon.
LONGEST_WAIT = 10.0


def command_jobs(database: Database, term: Term, gateway_of: GatewayOf) -> list[Job]:
    """One job for all commands."""
    work = partial(enforce_commands, database, term, gateway_of)
    return [Job(name="halts", period=2.0, longest_wait=LONGEST_WAIT, work=work)]


def enforce_commands(database: Database, term: Term, gateway_of: GatewayOf) -> bool:
    """One round for each command whose cancel is not verified; what goes wrong with one keeps no other from its round.

    :raises BrokerTimeout: something works still, or a gateway could not be asked; what and why.
    :raises Exception: what went wrong with a command besides; of several, a group.
    """
    unverified: list[str] = []
    failed: dict[str, Exception] = {}
    for command_id in _uncancelled(database):
        term.require()
        try:
            found = enforce(database, command_id, gateway_of=gateway_of, owner=f"service/{term.owner}/{command_id}")
        except Exception as error:  # noqa: BLE001  a kill switch must not hang on another one's fault
            failed[command_id] = error
            continue
        for line in found.cancelled:
            log.info("cancelled by command", command=command_id, order=line)
        if found.verified:
            log.info("command verified: nothing of its scope works", command=command_id)
        else:
            unverified.append(f"{command_id}: {'; '.join((*found.left, *found.unreachable))}")
    if failed:
        still = _uncancelled(database)  # without those that a looser state has ended meanwhile
        errors = [error for command_id, error in failed.items() if command_id in still]
        if len(errors) > 1:
            raise ExceptionGroup("several commands failed", errors)
        if errors:
            raise errors[0]
    if unverified:
        raise BrokerTimeout(
            f"Not verified that nothing works: {' | '.join(unverified)}",
            remedy="It is tried again; cancel by hand in TWS if it stays.",
        )
    return True


def _uncancelled(database: Database) -> list[str]:
    with database.read() as session:
        return [command.id for command in TradingCommands(session).uncancelled()]
