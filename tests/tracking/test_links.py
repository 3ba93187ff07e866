from __future__ import annotations

from airflow_ibkr_plugin.tracking.links import experiment_url, run_url


def test_addresses() -> None:
    assert run_url("http://mlflow:5500/", "7", "abc") == "http://mlflow:5500/#/experiments/7/runs/abc"
    assert experiment_url("https://host/mlflow", "7") == "https://host/mlflow/#/experiments/7/runs"
