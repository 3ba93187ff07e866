"""A simulated gateway in a process of its own, on free ports, its clock inside a session."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

CLOCK = "2018-06-13T14:30:00+00:00"


class Running(NamedTuple):
    """A gateway's API port, its control port, and its process."""

    port: int
    control_port: int
    process: psutil.Process

    def megabytes(self) -> float:
        """Resident memory."""
        return float(self.process.memory_info().rss) / 2**20


@contextmanager
def gateway(*options: str) -> Iterator[Running]:
    """Yield a running gateway; end its process afterwards."""
    command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", "--port", "0", "--control-port", "0"]
    command += ["--seed", "7", "--clock", CLOCK, "--log-level", "WARNING", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield Running(int(told["port"]), int(told["control_port"]), psutil.Process(process.pid))
        finally:
            process.terminate()
