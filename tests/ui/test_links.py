from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from airflow_ibkr_plugin.links import MLflowRunLink
from airflow_ibkr_plugin.store.database import open_database
from airflow_ibkr_plugin.store.runs import Runs

pytestmark = pytest.mark.usefixtures("trading_database")


@pytest.fixture(autouse=True)
def mlflow_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__IBKR__MLFLOW_UI_URL", "https://mlflow.example.com")


def link(run_id: str) -> str:
    return MLflowRunLink().get_link(None, ti_key=SimpleNamespace(dag_id="d", run_id=run_id))


def test_the_link_opens_the_runs_mlflow_run() -> None:
    with open_database().write() as session:
        runs = Runs(session)
        runs.get_or_create(
            "d", "r", strategy="d", mode="paper", config={}, config_hash="0", started_at=datetime.now(UTC)
        )
        assert runs.set_mlflow("d", "r", "ibkr/d", "3", "abc")
    assert link("r") == "https://mlflow.example.com/#/experiments/3/runs/abc"


def test_a_run_that_is_not_ours_or_not_yet_tracked_has_no_link() -> None:
    assert link("unknown") == ""
