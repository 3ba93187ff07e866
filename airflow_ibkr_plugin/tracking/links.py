"""Addresses of MLflow's pages."""

from __future__ import annotations

from urllib.parse import quote


def run_url(ui_url: str, experiment_id: str, mlflow_run_id: str) -> str:
    """Address of a run's page in MLflow 3's UI.

    :param ui_url: where people open MLflow, `[ibkr] mlflow_ui_url`.
    """
    return f"{experiment_url(ui_url, experiment_id)}/{quote(mlflow_run_id, safe='')}"


def experiment_url(ui_url: str, experiment_id: str) -> str:
    """Address of the list of a strategy's runs in MLflow 3's UI."""
    return f"{ui_url.rstrip('/')}/#/experiments/{quote(experiment_id, safe='')}/runs"
