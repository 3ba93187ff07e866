"""Airflow callbacks. The DAG's own failure callback is the one that runs even when a task's process was killed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote


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
    dag_id, run_id = context["dag"].dag_id, context["run_id"]
    states = _task_states(context, dag_id, run_id)
    with database.read() as session:
        run = Runs(session).get(dag_id, run_id)
        strategy = run.strategy if run else dag_id
        mlflow_url = ""
        if run and run.mlflow_run_id and run.mlflow_experiment_id:
            mlflow_url = run_url(options.mlflow_ui_url, run.mlflow_experiment_id, run.mlflow_run_id)
        # A try that failed and was made good by the next one has failed nothing.
        tries = {
            (f.task_id, f.map_index): f.try_number
            for f in Failures(session).for_run(dag_id, run_id)
            if f.task_id and states.get((f.task_id, f.map_index)) != "success"
        }
    # What was killed could record no error, and is not in `tries`.
    failed = [*tries, *(task for task, state in states.items() if state == "failed" and task not in tries)]
    where = None
    if tries:
        task, try_number = list(tries.items())[-1]
        where = (*task, try_number)
    elif failed and (ti := context.get("ti")):
        where = (ti.task_id, ti.map_index if ti.map_index is not None else -1, ti.try_number)
    run_failed(
        database,
        options,
        dag_id=dag_id,
        run_id=run_id,
        strategy=strategy,
        reason=str(context.get("reason") or "task_failure"),
        failed_tasks=[f"{task_id}[{index}]" if index >= 0 else task_id for task_id, index in failed],
        log_tail=read_tail(dag_id, run_id, *where) if where else "",
        airflow_url=run_page(options.airflow_base_url, dag_id, run_id),
        mlflow_url=mlflow_url,
        at=datetime.now(UTC),
    )


def run_page(base_url: str, dag_id: str, run_id: str) -> str:
    """Address of a run's page in Airflow. A run id is free text: a person may give one with a slash or a blank."""
    return f"{base_url}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def _task_states(context: Any, dag_id: str, run_id: str) -> dict[tuple[str, int], str]:
    """(task id, map index, -1 where not mapped) -> state, by Airflow; empty where there is nobody to ask.

    `dag.test()` calls back outside any supervisor, and Airflow leaves the task out where none could be blamed.
    """
    from airflow.sdk.execution_time import task_runner

    if "ti" not in context or not hasattr(task_runner, "SUPERVISOR_COMMS"):
        return {}
    states = {}
    for name, state in context["ti"].get_task_states(dag_id=dag_id, run_ids=[run_id]).get(run_id, {}).items():
        # Airflow writes a mapped task's instance as `task_3`.
        task_id, _, index = name.rpartition("_")
        mapped = index.isdigit() and not context["dag"].has_task(name)
        states[(task_id, int(index)) if mapped else (name, -1)] = str(state)
    return states
