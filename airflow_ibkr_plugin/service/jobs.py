"""What the leader does again and again: each job in a thread of its own, so that none waits for another."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.errors import Family, IBKRPluginError, NotLeader, StoreError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.service.term import Term
    from airflow_ibkr_plugin.store.database import Database

log = structlog.get_logger(__name__)

FIRST_WAIT = 2.0
LONGEST_WAIT = 60.0
#: A fault that lasts this long is told to people. A gateway's or a server's restart is over by then.
ALERT_AFTER = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One duty of the leader.

    :param period: seconds from the end of one round to the next.
    :param longest_wait: seconds between two rounds that fail, at most; unless the error itself names more.
    :param work: one round. True: it did well. False: nothing could be tried, so that an earlier fault may still stand.
        An error is logged, waited out and told; it ends neither this job nor another.
    """

    name: str
    period: float
    work: Callable[[], bool]
    longest_wait: float = LONGEST_WAIT


class Fault:
    """What is wrong with a job: logged when it begins, changes and ends; told to people once a day where it lasts."""

    def __init__(self, database: Database, job: str, *, longest_wait: float = LONGEST_WAIT) -> None:
        self._database = database
        self._job = job
        self._longest_wait = longest_wait
        self._count = 0
        self._said = ""
        self._since: datetime | None = None
        self._told: set[str] = set()

    def failed(self, error: Exception, at: datetime) -> float:
        """Note a round that failed at `at`, aware UTC; returns the seconds to wait before the next."""
        self._since = self._since or at
        self._count += 1
        ours = isinstance(error, IBKRPluginError)
        said = f"{type(error).__name__}: {error}"
        wait = min(FIRST_WAIT * 2.0 ** min(self._count - 1, 20), self._longest_wait)
        if isinstance(error, IBKRPluginError) and error.retry_after:
            wait = max(wait, error.retry_after)
        if said != self._said:
            self._said = said
            log.warning("job failed", job=self._job, error=said, next_try_seconds=wait, exc_info=not ours)
        urgent = not ours or (isinstance(error, IBKRPluginError) and error.family is Family.NEEDS_HUMAN)
        if urgent or at - self._since >= ALERT_AFTER:
            self._tell(error, at)
        return wait

    def over(self) -> None:
        """Note a round that did well."""
        if self._since is not None:
            log.info("job is well again", job=self._job, failed_rounds=self._count, since=self._since.isoformat())
        self._count, self._said, self._since = 0, "", None

    def _tell(self, error: Exception, at: datetime) -> None:
        key = f"service:{self._job}:{type(error).__name__}:{at:%Y-%m-%d}"
        if key in self._told:
            return
        needs_human = isinstance(error, IBKRPluginError) and error.family is Family.NEEDS_HUMAN
        ours = isinstance(error, IBKRPluginError)
        message = AlertMessage(
            severity=Severity.CRITICAL if needs_human else Severity.ERROR,
            title=f"[IBKR] service: {self._job} fails",
            summary=f"{type(error).__name__}: {error}",
            done=[f"Failed {self._count} times since {self._since:%Y-%m-%d %H:%M:%S %Z}; it is tried again."],
            next_step="Remove the cause; the service goes on by itself.",
            log_tail="" if ours else "".join(traceback.format_exception(error)),
        )
        try:
            with self._database.write() as session:
                enqueue(session, message, dedupe_key=key, strategy="", dag_id="", run_id="", at=at)
        except StoreError as unstored:
            log.warning("alert not stored", job=self._job, error=str(unstored))
        else:
            self._told.add(key)


def start(job: Job, term: Term, database: Database) -> threading.Thread:
    """Work at a job until the term is over."""
    thread = threading.Thread(target=_work, args=(job, term, database), name=f"service-{job.name}", daemon=True)
    thread.start()
    return thread


def _work(job: Job, term: Term, database: Database) -> None:
    fault = Fault(database, job.name, longest_wait=job.longest_wait)
    while not term.over():
        wait = job.period
        try:
            if job.work():
                fault.over()
        except NotLeader as error:
            log.warning("job stopped", job=job.name, error=str(error))
            return
        except Exception as error:  # noqa: BLE001  whatever it is, it must not end the other jobs' process
            if term.over():
                log.info("job interrupted", job=job.name, error=f"{type(error).__name__}: {error}")
                return
            wait = fault.failed(error, datetime.now(UTC))
        term.wait(wait)
