"""`airflow ibkr service`: which jobs there are, and the signals that end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.service.closing import closing_jobs
from airflow_ibkr_plugin.service.commands import command_jobs
from airflow_ibkr_plugin.service.follow import GatewayOf, follow_jobs
from airflow_ibkr_plugin.service.jobs import Job
from airflow_ibkr_plugin.service.overdue import overdue_jobs
from airflow_ibkr_plugin.service.process import Service
from airflow_ibkr_plugin.service.reconcile import reconcile_jobs
from airflow_ibkr_plugin.service.term import Term
from airflow_ibkr_plugin.service.upkeep import upkeep_jobs
from airflow_ibkr_plugin.store.database import open_database


def main(gateway_of: GatewayOf) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status of :meth:`Service.run`.

    :param gateway_of: the gateway that an Airflow connection names; raises ConfigError where it names none.
    :raises ConfigError, SchemaMismatch: it cannot start.
    """
    options, database = settings.load(), open_database()
    with database.read():  # a schema of another version ends it here, not in a job
        pass

    def jobs(term: Term) -> Iterator[Job]:
        yield from upkeep_jobs(database, options, term)
        yield from overdue_jobs(database, term)
        yield from command_jobs(database, term, gateway_of)
        yield from closing_jobs(database, term, gateway_of)
        yield from follow_jobs(database, term, gateway_of)
        yield from reconcile_jobs(database, term, gateway_of, options.reconcile_seconds)

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return Service(database, jobs).run(stop)
