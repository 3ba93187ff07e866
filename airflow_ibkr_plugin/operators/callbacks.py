"""Airflow callbacks. The DAG's own failure callback is the one that runs even when a task's process was killed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def alert_on_failure(context: Any) -> None:
    """Store and send the alert that a run has failed after its last retry. Runs in the dag-processor."""
    from airflow_ibkr_plugin import settings
    from airflow_ibkr_plugin.alerts.failures import run_failed
    from airflow_ibkr_plugin.operators.log_tail import read_tail
    from airflow_ibkr_plugin.store.database import open_database
    from airflow_ibkr_plugin.store.failures import Failures
    from airflow_ibkr_plugin.store.runs import Runs
    from airflow_ibkr_plugin.tracking.links import run_url

    options = settings.load()
    database = open_database()
    dag_run = context["dag_run"]
    dag_id, run_id = dag_run.dag_id, dag_run.run_id
    with database.read() as session:
        run = Runs(session).get(dag_id, run_id)
        strategy = run.strategy if run else dag_id
        mlflow_url = ""
        if run and run.mlflow_run_id and run.mlflow_experiment_id:
            mlflow_url = run_url(options.mlflow_ui_url, run.mlflow_experiment_id, run.mlflow_run_id)
        failures = [f for f in Failures(session).for_run(dag_id, run_id) if f.task_id]
        failed = {(f.task_id, f.map_index): f for f in failures}
        last = failures[-1] if failures else None
        where = (last.task_id, last.map_index, last.try_number) if last else None
        tasks = [f"{f.task_id}[{f.map_index}]" if f.map_index >= 0 else f.task_id for f in failed.values()]
    tail = read_tail(dag_id, run_id, *where) if where else ""
    run_failed(
        database,
        options,
        dag_id=dag_id,
        run_id=run_id,
        strategy=strategy,
        reason=str(context.get("reason") or "task_failure"),
        failed_tasks=tasks,
        log_tail=tail,
        airflow_url=f"{options.airflow_base_url}/dags/{dag_id}/runs/{run_id}",
        mlflow_url=mlflow_url,
        at=datetime.now(UTC),
    )
