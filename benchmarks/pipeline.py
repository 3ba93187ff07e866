"""Our pipeline DAG against a DAG of the same shape made of EmptyOperators: seconds that each task adds.

Both run by Airflow's `dag.test()` in one process, so that what is measured is our work in a task and not the start of
its process, which both kinds share. A real simulated gateway, a real MLflow server. Aim: at most 2 s a task.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from benchmarks.gateway import gateway

ROUNDS = 3


def main() -> None:
    """Start what the DAG needs, run the child that measures, print the table."""
    from airflow_ibkr_plugin.cli.local.layout import Layout, Ports
    from airflow_ibkr_plugin.cli.local.processes import commands
    from airflow_ibkr_plugin.cli.local.setup import prepare

    examples = Path(__file__).parents[1] / "example_configs"
    with tempfile.TemporaryDirectory() as folder, gateway() as port:
        ports = Ports.free()
        layout = Layout(home=Path(folder) / "home", ports=Ports(**{**vars(ports), "gateway": port}))
        prepare(layout, examples, lambda step: print(f"  {step} ...", flush=True))
        environment = os.environ | layout.environment()
        mlflow = subprocess.Popen(
            commands(layout)["mlflow"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait(f"http://127.0.0.1:{ports.mlflow}/health")
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.pipeline"],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        finally:
            mlflow.terminate()
            mlflow.wait()
    figures = json.loads(done.stdout.splitlines()[-1])
    ours, empty = (statistics.median(figures[name]) for name in ("ours", "empty"))
    print(f"{figures['tasks']} task instances: ours {ours:.1f} s, empty {empty:.1f} s (medians of {ROUNDS})")
    print(f"added per task: {(ours - empty) / figures['tasks']:.2f} s   aim: at most 2")


def _wait(url: str) -> None:
    direct = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + 120
    while True:
        try:
            direct.open(url, timeout=2).close()
            return
        except (URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def child() -> None:
    """Inside the prepared environment: run both DAGs in turn, print JSON."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG, task_group

    from airflow_ibkr_plugin import settings
    from airflow_ibkr_plugin.registry import get_registry
    from airflow_ibkr_plugin.workflows.builder import build_dag
    from airflow_ibkr_plugin.workflows.checks import Checker
    from airflow_ibkr_plugin.workflows.loader import load_file
    from airflow_ibkr_plugin.workflows.model import canonical

    file = settings.load().workflows_folder / "multi_symbol.yaml"
    (loaded,) = load_file(file, Checker(get_registry()))
    assert loaded.workflow is not None
    ours = build_dag(canonical(loaded.workflow.config), origin=file.name)

    class Empty(EmptyOperator):
        """With an argument to be mapped over; not the class itself, which Airflow would not run at all."""

        template_fields = ("symbol",)

        def __init__(self, *, symbol: object = None, **kwargs: object) -> None:
            super().__init__(**kwargs)
            self.symbol = symbol

    with DAG("empty", schedule=None) as empty:

        @task_group
        def symbol(symbol: object) -> None:
            last = None
            for name in ("market_data", "chart", "signal", "order"):
                task = Empty(task_id=name, symbol=symbol)
                if last is not None:
                    last >> task
                last = task

        first = Empty(task_id="start_run") >> Empty(task_id="market_open")
        group = symbol.expand(symbol=list(loaded.workflow.symbols))
        first >> group >> Empty(task_id="portfolio", trigger_rule="all_done") >> Empty(task_id="finish_run")

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(collect_dags=False)
    for dag in (ours, empty):
        bag.bag_dag(dag)
    sync_bag_to_db(bag, "ibkr", None)
    taken: dict[str, list[float]] = {"ours": [], "empty": []}
    count = 0
    for turn in range(ROUNDS + 1):
        for name, dag in (("ours", ours), ("empty", empty)):
            started = time.perf_counter()
            result = dag.test()
            if turn:
                taken[name].append(time.perf_counter() - started)
            assert str(result.state) == "success", name
            if name == "ours":
                count = len(result.get_task_instances())
    print(json.dumps(taken | {"tasks": count}))


if __name__ == "__main__":
    child()
