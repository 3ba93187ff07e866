"""Links that Airflow shows beside a task instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey


class MLflowRunLink(BaseOperatorLink):
    """Opens the MLflow run of the task instance's DAG run. Asked for in the api-server, so that it is never stale."""

    name = "MLflow run"

    def get_link(self, operator: object, *, ti_key: TaskInstanceKey) -> str:
        """The URL; '' where the DAG run has no MLflow run."""
        from airflow_ibkr_plugin import settings
        from airflow_ibkr_plugin.store.database import open_database
        from airflow_ibkr_plugin.store.runs import Runs
        from airflow_ibkr_plugin.tracking.links import run_url

        with open_database().read() as session:
            run = Runs(session).get(ti_key.dag_id, ti_key.run_id)
            if run is None or not run.mlflow_run_id or not run.mlflow_experiment_id:
                return ""
            return run_url(settings.load().mlflow_ui_url, run.mlflow_experiment_id, run.mlflow_run_id)
