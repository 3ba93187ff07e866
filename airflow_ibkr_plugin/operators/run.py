"""The first and the last task of every run: open the record, and close it with what really happened."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.operators.base import IBKROperator, TaskRun

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.models.runs import Run

# A task waits at most this long for MLflow; what is not sent by then stays in the outbox.
DRAIN_SECONDS = 6.0


class StartRunOperator(IBKROperator):
    """Stores the effective configuration of the run and opens its MLflow run.

    :param config: the effective configuration (YAML merged with overrides), plain JSON types.
    :param config_hash: SHA-256 of its canonical form.
    """

    ui_color = "#eeeeee"

    def __init__(self, *, config: Mapping[str, Any], config_hash: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = dict(config)
        self.config_hash = config_hash

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """Return the run's configuration hash, for the record."""
        from airflow_ibkr_plugin import __version__
        from airflow_ibkr_plugin.store.runs import Runs
        from airflow_ibkr_plugin.tracking.records import begin_run

        at = datetime.now(UTC)
        dag_run = context["dag_run"]
        with self.database.write() as session:
            row, _ = Runs(session).get_or_create(
                run.dag_id,
                run.run_id,
                strategy=self.strategy,
                mode=self.config.get("mode", "paper"),
                config=self.config,
                config_hash=self.config_hash,
                started_at=at,
            )
            begin_run(
                session,
                row,
                params=flatten(self.config) | {"config_hash": self.config_hash},
                tags={
                    "ibkr.run_type": str(getattr(dag_run.run_type, "value", dag_run.run_type)),
                    "ibkr.mode": row.mode,
                    "ibkr.plugin_version": __version__,
                    "ibkr.airflow_url": run.log_url,
                },
                at=at,
            )
        _drain(self, run)
        return {"config_hash": self.config_hash}


class FinishRunOperator(IBKROperator):
    """Closes the record with the final status, by the states of the run's other tasks. Always a teardown.

    An order of the run that was reserved and never sent blocks the account's limits no longer.
    """

    ui_color = "#eeeeee"

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """Return the final status."""
        from airflow_ibkr_plugin.execution.summary import run_summary
        from airflow_ibkr_plugin.store.runs import Runs
        from airflow_ibkr_plugin.tracking.records import end_run, log_metrics, set_tags

        states = context["ti"].get_task_states(dag_id=run.dag_id, run_ids=[run.run_id]).get(run.run_id, {})
        failed = sorted(task for task, state in states.items() if state == "failed")
        status = "failed" if failed else "success"
        at = datetime.now(UTC)
        key = (run.dag_id, run.run_id)
        with self.database.read() as session:
            row = Runs(session).get(*key)
        if row is None:
            self.log.error("run %s was never opened, so there is no record to close: see start_run", run.run_id)
            return {"status": status, "failed": failed}
        self._release(row, at)
        with self.database.write() as session:
            row = Runs(session).finish(*key, status, at)
            metrics, tags = run_summary(session, *key)
            log_metrics(session, key, metrics | {"run/duration_s": (at - row.started_at).total_seconds()}, at)
            set_tags(session, key, tags | {"ibkr.failed_tasks": ", ".join(failed)}, at)
            end_run(session, key, "FAILED" if status == "failed" else "FINISHED", at)
        _drain(self, run)
        self.log.info("run %s ended: %s", run.run_id, status)
        return {"status": status, "failed": failed}

    def _release(self, row: Run, at: datetime) -> None:
        from airflow_ibkr_plugin.execution.summary import record_order
        from airflow_ibkr_plugin.store.intents import Intents

        with self.database.write() as session:
            released = Intents(session).release_unheld(row.source, row.account, now=at)
        for intent in released:
            self.log.warning("order %s for %s was never sent: it is released", intent.order_ref, intent.symbol)
            if (intent.dag_id, intent.run_id) == (row.dag_id, row.run_id):
                record_order(self.database, row.dag_id, row.run_id, intent.order_ref)


def _drain(operator: IBKROperator, run: TaskRun) -> None:
    """Send what waits in the outboxes, this run's first; a server that is down costs a bounded time and no record."""
    from airflow_ibkr_plugin import settings
    from airflow_ibkr_plugin.alerts.sender import deliver_due
    from airflow_ibkr_plugin.tracking.writer import drain

    options, now = settings.load(), datetime.now(UTC)
    for which in ({"dag_id": run.dag_id, "run_id": run.run_id}, {}):
        result = drain(operator.database, options.mlflow_tracking_uri, now=now, deadline_seconds=DRAIN_SECONDS, **which)
        if result.error:
            operator.log.warning("MLflow took %d records, %d wait: %s", result.sent, result.left, result.error)
            break
    alerts = deliver_due(operator.database, options.alert_urls, now=now)
    if alerts.error:
        operator.log.warning("%d alerts delivered, %d wait: %s", alerts.delivered, alerts.waiting, alerts.error)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` as `{"a.b": "1"}`, the form in which MLflow compares parameters."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
