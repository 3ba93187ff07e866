"""The process: stands for leader, leads, hands over. It ends by a signal, not by a fault of what it works with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.errors import NotLeader, SchemaMismatch, StoreError
from airflow_ibkr_plugin.service.jobs import Job, start
from airflow_ibkr_plugin.service.term import RENEW_SECONDS, Term, new_owner, stand

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database

log = structlog.get_logger(__name__)

#: How often one that does not lead looks whether it may.
LOOK_SECONDS = 1.0
#: How often the leader looks for jobs that are not at work, and how long it waits at most where that fails.
DISCOVER_SECONDS, DISCOVER_LONGEST_WAIT = 2.0, 10.0
#: Jobs that were told to stop have this long; a supervisor's patience is longer.
STOP_SECONDS = 15.0

#: Exit statuses.
STOPPED, NOT_STOPPED = 0, 1


class Service:
    """One of any number of services on a trading database.

    :param jobs: the jobs of a term, asked for every few seconds, in a thread of its own: one that is not at work is
        started.
    """

    def __init__(self, database: Database, jobs: Callable[[Term], Iterable[Job]]) -> None:
        self._database = database
        self._jobs = jobs
        self._owner = new_owner()
        self._trouble = ""

    def run(self, stop: threading.Event) -> int:
        """Serve until `stop` is set; returns the exit status: 0, or 1 where a job did not end in time.

        :raises SchemaMismatch: the database has another schema, perhaps since a moment ago. All jobs have been told to
            end; a supervisor that starts it again starts the code that knows the schema.
        """
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
            self._database.check_schema()
            term = stand(self._database, self._owner)
        except StoreError as error:
            self._say(error)
            return None
        self._trouble = ""
        return term

    def _lead(self, term: Term, stop: threading.Event) -> bool:
        """Lead until the term is over; whether all its jobs have ended."""
        log.info("leading", owner=self._owner, term=term.fence)
        threads = _Threads(term, self._database)
        try:
            while not stop.is_set() and self._go_on(term, threads):
                stop.wait(RENEW_SECONDS)
        except SchemaMismatch as error:  # nothing more is written, not even that the lease is given back
            log.error("the trading database was migrated", owner=self._owner, error=str(error))
            term.end()
            threads.join(STOP_SECONDS)
            raise
        term.end()
        if not self._join(threads, stop):
            return False
        self._hand_over(term)
        return True

    @staticmethod
    def _join(threads: _Threads, stop: threading.Event) -> bool:
        """Wait until the jobs have ended: told to stop, for a bounded time; else for as long as it takes, since two
        terms of one process must not overlap."""
        said: list[str] = []
        while not stop.is_set() and (left := threads.at_work()):
            if left != said:
                log.warning("waiting for jobs", jobs=left)
                said = left
            stop.wait(LOOK_SECONDS)
        return threads.join(STOP_SECONDS)

    def _go_on(self, term: Term, threads: _Threads) -> bool:
        """Renew the term. What jobs there are is looked for beside it, as that may take longer than the lease."""
        try:
            self._database.check_schema()
            term.renew()
        except NotLeader as error:
            log.error("leadership lost", owner=self._owner, term=term.fence, error=str(error))
            return False
        except StoreError as error:  # while it lasts, the term may run out: the next renewal says so
            self._say(error)
        else:
            self._trouble = ""
        threads.keep(
            Job(
                name="discovery",
                period=DISCOVER_SECONDS,
                longest_wait=DISCOVER_LONGEST_WAIT,
                work=lambda: self._discover(term, threads),
            )
        )
        return True

    def _discover(self, term: Term, threads: _Threads) -> bool:
        for job in self._jobs(term):
            threads.keep(job)
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


class _Threads:
    """The threads of a term, by job."""

    def __init__(self, term: Term, database: Database) -> None:
        self._term = term
        self._database = database
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}

    def keep(self, job: Job) -> None:
        """See that somebody is at work on the job, while the term lasts."""
        with self._lock:
            thread = self._threads.get(job.name)
            if (thread is None or not thread.is_alive()) and not self._term.over():
                log.info("job started", job=job.name, term=self._term.fence, again=thread is not None)
                self._threads[job.name] = start(job, self._term, self._database)

    def at_work(self) -> list[str]:
        with self._lock:
            return [name for name, thread in self._threads.items() if thread.is_alive()]

    def join(self, seconds: float) -> bool:
        """Wait for so long, once the term is over; whether all have ended."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if left := self.at_work():
            log.error("jobs do not end", jobs=left)
        return not left
