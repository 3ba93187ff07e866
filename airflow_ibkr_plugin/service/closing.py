"""What commands want closed is closed until nothing is left, also when whoever gave the command has gone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.errors import BrokerTimeout
from airflow_ibkr_plugin.execution.flatten import flatten
from airflow_ibkr_plugin.service.commands import LONGEST_WAIT, carry_on
from airflow_ibkr_plugin.service.jobs import Job
from airflow_ibkr_plugin.store.trading_commands import TradingCommands

if TYPE_CHECKING:
    from airflow_ibkr_plugin.service.follow import GatewayOf
    from airflow_ibkr_plugin.service.term import Term
    from airflow_ibkr_plugin.store.database import Database

log = structlog.get_logger(__name__)

#: How long one closing order may take: shorter than the service's patience with a job when it is told to stop. What
#: does not fill is cancelled, and the next round closes the rest.
WAIT_SECONDS = 8.0
# With the number of the term behind it: a leader takes over at once from those before it, and they notice.
_CLAIMANT = "service/"


def closing_jobs(database: Database, term: Term, gateway_of: GatewayOf) -> list[Job]:
    """One job for all commands, apart from the one that cancels: that must not wait for fills."""
    work = partial(close_positions, database, term, gateway_of)
    return [Job(name="closing", period=2.0, longest_wait=LONGEST_WAIT, work=work)]


def close_positions(database: Database, term: Term, gateway_of: GatewayOf) -> bool:
    """One round for each command whose cancel is verified and whose positions are not closed; what goes wrong with one
    keeps no other from its round. The term is asked before each order.

    :raises NotLeader: the term is over; nothing (more) is sent or stored.
    :raises Exception: what went wrong with a command; of several, a group.
    :raises BrokerTimeout: something is held still, or a gateway could not be asked; what and why.
    """
    database = database.guarded(term)

    def open_commands() -> list[str]:
        with database.read() as session:
            return [command.id for command in TradingCommands(session).unflattened()]

    def close(command_id: str) -> str:
        found = flatten(
            database,
            command_id,
            gateway_of=gateway_of,
            owner=f"{_CLAIMANT}{command_id}/{term.owner}",
            wait_seconds=WAIT_SECONDS,
            claimant=f"{_CLAIMANT}{term.fence}",
            succeeds=_CLAIMANT,
        )
        for line in found.closed:
            log.info("closing by command", command=command_id, order=line)
        if not found.left:
            log.info("command done: all positions of it are closed", command=command_id)
        return "; ".join(found.left)

    if held := carry_on(term, open_commands, close):
        raise BrokerTimeout(f"Not closed yet: {held}", remedy="It is tried again; or close it in TWS.")
    return True
