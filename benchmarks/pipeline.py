"""Our pipeline DAG against a DAG of the same shape made of EmptyOperators: seconds that each task adds to a run.

Both in one real Airflow (scheduler, LocalExecutor, a process for each of our tasks) with a real MLflow server and a
simulated gateway, in turn. Airflow never sends an EmptyOperator to a worker, so starting our processes counts as ours.
Aim: at most 2 s a task.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from airflow_ibkr_plugin.cli.local.airflow_api import AirflowAPI
from airflow_ibkr_plugin.cli.local.layout import ADMIN, Layout, Ports
from airflow_ibkr_plugin.cli.local.processes import commands
from airflow_ibkr_plugin.cli.local.progress import ENDED, START_SECONDS, wait_for
from airflow_ibkr_plugin.cli.local.setup import prepare

ROUNDS = 3
OURS, EMPTY = "multi_symbol", "empty"
EXAMPLES = Path(__file__).parents[1] / "example_configs"
EMPTY_DAG = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task_group, chain

class Mapped(EmptyOperator):
    template_fields = ("symbol",)

    def __init__(self, *, symbol=None, **kwargs):
        super().__init__(**kwargs)
        self.symbol = symbol

with DAG("empty", schedule=None):
    @task_group
    def symbol(symbol):
        chain(*[Mapped(task_id=name, symbol=symbol) for name in ("market_data", "chart", "signal", "order")])

    before = EmptyOperator(task_id="start_run") >> EmptyOperator(task_id="market_open")
    after = EmptyOperator(task_id="portfolio", trigger_rule="all_done")
    before >> symbol.expand(symbol=["AAPL", "MSFT", "IBM"]) >> after
    after >> EmptyOperator(task_id="all_succeeded") >> EmptyOperator(task_id="finish_run")
"""


def main() -> None:
    """Start everything, run both DAGs in turn, print the table."""
    with tempfile.TemporaryDirectory() as folder, _installation(Path(folder)) as layout:
        api = AirflowAPI(f"http://127.0.0.1:{layout.ports.airflow}", ADMIN, layout.secrets()["password"])
        wait_for("Airflow", api.healthy, START_SECONDS)
        api.log_in()
        wait_for("DAGs", lambda: {OURS, EMPTY} <= {dag["dag_id"] for dag in api.dags()}, START_SECONDS)
        taken: dict[str, list[float]] = {OURS: [], EMPTY: []}
        for dag_id in taken:
            api.unpause(dag_id)
        for turn in range(ROUNDS + 1):
            for dag_id, seconds in taken.items():
                duration = _run(api, dag_id)
                if turn:
                    seconds.append(duration)
        tasks = len(api.task_instances(OURS, api.runs(OURS)[0]["dag_run_id"]))
    ours, empty = (statistics.median(taken[name]) for name in (OURS, EMPTY))
    print(f"{tasks} task instances: ours {ours:.1f} s, empty {empty:.1f} s (medians of {ROUNDS} runs)")
    print(f"added per task: {(ours - empty) / tasks:.2f} s   aim: at most 2")


def _run(api: AirflowAPI, dag_id: str) -> float:
    """Trigger one run, wait for its end, return its duration in seconds."""
    before = len(api.runs(dag_id))
    api.trigger(dag_id)

    def ended() -> dict[str, str] | None:
        runs = api.runs(dag_id)
        return runs[0] if len(runs) > before and runs[0]["state"] in ENDED else None

    run = wait_for(dag_id, ended, 600)
    assert run["state"] == "success", f"{dag_id} {run['dag_run_id']} ended {run['state']}"
    return (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()


@contextmanager
def _installation(folder: Path) -> Iterator[Layout]:
    """A started installation with one example and the DAG of EmptyOperators; ended afterwards."""
    layout = Layout(home=folder / "home", ports=Ports.free())
    examples = folder / "examples"
    examples.mkdir()
    # No limit on orders a day: each round is a run that orders.
    text = (EXAMPLES / f"{OURS}.yaml").read_text().replace("orders_per_day: {max: 6}", "orders_per_day: {max: 1000}")
    (examples / f"{OURS}.yaml").write_text(text.replace("position_size: {max_notional: 40000}", ""))
    prepare(layout, examples, lambda step: print(f"  {step} ...", flush=True))
    (layout.home / "dags" / "empty.py").write_text(EMPTY_DAG)
    environment = os.environ | layout.environment()
    bundles = json.loads(environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    bundles.append({"name": "dags", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}})
    environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = json.dumps(bundles)
    processes = []
    try:
        for name, command in commands(layout).items():
            with (layout.logs / f"{name}.log").open("w") as log:
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        yield layout
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=60)
