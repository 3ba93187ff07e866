"""What came of the example runs, read back from the trading database and from MLflow, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun
    from mlflow.tracking import MlflowClient

    from airflow_ibkr_plugin.store.database import Database


@dataclass(kw_only=True)
class Row:
    """One strategy's line in the table.

    :param faults: what a smoke run must not accept; empty when all is well.
    """

    strategy: str
    run_id: str
    started_by: str
    state: str
    signals: list[str] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    fills: list[str] = field(default_factory=list)
    mlflow: str = ""
    simulated_clock: bool = False
    faults: list[str] = field(default_factory=list)


def describe_run(database: Database, client: MlflowClient, dag_id: str, run: dict[str, str], *, trades: bool) -> Row:
    """Collect one run's line and hold it against what a good run leaves behind.

    :param run: the DAG run as Airflow's REST API gives it.
    :param trades: whether the workflow has an order task; one that only observes has nothing to fill.
    """
    from airflow_ibkr_plugin.store.charts import Charts
    from airflow_ibkr_plugin.store.executions import Executions
    from airflow_ibkr_plugin.store.intents import Intents
    from airflow_ibkr_plugin.store.runs import Runs
    from airflow_ibkr_plugin.store.signals import Signals

    run_id = run["dag_run_id"]
    row = Row(strategy=dag_id, run_id=run_id, started_by=run["run_type"], state=run["state"])
    if row.state != "success":
        row.faults.append(f"run ended {row.state}")
    with database.read() as session:
        stored = Runs(session).get(dag_id, run_id)
        signals = Signals(session).for_run(dag_id, run_id)
        intents = Intents(session).for_run(dag_id, run_id)
        fills = Executions(session).for_run(dag_id, run_id)
        row.signals = [f"{s.symbol} {s.action} {s.confidence:.2f}" for s in signals]
        row.orders = [f"{i.symbol} {i.side} {i.quantity:f} {i.state}" for i in intents]
        row.fills = [f"{f.symbol} {f.quantity:f} @ {f.price:f}" for f in fills]
        row.simulated_clock = bool(stored and stored.simulated_clock)
        if not signals:
            row.faults.append("no signal in the trading database")
        done = {i.symbol for i in intents if i.state == "filled"} | {s.symbol for s in signals if s.action == "hold"}
        if trades and (open_ := sorted({s.symbol for s in signals} - done)):
            row.faults.append(f"neither filled nor hold: {', '.join(open_)}")
        charts = len(Charts(session).for_run(dag_id, run_id))
        mlflow_run_id = stored.mlflow_run_id if stored else None
    if not charts:
        row.faults.append("no chart in the trading database")
    if mlflow_run_id is None:
        row.faults.append("no MLflow run")
    else:
        mlflow_run = client.get_run(mlflow_run_id)
        row.mlflow = mlflow_run.info.status
        row.faults += _mlflow_faults(client, mlflow_run)
    return row


def _mlflow_faults(client: MlflowClient, run: MLflowRun) -> list[str]:
    faults = []
    if run.info.status != "FINISHED":
        faults.append(f"MLflow run is {run.info.status}")
    if not run.data.params:
        faults.append("MLflow run without params")
    if not run.data.metrics:
        faults.append("MLflow run without metrics")
    if not any(artifact.path.endswith(".png") for artifact in client.list_artifacts(run.info.run_id, "charts")):
        faults.append("MLflow run without its chart")
    return faults


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one line a strategy."""
    head = ("strategy", "run", "started by", "signal", "order", "fill", "MLflow")
    body = [
        (
            row.strategy,
            row.state,
            row.started_by,
            "; ".join(row.signals) or "-",
            "; ".join(row.orders) or "-",
            "; ".join(row.fills) or "-",
            row.mlflow or "-",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, rule, *body)
    )
