"""What the DAG file of the cases under Airflow's own supervisor holds: order tasks that are killed while they run.

Airflow reads it in the scheduler's installation and in every task's process. A task's `pre_execute`, Airflow's own
hook, arms the kill of this try; everything else is the product's.
"""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator
from boundaries import Boundaries, Trigger, die

from airflow_ibkr_plugin.broker import connect
from airflow_ibkr_plugin.execution import lease, recover, settle
from airflow_ibkr_plugin.operators.order import OrderOperator
from airflow_ibkr_plugin.operators.retry import FamilyRetryPolicy

DAG_ID = "crash_airflow"
RETRIES = 10
TASK, SUPERVISOR, BOTH = "task", "supervisor", "both"

# As in prepare(): the gateway is on this machine. Leases run out by themselves here, and so they are short.
recover.SETTLE_SECONDS, settle.CANCEL_SECONDS = 0.3, 3.0
lease.LEASE_SECONDS, connect.LEASE_SECONDS, connect.RENEW_SECONDS = 6.0, 6.0, 2.0


class GivenSignal(BaseOperator):
    """Returns what a signal task would."""

    def __init__(self, *, given: dict[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.given = given

    def execute(self, context: Any) -> dict[str, Any]:
        return self.given


def make_dag(plan: Path) -> DAG:
    """One order task for each case of the plan, and the signals that they act on."""
    read = json.loads(plan.read_text())
    with DAG(
        DAG_ID,
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        is_paused_upon_creation=False,
        default_args={"retries": RETRIES, "retry_delay": timedelta(seconds=1), "retry_policy": FamilyRetryPolicy()},
    ) as dag:
        signals = {
            symbol: GivenSignal(task_id=f"signal_{symbol}", given=given) for symbol, given in read["signals"].items()
        }
        for case in read["cases"]:
            signal_task = signals[case["symbol"]]
            signal_task >> OrderOperator(
                task_id=case["task_id"],
                strategy=case["strategy"],
                symbol=case["symbol"],
                signal_task=signal_task.task_id,
                pre_execute=partial(arm, kills=case["kills"], notes=str(plan.parent / "notes")),
                **case["operator"],
            )
    return dag


def arm(context: Any, *, kills: list[dict[str, Any]], notes: str) -> None:
    """Arm the kill of this try, if it has one, and note its process."""
    ti = context["ti"]
    name = f"{ti.task_id}.{ti.try_number}"
    Path(notes, f"{name}.pid").write_text(str(os.getpid()))
    if ti.try_number > len(kills):
        return
    kill = kills[ti.try_number - 1]
    note = Path(notes, f"{name}.{kill['whom']}")
    if kill["seconds"] is not None:
        _kill_after(kill["seconds"], note)
    if kill["trigger"]:
        end = partial(_kill, kill["whom"], note)
        Boundaries((Trigger(**kill["trigger"]),), control=_no_commands, kill=end).install()


def _kill(whom: str, note: Path) -> None:
    """Without its supervisor the task goes on, and knows nothing of it."""
    note.touch()
    if whom in (SUPERVISOR, BOTH):
        os.kill(os.getppid(), signal.SIGKILL)
    if whom in (TASK, BOTH):
        die()


def _kill_after(seconds: float, note: Path) -> None:
    """From a process of its own, so that it falls at any instant."""
    task = os.pidfd_open(os.getpid())
    if os.fork():
        os.close(task)
        return
    os.setsid()
    os.closerange(0, task)  # the supervisor waits until nobody has its sockets open
    os.closerange(task + 1, 1024)
    time.sleep(seconds)
    try:
        signal.pidfd_send_signal(task, signal.SIGKILL)
        note.touch()
    finally:  # it may have ended before
        os._exit(0)


def _no_commands(**command: Any) -> None:
    raise AssertionError(f"no fault is done from here: {command}")
