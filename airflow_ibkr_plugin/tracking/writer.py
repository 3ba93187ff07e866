"""Sends the tracking outbox to MLflow: in order, in batches, for a bounded time, and safely after a crash.

Every request may be sent twice without a difference: the same point of a metric, the same value of a parameter or tag,
a file under the same name, the same final status. So rows are marked as sent after MLflow has taken them, and a crash
in between sends them again.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_ibkr_plugin.errors import TrackingRefused, TrackingUnavailable
from airflow_ibkr_plugin.tracking.artifacts import read_artifact
from airflow_ibkr_plugin.tracking.batches import BATCHED, batches, group
from airflow_ibkr_plugin.tracking.client import bounded_client, mlflow_errors
from airflow_ibkr_plugin.tracking.names import MAX_TAG_VALUE, clip
from airflow_ibkr_plugin.tracking.records import Kind, RunKey
from airflow_ibkr_plugin.tracking.runs import MlflowRun, claimed, ensure_run, new_owner

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.outbox import TrackingRow

log = logging.getLogger(__name__)

PAGE = 200  # rows read at once; between two pages others may use the database
RUNS = 500  # runs looked at in one drain
FIRST_WAIT = 5.0
LONGEST_WAIT = 600.0
POLL = 0.2  # seconds between two looks at another drain's claim


@dataclass(frozen=True)
class DrainResult:
    """What a drain did.

    :param sent: rows that MLflow has, of those that waited.
    :param left: rows that still wait, of the run or the DAG that was asked for, else of all.
    :param error: why rows wait, where MLflow or the storage of an artifact is the reason; else None.
    """

    sent: int
    left: int
    error: str | None


def back_off(attempts: int) -> timedelta:
    """How long to leave MLflow alone after this many failed attempts: 5 s, doubled each time, 10 minutes at most."""
    return timedelta(seconds=min(FIRST_WAIT * 2.0 ** min(attempts, 20), LONGEST_WAIT))


def drain(
    database: Database,
    tracking_uri: str,
    *,
    now: datetime,
    deadline_seconds: float,
    dag_id: str | None = None,
    run_id: str | None = None,
) -> DrainResult:
    """Send what waits. MLflow's failures are in the result, never raised.

    Runs are sent one after the other, the longest waiting first, each under a claim, so that any number of drains may
    work at once. No request begins after the deadline, and one that has begun ends within MLFLOW_HTTP_REQUEST_TIMEOUT.
    A run whose last attempt failed waits for its back-off, unless it is named here: then it is tried at once, and
    where another drain holds it, that one is waited for.

    :param tracking_uri: `[ibkr] mlflow_tracking_uri`.
    :param now: aware UTC.
    :param deadline_seconds: counted from when MLflow's client has been imported.
    :raises StoreError: the trading database fails.
    """
    named = dag_id is not None and run_id is not None
    runs = _waiting(database, None if named else now, dag_id, run_id)
    error = None
    sent = 0
    if runs:
        with bounded_client(tracking_uri) as client:
            work = _Drain(database, client, now, deadline_seconds)
            for key in runs:
                if not work.drain_run(key, wait=named):
                    break
            sent, error = work.sent, work.error
    return DrainResult(sent, _left(database, dag_id, run_id), error)


def _waiting(database: Database, now: datetime | None, dag_id: str | None, run_id: str | None) -> list[RunKey]:
    from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

    with database.read() as session:
        return TrackingOutbox(session).waiting_runs(now, dag_id=dag_id, run_id=run_id, limit=RUNS)


def _left(database: Database, dag_id: str | None, run_id: str | None) -> int:
    from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

    with database.read() as session:
        return TrackingOutbox(session).count_waiting(dag_id=dag_id, run_id=run_id)


class _Drain:
    """One drain: its clock, its deadline, and what came of it so far."""

    def __init__(self, database: Database, client: MlflowClient, now: datetime, seconds: float) -> None:
        self.database = database
        self.client = client
        self.owner = new_owner()
        self.sent = 0
        self.error: str | None = None
        self._now = now
        self._started = time.monotonic()
        self._seconds = seconds

    @property
    def now(self) -> datetime:
        return self._now + timedelta(seconds=time.monotonic() - self._started)

    @property
    def time_left(self) -> bool:
        return time.monotonic() - self._started < self._seconds

    def drain_run(self, key: RunKey, *, wait: bool) -> bool:
        """Send one run's rows; False where the drain should end: no time is left, or MLflow does not answer."""
        while self.time_left:
            try:
                with claimed(self.database, key, self.owner, self.now) as held:
                    if held:
                        self._send_pages(key)
            except TrackingUnavailable as error:
                self._hold(key, error)
                return False
            except TrackingRefused as error:
                self._hold(key, error)
                return True
            if held or not wait:
                return self.time_left
            time.sleep(POLL)
        return False

    def _send_pages(self, key: RunKey) -> None:
        run: MlflowRun | None = None
        while self.time_left and (rows := self._page(key)):
            run = run or ensure_run(self.database, self.client, key)
            for rows_together in group(rows):
                if not self.time_left or not self._renew(key):
                    return
                self._send(run, rows_together)

    def _page(self, key: RunKey) -> Sequence[TrackingRow]:
        from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

        # Also rows in their back-off: whoever sends a run sends it from its first row.
        with self.database.read() as session:
            return TrackingOutbox(session).pending(None, dag_id=key[0], run_id=key[1], limit=PAGE)

    def _renew(self, key: RunKey) -> bool:
        from airflow_ibkr_plugin.store.runs import Runs
        from airflow_ibkr_plugin.tracking.runs import CLAIM_SECONDS

        with self.database.write() as session:
            return Runs(session).claim_mlflow(*key, self.owner, self.now, CLAIM_SECONDS)

    def _send(self, run: MlflowRun, rows: Sequence[TrackingRow]) -> None:
        try:
            self._deliver(run, rows)
        except TrackingRefused as refusal:
            if len(rows) > 1:
                for row in rows:
                    self._send(run, [row])
                return
            self._say_refused(run, rows[0], refusal)
        self._done(rows)

    def _deliver(self, run: MlflowRun, rows: Sequence[TrackingRow]) -> None:
        first = rows[0]
        if first.kind in BATCHED:
            self._log(run, rows)
        elif first.kind == Kind.ARTIFACT:
            self._upload(run, first)
        elif first.kind == Kind.BEGIN:
            with mlflow_errors("opening the run"):
                self.client.update_run(run.run_id, status="RUNNING")
        else:
            with mlflow_errors("ending the run"):
                self.client.set_terminated(run.run_id, status=first.payload["status"], end_time=first.payload["ms"])

    def _log(self, run: MlflowRun, rows: Sequence[TrackingRow]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        for batch in batches(rows):
            with mlflow_errors("logging a batch"):
                self.client.log_batch(
                    run.run_id,
                    metrics=[Metric(p.name, p.value, p.ms, p.step) for p in batch.metrics],
                    params=[Param(name, value) for name, value in batch.params.items()],
                    tags=[RunTag(name, value) for name, value in batch.tags.items()],
                )

    def _upload(self, run: MlflowRun, row: TrackingRow) -> None:
        url = row.payload["url"]
        content = read_artifact(url, row.payload["sha256"])
        with tempfile.TemporaryDirectory(prefix="ibkr-artifact-") as folder:
            file = Path(folder) / Path(urlsplit(url).path).name
            file.write_bytes(content)
            with mlflow_errors(f"storing {file.name}"):
                self.client.log_artifact(run.run_id, str(file), row.payload["path"])

    def _say_refused(self, run: MlflowRun, row: TrackingRow, refusal: TrackingRefused) -> None:
        """A row that can never be sent must not hold up the others; the run itself says what it lacks, and why."""
        log.error("record %d of run %s/%s is left out of MLflow: %s", row.id, row.dag_id, row.run_id, refusal)
        with mlflow_errors("tagging the run with a refused record"):
            self.client.set_tag(run.run_id, f"ibkr.refused.{row.id}", clip(f"{row.kind}: {refusal}", MAX_TAG_VALUE))

    def _done(self, rows: Sequence[TrackingRow]) -> None:
        from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

        with self.database.write() as session:
            TrackingOutbox(session).sent([row.id for row in rows], self.now)
        self.sent += len(rows)

    def _hold(self, key: RunKey, error: TrackingUnavailable | TrackingRefused) -> None:
        """Put the run's first row into back-off; the rows behind it wait with it."""
        from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

        self.error = self.error or str(error)
        with self.database.write() as session:
            outbox = TrackingOutbox(session)
            for row in outbox.pending(None, dag_id=key[0], run_id=key[1], limit=1):
                outbox.failed(row.id, str(error), self.now + back_off(row.attempts))
