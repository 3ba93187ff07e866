"""What `make smoke` accepts, and that it accepts nothing less. MLflow is real, on a database file."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.cli.local.report import describe_run, table
from airflow_ibkr_plugin.store.charts import Charts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.store.signals import Signals
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState

AT = datetime(2018, 6, 13, 14, 30, tzinfo=UTC)
KEY: dict[str, Any] = {"dag_id": "d", "run_id": "r"}
RUN = {"dag_run_id": "r", "run_type": "manual", "state": "success"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("ibkr/d", artifact_location=f"file://{folder / 'artifacts'}")
    return client


@pytest.fixture
def database(trading_database: Database) -> Database:
    """The installation's trading database."""
    return trading_database


def fill(
    database: Database, client: Any, tmp_path: Path, *, action: str = "hold", without: str = "", ended: bool = True
) -> None:
    """Leave behind what a good run does, less one thing."""
    experiment = client.get_experiment_by_name("ibkr/d").experiment_id
    run_id = client.create_run(experiment).info.run_id
    if without != "params":
        client.log_param(run_id, "mode", "paper")
    if without != "metrics":
        client.log_metric(run_id, "run/signals", 1)
    picture = tmp_path / ("chart.txt" if without == "chart artifact" else "chart.png")
    picture.write_bytes(b"png")
    client.log_artifact(run_id, str(picture), "charts")
    if ended:
        client.set_terminated(run_id)
    with database.write() as session:
        Runs(session).get_or_create(
            **KEY, strategy="d", mode="paper", config={}, config_hash="0", simulated_clock=True, started_at=AT
        )
        if without != "MLflow run":
            Runs(session).set_mlflow(**KEY, experiment="ibkr/d", experiment_id=experiment, mlflow_run_id=run_id)
        of_symbol = {**KEY, "symbol": "SPY", "con_id": 1, "source": "simulator:x", "created_at": AT}
        if without != "chart":
            Charts(session).add(
                **of_symbol, task_id="c", url="u", sha256="0", size_bytes=1, width=1, height=1, bar_size="1 day",
                first_bar=AT, last_bar=AT, indicators=[],
            )  # fmt: skip
        if without != "signal":
            Signals(session).add(
                **of_symbol, task_id="s", strategy="d", action=action, confidence=0.5, entry=None, stop=None,
                target=None, horizon_days=None, rationale="", analyst="rules", model="m", is_llm=False,
                prompt_name="p", prompt_version="1", prompt_sha256="0", chart_id=None, as_of=AT, raw="", usage={},
            )  # fmt: skip


def test_a_good_run_has_no_fault(database: Database, client: Any, tmp_path: Path) -> None:
    fill(database, client, tmp_path)
    row = describe_run(database, client, "d", RUN, trades=True)
    assert row.faults == []
    assert row.simulated_clock
    assert "SPY hold 0.50" in table([row])


@pytest.mark.parametrize("missing", ["params", "metrics", "chart artifact", "MLflow run", "chart", "signal"])
def test_whatever_is_missing_is_a_fault(database: Database, client: Any, tmp_path: Path, missing: str) -> None:
    fill(database, client, tmp_path, without=missing)
    (fault,) = describe_run(database, client, "d", RUN, trades=True).faults
    assert missing.split()[0] in fault


def test_a_signal_to_trade_without_a_fill_is_a_fault(database: Database, client: Any, tmp_path: Path) -> None:
    fill(database, client, tmp_path, action="buy")
    assert describe_run(database, client, "d", RUN, trades=True).faults == ["neither filled nor hold: SPY"]
    assert describe_run(database, client, "d", RUN, trades=False).faults == []


@pytest.mark.parametrize(("last", "faults"), [("working", ["neither filled nor hold: SPY"]), ("filled", [])])
def test_an_order_counts_when_it_is_filled(
    database: Database, client: Any, tmp_path: Path, last: str, faults: list[str]
) -> None:
    fill(database, client, tmp_path, action="buy")
    with database.write() as session:
        intent, _ = Intents(session).get_or_create(
            IntentKey(installation="i", task_id="order", con_id=1, **KEY), strategy="d", source="simulator:x",
            account="DU1", mode="paper", symbol="SPY", instrument={}, side="BUY", quantity=Decimal(10),
            requested_quantity=Decimal(10), order_type="MKT", tif="DAY", currency="USD", created_at=AT,
        )  # fmt: skip
        for state in ("reserved", "sending", last):
            Intents(session).transition(intent, IntentState(state), at=AT, reason="test")
    row = describe_run(database, client, "d", RUN, trades=True)
    assert (row.faults, row.orders) == (faults, [f"SPY BUY 10 {last}"])


def test_a_failed_or_unfinished_run_is_a_fault(database: Database, client: Any, tmp_path: Path) -> None:
    fill(database, client, tmp_path, ended=False)
    faults = describe_run(database, client, "d", {**RUN, "state": "failed"}, trades=True).faults
    assert faults == ["run ended failed", "MLflow run is RUNNING"]
