"""Halts are carried on until the broker has confirmed them, also when whoever gave the command has gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.errors import BrokerTimeout, NotLeader
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
    database = database.guarded(term)

    def enforce_one(command_id: str) -> str:
        found = enforce(database, command_id, gateway_of=gateway_of, owner=f"service/{term.owner}/{command_id}")
        for line in found.cancelled:
            log.info("cancelled by command", command=command_id, order=line)
        if found.verified:
            log.info("command verified: nothing of its scope works", command=command_id)
        return "; ".join((*found.left, *found.unreachable))

    if unverified := carry_on(term, lambda: _uncancelled(database), enforce_one):
        raise BrokerTimeout(
            f"Not verified that nothing works: {unverified}",
            remedy="It is tried again; cancel by hand in TWS if it stays.",
        )
    return True


def carry_on(term: Term, open_commands: Callable[[], list[str]], work: Callable[[str], str]) -> str:
    """A round of each command; what goes wrong with one keeps no other from its round.

    :param open_commands: ids of those that are not carried out, oldest first.
    :param work: a round of one; returns what is left of it, '' for nothing.
    :returns: what is left, by command. :raises NotLeader: the term is over.
    :raises Exception: what went wrong with a command; of several, a group.
    """
    left: list[str] = []
    failed: dict[str, Exception] = {}
    for command_id in open_commands():
        term.require()
        try:
            if found := work(command_id):
                left.append(f"{command_id}: {found}")
        except NotLeader:
            raise
        except Exception as error:  # noqa: BLE001  a kill switch must not hang on another one's fault
            failed[command_id] = error
    if failed:
        still = open_commands()  # without those that a looser state has ended meanwhile
        errors = [error for command_id, error in failed.items() if command_id in still]
        if len(errors) > 1:
            raise ExceptionGroup("several commands failed", errors)
        if errors:
            raise errors[0]
    return " | ".join(left)


def _uncancelled(database: Database) -> list[str]:
    with database.read() as session:
        return [command.id for command in TradingCommands(session).uncancelled()]
