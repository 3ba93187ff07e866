"""Halts are carried on until the broker has confirmed them, also when whoever gave the command has gone."""

from __future__ import annotations

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


def command_jobs(database: Database, term: Term, gateway_of: GatewayOf) -> list[Job]:
    """One job for all commands."""
    return [Job(name="halts", period=2.0, work=lambda: enforce_commands(database, term, gateway_of))]


def enforce_commands(database: Database, term: Term, gateway_of: GatewayOf) -> bool:
    """One round for each command whose cancel is not verified.

    :raises BrokerTimeout: something works still, or a gateway could not be asked; what and why.
    """
    with database.read() as session:
        open_commands = [command.id for command in TradingCommands(session).uncancelled()]
    unverified = []
    for command_id in open_commands:
        term.require()
        found = enforce(database, command_id, gateway_of=gateway_of, owner=f"service/{term.owner}/{command_id}")
        for line in found.cancelled:
            log.info("cancelled by command", command=command_id, order=line)
        if found.verified:
            log.info("command verified: nothing of its scope works", command=command_id)
        else:
            unverified.append(f"{command_id}: {'; '.join((*found.left, *found.unreachable))}")
    if unverified:
        raise BrokerTimeout(
            f"Not verified that nothing works: {' | '.join(unverified)}",
            remedy="It is tried again; cancel by hand in TWS if it stays.",
        )
    return True
