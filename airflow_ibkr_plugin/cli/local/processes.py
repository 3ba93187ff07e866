"""The processes of a one-machine installation, under honcho: one ends, all end, but for the service."""

from __future__ import annotations

import os
import shlex
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
# What looks after orders while nothing else does is started again whatever ended it; a signal to stop ends both.
_KEPT = ("service",)
_KEEP = "trap stop=1 INT TERM; while {command}; [ -z \"$stop\" ]; do echo 'ended; started again' >&2; sleep 1; done"


class _Console:
    """Prints what the progress process says as it is, and of the others only that one ended before it should."""

    width = 0  # honcho aligns names by it; there are none here

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._ending = False
        self.first_ended = ""

    def write(self, message: Any) -> None:
        """Take one of honcho's messages."""
        text = message.data.decode() if isinstance(message.data, bytes) else str(message.data)
        if message.name == "progress":
            sys.stdout.write(text)
        elif " stopped " in text and not self._ending:
            self._ending = True
            self.first_ended = text.split()[0]
            if self.first_ended != "progress":
                log = self._logs / f"{self.first_ended}.log"
                sys.stdout.write(f"\n{text.strip()}, so all is stopped. Its log: {log}\n")
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
        "service": [airflow, "ibkr", "service"],
    }  # fmt: skip


def supervise(layout: Layout, progress: Sequence[str]) -> int:
    """Start everything and the progress process; return its exit status. If another ends first, its own, never 0.

    The service alone is started again when it ends. Ctrl-C and SIGTERM end all of them, with 130 or 143; what does not
    end in `STOP_SECONDS` is killed.
    """
    from honcho import manager as honcho

    honcho.KILL_WAIT = STOP_SECONDS
    console = _Console(layout.logs)
    manager: Manager = honcho.Manager(console)
    environment = os.environ | layout.environment() | {"PYTHONUNBUFFERED": "1"}
    for name, command in commands(layout).items():
        log = shlex.quote(str(layout.logs / f"{name}.log"))
        run = _KEEP.format(command=shlex.join(command)) if name in _KEPT else f"exec {shlex.join(command)}"
        manager.add_process(name, f"exec >>{log} 2>&1; {run}", env=environment, cwd=str(layout.home))
    manager.add_process("progress", f"exec {shlex.join(progress)}", env=environment, cwd=str(layout.home))
    manager.loop()
    status = int(manager.returncode or 0)
    # A server that ends by itself is a fault, whatever status it ends with.
    return 1 if console.first_ended not in ("", "progress") and status == 0 else status
