"""What all our operators share: who runs (DAG run, task, strategy), and a record of how long it took."""

from __future__ import annotations

import logging
import time
import traceback
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_ibkr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database


log = logging.getLogger(__name__)

# What fails a try. Airflow's time-out is no Exception; its TaskDeferred is none either, and fails nothing.
TRY_FAILURES = (Exception, AirflowTaskTimeout)


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """The identity of one try of one task instance.

    :param map_index: -1 where the task is not mapped.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    log_url: str

    @classmethod
    def from_context(cls, context: Any) -> TaskRun:
        """Read it from Airflow's task context."""
        ti = context["ti"]
        map_index = ti.map_index if ti.map_index is not None else -1
        return cls(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=map_index,
            try_number=ti.try_number,
            log_url=getattr(ti, "log_url", "") or "",
        )

    @property
    def owner(self) -> str:
        """Name for leases: unique for each try, and telling."""
        return f"{self.dag_id}/{self.run_id}/{self.task_id}/{self.map_index}/{self.try_number}"

    @property
    def metric_prefix(self) -> str:
        """MLflow metric names of this task begin with it."""
        return f"task/{self.task_id}" + (f"/{self.map_index}" if self.map_index >= 0 else "")


def record_try(run: TaskRun, seconds: float, error: BaseException | None) -> None:
    """Store how long a try took and, where it failed, why.

    :raises StoreError: that cannot be stored, and the try did not fail anyway.
    """
    from airflow_ibkr_plugin.alerts.failures import record_failure
    from airflow_ibkr_plugin.errors import StoreError
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.tracking.records import log_metrics

    at = datetime.now(UTC)
    metrics = {f"{run.metric_prefix}/duration_s": seconds, f"{run.metric_prefix}/tries": float(run.try_number)}
    try:
        with open_database().write() as session:
            log_metrics(session, (run.dag_id, run.run_id), metrics, at)
            if error is not None:
                record_failure(
                    session,
                    dag_id=run.dag_id,
                    run_id=run.run_id,
                    task_id=run.task_id,
                    map_index=run.map_index,
                    try_number=run.try_number,
                    error=error,
                    traceback="".join(traceback.format_exception(error)),
                    log_url=run.log_url,
                    at=at,
                )
    except StoreError as unrecorded:
        if error is None:
            raise
        # The task's own error matters more than the record of it, which the run's alert makes again.
        log.error("the failure could not be recorded: %s", unrecorded)


class IBKROperator(BaseOperator):
    """Base of the operators that run inside a strategy's DAG.

    :param strategy: name of the strategy, which is also the id of its DAG unless given otherwise.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, strategy: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strategy = strategy

    @cached_property
    def database(self) -> Database:
        """The trading database of this installation."""
        from airflow_ibkr_plugin.store.database import open_database

        return open_database()

    def execute(self, context: Any) -> Any:
        """Run the task; record its duration, and its failure where it fails. The error goes on to Airflow."""
        return self.run_recorded(context)

    def run_recorded(self, context: Any, *, before: float = 0.0) -> Any:
        """See :meth:`execute`.

        :param before: seconds that the same try has taken already, in the worker and deferred.
        """
        run = TaskRun.from_context(context)
        started = time.monotonic() - before
        try:
            result = self.run_task(context, run)
        except TRY_FAILURES as error:
            record_try(run, time.monotonic() - started, error)
            raise
        record_try(run, time.monotonic() - started, None)
        return result

    @abstractmethod
    def run_task(self, context: Any, run: TaskRun) -> Any:
        """Do the work; what it returns is the task's XCom (plain JSON types)."""

    def upstream(self, context: Any, task_id: str) -> dict[str, Any]:
        """What an earlier task returned, for the same symbol where both are mapped.

        :raises ConfigError: it returned nothing.
        """
        ti = context["ti"]
        mapped = ti.map_index is not None and ti.map_index >= 0
        value = ti.xcom_pull(task_ids=task_id, map_indexes=ti.map_index if mapped else None)
        if not isinstance(value, dict):
            raise ConfigError(
                f"task {self.task_id!r} needs what {task_id!r} returns, and that is {value!r}.",
                remedy=f"Name in `needs` the task whose result is wanted, or clear {task_id!r} so that it runs again.",
            )
        return value


class BrokerOperator(IBKROperator):
    """Base of the operators that talk to the broker.

    :param ibkr_conn_id: Airflow connection of type `ibkr`.
    """

    def __init__(self, *, ibkr_conn_id: str = "ibkr_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ibkr_conn_id = ibkr_conn_id

    @contextmanager
    def broker(self, run: TaskRun) -> Iterator[BrokerSession]:
        """A broker session on a leased client id; the run's record learns where it trades."""
        from airflow_ibkr_plugin.broker.connect import leased_session
        from airflow_ibkr_plugin.execution.summary import record_source
        from airflow_ibkr_plugin.hooks.ibkr import IBKRHook

        spec = IBKRHook(self.ibkr_conn_id).get_conn()
        with leased_session(spec, self.database, owner=run.owner) as session:
            record_source(self.database, run.dag_id, run.run_id, session)
            yield session
