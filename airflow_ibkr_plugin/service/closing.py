"""What commands want closed is closed until nothing is left, also when whoever gave the command has gone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.errors import BrokerTimeout, ConfigError
from airflow_ibkr_plugin.execution.flatten import flatten
from airflow_ibkr_plugin.service.commands import LONGEST_WAIT
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


def closing_jobs(database: Database, term: Term, gateway_of: GatewayOf) -> list[Job]:
    """One job for all commands, apart from the one that cancels: that must not wait for fills."""
    work = partial(close_positions, database, term, gateway_of)
    return [Job(name="closing", period=2.0, longest_wait=LONGEST_WAIT, work=work)]


def close_positions(database: Database, term: Term, gateway_of: GatewayOf) -> bool:
    """One round for each command whose cancel is verified and whose positions are not closed.

    :raises BrokerTimeout: something is held still, or a gateway could not be asked; what and why.
    """
    with database.read() as session:
        commands = [command.id for command in TradingCommands(session).unflattened()]
    held = []
    for command_id in commands:
        term.require()
        name = f"service/{command_id}"
        try:
            found = flatten(
                database,
                command_id,
                gateway_of=gateway_of,
                owner=f"{name}/{term.owner}",
                wait_seconds=WAIT_SECONDS,
                claimant=name,
            )
        except ConfigError as error:  # it was ended in this very moment
            log.info("command is not carried on", command=command_id, error=str(error))
            continue
        for line in found.closed:
            log.info("closing by command", command=command_id, order=line)
        if found.left:
            held.append(f"{command_id}: {'; '.join(found.left)}")
        else:
            log.info("command done: all positions of it are closed", command=command_id)
    if held:
        raise BrokerTimeout(f"Not closed yet: {' | '.join(held)}", remedy="It is tried again; or close it in TWS.")
    return True
