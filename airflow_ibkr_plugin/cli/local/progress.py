"""Drives the examples on a started installation and prints what came of them; runs under the supervisor."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from airflow_ibkr_plugin.cli.local.airflow_api import AirflowAPI, seconds_until_next_run
from airflow_ibkr_plugin.cli.local.layout import ADMIN, Layout, Ports
from airflow_ibkr_plugin.cli.local.report import Row, describe_run, table

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models import LeaderRow

# Two busy cores need about 20 s for Airflow to start and 30 to 90 s for a run of six tasks.
START_SECONDS = 240
RUNS_SECONDS = 900
# A strategy whose schedule fires within this time is left to its schedule; the others are triggered.
OWN_SCHEDULE_SECONDS = 600
ENDED = ("success", "failed")


class Unfinished(Exception):
    """Something did not come about in its time."""


def wait_for(what: str, ready: Callable[[], Any], seconds: float) -> Any:
    """Ask every second until the answer is true, and return it.

    :raises Unfinished: it was not within that many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (answer := ready()):
        if time.monotonic() > deadline:
            raise Unfinished(f"{what}: not within {seconds:.0f} s")
        time.sleep(1)
    return answer


def move_clock_into_session(control_port: int) -> str:
    """Set the simulated clock to the next session's first hour if it stands outside of one; tell what it says."""
    from airflow_ibkr_plugin.trading.market_hours import is_open, next_open

    now = datetime.fromisoformat(_control(control_port, {"cmd": "clock"})["now"])
    if not is_open(None, now, calendar="XNYS"):
        opening = next_open(None, now, calendar="XNYS")
        assert opening is not None, "XNYS always opens again"
        now = opening + timedelta(hours=1)
        _control(control_port, {"cmd": "clock", "set": now.isoformat()})
    return f"{now:%a %Y-%m-%d %H:%M %Z}"


def _control(port: int, command: dict[str, Any]) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(json.dumps(command).encode() + b"\n")
        with connection.makefile() as stream:
            answer: dict[str, Any] = json.loads(stream.readline())
    if not answer["ok"]:
        raise Unfinished(f"the simulated gateway refused {command}: {answer['error']}")
    return answer


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _leader(database: Database) -> LeaderRow | None:
    """Which service leads now."""
    from airflow_ibkr_plugin.store.leaders import SERVICE, Leaders

    with database.read() as session:
        return Leaders(session).current(SERVICE, datetime.now(UTC))


def start_runs(api: AirflowAPI, dag_ids: list[str]) -> list[str]:
    """Unpause all; trigger each that has no run yet and will not soon run by its own schedule. Return the scheduled."""
    known = {dag["dag_id"]: dag for dag in api.dags()}
    scheduled = []
    for dag_id in dag_ids:
        due = seconds_until_next_run(known[dag_id])
        api.unpause(dag_id)
        if due is not None and due < OWN_SCHEDULE_SECONDS:
            scheduled.append(dag_id)
        elif not api.runs(dag_id):
            api.trigger(dag_id)
    return scheduled


def watch_runs(api: AirflowAPI, dag_ids: list[str]) -> dict[str, dict[str, Any]]:
    """Wait until each strategy has a run that ended, saying so as it goes; return that run of each."""
    ended: dict[str, dict[str, Any]] = {}

    def all_ended() -> bool:
        for dag_id in dag_ids:
            if dag_id in ended:
                continue
            finished = [run for run in api.runs(dag_id) if run["state"] in ENDED]
            if finished:
                ended[dag_id] = finished[0]
                print(f"  {dag_id}: {finished[0]['state']} ({finished[0]['run_type']} run)", flush=True)
        return len(ended) == len(dag_ids)

    wait_for("the example runs", all_ended, RUNS_SECONDS)
    return ended


def main() -> int:
    """Entry point: 0 when, in smoke mode, every example did what a good run does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("run", "smoke"))
    parser.add_argument("home", type=Path)
    for name in Ports.VARIABLES:
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    ports = Ports(**{name: getattr(options, name) for name in Ports.VARIABLES})
    layout = Layout(home=options.home, ports=ports)
    try:
        rows, faults = drive(layout, smoke=options.mode == "smoke")
    except (Unfinished, httpx.HTTPError) as error:
        print(f"\nNot finished: {error}. Logs: {layout.logs}", flush=True)
        rows, faults = [], [str(error)]
    for row in rows:
        faults += [f"{row.strategy}: {fault}" for fault in row.faults]
    if options.mode == "smoke":
        print("\n".join(["", *(f"FAULT {fault}" for fault in faults)]) if faults else "\nsmoke: all well", flush=True)
        return 1 if faults else 0
    print("\n".join(f"  note: {fault}" for fault in faults), flush=True)
    print(f"\nAirflow   {layout.airflow_url}   login {ADMIN} / {layout.secrets()['password']}")
    print(f"Strategies {layout.airflow_url}/plugin/ibkr-strategies")
    print(f"MLflow    {layout.mlflow_url}")
    print(f"Workflows {layout.workflows} (edit or add a YAML file, and its DAG follows)\nCtrl-C stops.", flush=True)
    signal.pause()
    return 0


def drive(layout: Layout, *, smoke: bool) -> tuple[list[Row], list[str]]:
    """Start the examples, wait for them, print the table. Returns its rows, and faults that belong to no row."""
    from mlflow.tracking import MlflowClient

    from airflow_ibkr_plugin.store.database import open_database

    wait_for("the simulated gateway", lambda: _listens(layout.ports.control), START_SECONDS)
    clock = move_clock_into_session(layout.ports.control)
    print(f"  simulated gateway up; its clock says {clock}", flush=True)
    wait_for("MLflow", lambda: _answers(f"http://127.0.0.1:{layout.ports.mlflow}/health"), START_SECONDS)
    print("  MLflow up", flush=True)
    api = AirflowAPI(f"http://127.0.0.1:{layout.ports.airflow}", ADMIN, layout.secrets()["password"])
    wait_for("Airflow", api.healthy, START_SECONDS)
    api.log_in()
    print("  Airflow up", flush=True)
    leader = wait_for("the service", lambda: _leader(open_database()), START_SECONDS)
    print(f"  service up; it leads since {leader.since:%H:%M:%S %Z}", flush=True)
    expected = len(list(layout.workflows.glob("*.yaml")))
    wait_for("DAGs", lambda: len(api.dags()) + len(api.import_errors()) >= expected, START_SECONDS)
    faults = [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in api.import_errors()]
    dag_ids = sorted(dag["dag_id"] for dag in api.dags())
    scheduled = start_runs(api, dag_ids)
    print(f"  {len(dag_ids)} strategies unpaused; by its own schedule: {', '.join(scheduled) or 'none'}", flush=True)
    ended = watch_runs(api, dag_ids)
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{layout.ports.mlflow}")
    rows = []
    for dag_id in dag_ids:
        tasks = api.task_instances(dag_id, ended[dag_id]["dag_run_id"])
        trades = any(task["operator_name"] == "OrderOperator" for task in tasks)
        rows.append(describe_run(open_database(), client, dag_id, ended[dag_id], trades=trades))
    print(f"\n{table(rows)}\n", flush=True)
    if any(row.simulated_clock for row in rows):
        print("All on a simulated gateway with a simulated clock: no market, no money. Signals by rules, not an LLM.")
    if smoke and not any(row.started_by == "scheduled" for row in rows):
        faults.append("no run was created by its schedule")
    return rows, faults


if __name__ == "__main__":
    sys.exit(main())
