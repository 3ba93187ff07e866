"""The process: stands for leader, leads, hands over. It ends by a signal, not by a fault of what it works with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.errors import NotLeader, StoreError
from airflow_ibkr_plugin.service.jobs import Job, start
from airflow_ibkr_plugin.service.term import RENEW_SECONDS, Term, new_owner, stand

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database

log = structlog.get_logger(__name__)

#: How often one that does not lead looks whether it may.
LOOK_SECONDS = 1.0
#: Jobs that were told to stop have this long; a supervisor's patience is longer.
STOP_SECONDS = 15.0

#: Exit statuses.
STOPPED, NOT_STOPPED = 0, 1


class Service:
    """One of any number of services on a trading database.

    :param jobs: the jobs of a term, asked for every few seconds: one that is not at work is started.
    """

    def __init__(self, database: Database, jobs: Callable[[Term], Iterable[Job]]) -> None:
        self._database = database
        self._jobs = jobs
        self._owner = new_owner()
        self._trouble = ""

    def run(self, stop: threading.Event) -> int:
        """Serve until `stop` is set; returns the exit status: 0, or 1 where a job did not end in time."""
        log.info("service started", owner=self._owner, database=self._database.url.render_as_string())
        while not stop.is_set():
            term = self._stand()
            if term is None:
                stop.wait(LOOK_SECONDS)
            elif not self._lead(term, stop):
                log.error("service stopped with a job at work; its lease runs out by itself", owner=self._owner)
                return NOT_STOPPED
        log.info("service stopped", owner=self._owner)
        return STOPPED

    def _stand(self) -> Term | None:
        try:
            term = stand(self._database, self._owner)
        except StoreError as error:
            self._say(error)
            return None
        self._trouble = ""
        return term

    def _lead(self, term: Term, stop: threading.Event) -> bool:
        """Lead until the term is over; whether all its jobs have ended."""
        log.info("leading", owner=self._owner, term=term.fence)
        threads: dict[str, threading.Thread] = {}
        while not stop.is_set() and self._go_on(term, threads):
            stop.wait(RENEW_SECONDS)
        term.end()
        if not self._join(threads, stop):
            return False
        self._hand_over(term)
        return True

    @staticmethod
    def _join(threads: dict[str, threading.Thread], stop: threading.Event) -> bool:
        """Wait until the jobs have ended: told to stop, for a bounded time; else for as long as it takes, since two
        terms of one process must not overlap."""
        said: list[str] = []
        while not stop.is_set() and (left := _at_work(threads)):
            if left != said:
                log.warning("waiting for jobs", jobs=left)
                said = left
            stop.wait(LOOK_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if left := _at_work(threads):
            log.error("jobs do not end", jobs=left)
        return not left

    def _go_on(self, term: Term, threads: dict[str, threading.Thread]) -> bool:
        try:
            term.renew()
            for job in self._jobs(term):
                thread = threads.get(job.name)
                if thread is None or not thread.is_alive():
                    log.info("job started", job=job.name, term=term.fence, again=thread is not None)
                    threads[job.name] = start(job, term, self._database)
        except NotLeader as error:
            log.error("leadership lost", owner=self._owner, term=term.fence, error=str(error))
            return False
        except StoreError as error:  # while it lasts, the term may run out: the next renewal says so
            self._say(error)
        else:
            self._trouble = ""
        return True

    def _hand_over(self, term: Term) -> None:
        try:
            released = term.release()
        except StoreError as error:
            log.warning("lease not given back; it runs out by itself", term=term.fence, error=str(error))
        else:
            log.info("lease given back" if released else "lease was lost", term=term.fence)

    def _say(self, error: StoreError) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("trading database fails; trying again", error=self._trouble)


def _at_work(threads: dict[str, threading.Thread]) -> list[str]:
    return [name for name, thread in threads.items() if thread.is_alive()]
