"""A simulated gateway in a process of its own, on free ports, its clock inside a session."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CLOCK = "2018-06-13T14:30:00+00:00"


@contextmanager
def gateway() -> Iterator[int]:
    """Yield the API port; end the process afterwards."""
    command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", "--port", "0", "--control-port", "0"]
    command += ["--seed", "7", "--clock", CLOCK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(json.loads(process.stdout.readline())["port"])
        finally:
            process.terminate()
