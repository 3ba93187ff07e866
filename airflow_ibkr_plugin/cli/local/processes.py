"""The processes of a one-machine installation, under honcho: one ends, all end."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.cli.local.layout import ACCOUNT, Layout
from airflow_ibkr_plugin.cli.local.replay import FIRST_MORNING

if TYPE_CHECKING:
    from honcho.manager import Manager

# The scheduler and the api-server end their children within this many seconds of a SIGTERM; honcho's own 5 are few.
STOP_SECONDS = 20


class _Console:
    """Prints what the progress process says as it is, and of the others only that one ended before it should."""

    width = 0  # honcho aligns names by it; there are none here

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._ending = False

    def write(self, message: Any) -> None:
        """Take one of honcho's messages."""
        text = message.data.decode() if isinstance(message.data, bytes) else str(message.data)
        if message.name == "progress":
            sys.stdout.write(text)
        elif " stopped " in text and not self._ending:
            self._ending = True
            name = text.split()[0]
            if name != "progress":
                sys.stdout.write(f"\n{text.strip()}, so all is stopped. Its log: {self._logs / name}.log\n")
        elif " received" in text and not self._ending:
            self._ending = True
            sys.stdout.write("\nStopping ...\n")
        sys.stdout.flush()


def commands(layout: Layout) -> dict[str, Sequence[str]]:
    """Name and command of each process."""
    bin_ = Path(sys.executable).parent
    airflow, mlflow, ports = str(bin_ / "airflow"), str(bin_ / "mlflow"), layout.ports
    hosts = ",".join(f"{host}:{ports.mlflow}" for host in ("localhost", "127.0.0.1"))
    return {
        "gateway": [
            sys.executable, "-m", "airflow_ibkr_plugin.simulator", "--port", str(ports.gateway),
            "--control-port", str(ports.control), "--ibc-port", str(ports.ibc), "--seed", "7",
            "--account", ACCOUNT, "--replay", str(layout.replay), "--state", str(layout.gateway_state),
            *(() if layout.gateway_state.exists() else ("--clock", FIRST_MORNING)),
        ],
        "mlflow": [
            mlflow, "server", "--host", "127.0.0.1", "--port", str(ports.mlflow), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{layout.home / 'mlflow' / 'mlflow.db'}", "--serve-artifacts",
            "--artifacts-destination", str(layout.home / "mlflow" / "artifacts"), "--allowed-hosts", hosts,
        ],
        "api-server": [airflow, "api-server"],
        "scheduler": [airflow, "scheduler", "--skip-serve-logs"],
        "dag-processor": [airflow, "dag-processor"],
        "triggerer": [airflow, "triggerer", "--skip-serve-logs"],
    }  # fmt: skip


def supervise(layout: Layout, progress: Sequence[str]) -> int:
    """Start everything and the progress process; return its exit status, or that of whatever ended first, or 0 if a
    person stopped it.

    Ctrl-C and SIGTERM end all of them; what does not end in `STOP_SECONDS` is killed.
    """
    from honcho import manager as honcho

    honcho.KILL_WAIT = STOP_SECONDS
    manager: Manager = honcho.Manager(_Console(layout.logs))
    environment = os.environ | layout.environment() | {"PYTHONUNBUFFERED": "1"}
    for name, command in commands(layout).items():
        log = shlex.quote(str(layout.logs / f"{name}.log"))
        manager.add_process(name, f"exec {shlex.join(command)} >>{log} 2>&1", env=environment, cwd=str(layout.home))
    manager.add_process("progress", f"exec {shlex.join(progress)}", env=environment, cwd=str(layout.home))
    manager.loop()
    stopped_by_hand = manager.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    return 0 if stopped_by_hand else int(manager.returncode or 0)
