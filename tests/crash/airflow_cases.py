"""Cases in a real Airflow: scheduler, LocalExecutor, api-server, and the Task SDK's supervisor over every try.

The tries are made, found dead and made again by Airflow alone. The scheduler finds a task whose supervisor was killed
by its heartbeat.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airflow_tasks import BOTH, DAG_ID, SUPERVISOR, TASK
from boundaries import COMMIT, PLACED, SEND
from cases import INSTANT, SCENARIOS, Clean, Kill, Scenario
from faults import FAULTS, NO_FAULT, Fault
from floor import Floor, upstream
from verdict import UNFINISHED, Result, judge, judge_exits

from airflow_ibkr_plugin.trading.orders import IntentKey

RUN_ID = "crash"
# Tasks at work at once: each is two processes.
_PARALLEL = 4
_ENOUGH_SECONDS = 1500.0
_ENDED = ("success", "failed", "upstream_failed", "skipped", "removed")
# A fault that is armed for one order alone: tasks share the gateway here.
_FAULTS = tuple(fault for fault in FAULTS if fault is NO_FAULT or (fault.armed and fault.of_order))
# Long enough to be alive still when the scheduler has missed its supervisor and runs the next try.
_WAITS = Scenario("waits", "AAPL", {**SCENARIOS[1].operator, "wait_seconds": 20.0})
# A contract has at most 20 orders on a side, and those of a bracket stay until all cases have ended.
_SCENARIOS = tuple(scenario for scenario in SCENARIOS for _ in range(1 if scenario.bracket else 2))

_DAG_FILE = """\
import sys
from pathlib import Path

sys.path.insert(0, {suite!r})
from airflow_tasks import make_dag

dag = make_dag(Path({plan!r}))
"""


@dataclass(frozen=True)
class AirflowCase:
    """:param whom: is killed: the task, its supervisor, or both. :param kills: of the first tries."""

    number: int
    scenario: Scenario
    fault: Fault
    whom: str
    kills: tuple[Kill, ...]

    @property
    def task_id(self) -> str:
        return f"order_{self.number:03}"

    @property
    def strategy(self) -> str:
        """A bracket's is its own, and is closed when it was judged."""
        return self.task_id if self.scenario.bracket else DAG_ID

    @property
    def row(self) -> str:
        """The table's row that it counts in."""
        return f"Airflow, {self.whom} killed"

    def __str__(self) -> str:
        return (
            f"Airflow's case {self.number}: {self.scenario.name}, {self.fault.name}, {self.whom} killed"
            f" {', '.join(map(str, self.kills))}"
        )


def make_airflow_cases(number: int, seed: int) -> list[AirflowCase]:
    """Of four cases two lose the task, one the supervisor, one both."""
    chance = random.Random(f"airflow {seed}")
    cases = []
    for n in range(number):
        whom = (TASK, SUPERVISOR, TASK, BOTH)[n % 4]
        fault = NO_FAULT if whom == SUPERVISOR else _FAULTS[n % len(_FAULTS)]
        scenario = _WAITS if whom == SUPERVISOR else chance.choice(_SCENARIOS)
        count = chance.choice((1, 2)) if whom == TASK else 1
        kills = tuple(_kill(chance, instant=whom == TASK) for _ in range(count))
        cases.append(AirflowCase(n + 1, scenario, fault, whom, kills))
    return cases


def _kill(chance: random.Random, *, instant: bool) -> Kill:
    if instant and chance.random() < 0.3:
        return Kill(INSTANT, 2.0 * chance.random())
    return Kill(chance.choice((COMMIT, SEND, PLACED)), chance.random(), after=chance.random() < 0.5)


def run_in_airflow(floor: Floor, cases: list[AirflowCase]) -> Iterator[Result]:
    """Run the cases on an Airflow of their own, and give it up."""
    home = Path(os.environ["AIRFLOW_HOME"]) / "under-supervisor"
    (home / "dags").mkdir(parents=True)
    (home / "notes").mkdir()
    plan = home / "plan.json"
    plan.write_text(json.dumps(_plan(floor, cases)))
    (home / "dags" / "crash.py").write_text(_DAG_FILE.format(suite=str(Path(__file__).parent), plan=str(plan)))
    for case in cases:
        for command in case.fault.armed:
            floor.gateway.control(**command, order_ref=_order_ref(floor, case))
    environment = os.environ | _settings(home)
    with (home / "processes.log").open("wb") as log, _airflow(environment, log):
        states = _wait(home / "airflow.db", {case.task_id for case in cases})
        _wait_for_orphans(home / "notes")
    floor.gateway.control(cmd="disarm")
    for case in cases:
        killed = len(list((home / "notes").glob(f"{case.task_id}.*.{case.whom}")))
        found, facts = judge(floor.database, floor.gateway, _order_ref(floor, case))
        if not found and case.scenario.bracket:
            found, facts = judge_exits(floor.database, floor.gateway, _order_ref(floor, case))
            floor.close(case.strategy)
        if not found and states[case.task_id] != "success":
            found = UNFINISHED
        text = f"{found}: {case}\n  Airflow says {states[case.task_id]}; {facts}" if found else ""
        yield Result(case.row, killed, True, found, text)
    shutil.rmtree(home)


def _order_ref(floor: Floor, case: AirflowCase) -> str:
    con_id = floor.instrument(case.scenario.symbol).con_id
    key = IntentKey(installation=floor.installation, dag_id=DAG_ID, run_id=RUN_ID, task_id=case.task_id, con_id=con_id)
    return key.order_ref


def _plan(floor: Floor, cases: list[AirflowCase]) -> dict[str, Any]:
    signals = {case.scenario.symbol: upstream(case.scenario, floor.instrument(case.scenario.symbol)) for case in cases}
    given = [
        {
            "task_id": case.task_id,
            "symbol": case.scenario.symbol,
            "strategy": case.strategy,
            "operator": case.scenario.operator,
            "kills": [_given(kill, case.whom, floor.clean_of(case.scenario)) for kill in case.kills],
        }
        for case in cases
    ]
    return {"signals": signals, "cases": given}


def _given(kill: Kill, whom: str, clean: Clean) -> dict[str, Any]:
    trigger = kill.trigger(clean)
    return {"whom": whom, "seconds": kill.seconds(clean), "trigger": trigger and asdict(trigger)}


def _settings(home: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "CORE__PARALLELISM": str(_PARALLEL),
        "CORE__DAGS_FOLDER": str(home / "dags"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": "of the crash suite alone, for an hour and no longer",
        "LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        # A supervisor that is gone is missed after so long, not after five minutes.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    return {"AIRFLOW_HOME": str(home)} | {f"AIRFLOW__{name}": value for name, value in settings.items()}


@contextmanager
def _airflow(environment: dict[str, str], log: Any) -> Iterator[None]:
    """An Airflow that has begun the run."""
    command = str(Path(sys.executable).with_name("airflow"))
    running = list[subprocess.Popen[bytes]]()

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([command, *arguments], env=environment, stdout=log, stderr=log, start_new_session=True)

    def do(*arguments: str) -> None:
        assert start(*arguments).wait() == 0, f"airflow {' '.join(arguments)}: {Path(log.name).read_text()[-3000:]}"

    do("db", "migrate")
    try:
        running.append(start("api-server"))
        do("dags", "reserialize")
        do("dags", "trigger", DAG_ID, "--run-id", RUN_ID)
        _wait_for_port(int(environment["AIRFLOW__API__PORT"]), running[0])
        running.append(start("scheduler", "--skip-serve-logs"))
        yield
        assert all(process.poll() is None for process in running), Path(log.name).read_text()[-3000:]
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert server.poll() is None, "the api-server has ended"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "no api-server"
            time.sleep(0.2)
        else:
            return


def _wait(database: Path, tasks: set[str]) -> dict[str, str]:
    """The state of each task, once all have ended or there was time enough."""
    deadline = time.monotonic() + _ENOUGH_SECONDS
    while True:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
        rows = connection.execute("SELECT task_id, state FROM task_instance WHERE run_id = ?", (RUN_ID,)).fetchall()
        connection.close()
        states = {task: str(state) for task, state in rows if task in tasks}
        if (tasks <= states.keys() and all(s in _ENDED for s in states.values())) or time.monotonic() > deadline:
            return states
        time.sleep(0.5)


def _wait_for_orphans(notes: Path) -> None:
    """Tasks whose supervisor was killed live on: until their order has ended, or they want to tell it so."""
    deadline = time.monotonic() + 60
    for note in notes.glob("*.pid"):
        while Path(f"/proc/{note.read_text()}").exists():
            assert time.monotonic() < deadline, f"{note.name} lives on"
            time.sleep(0.2)
