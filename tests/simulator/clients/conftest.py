"""The scenarios of this folder, on whichever client library the environment has.

This folder is a test root of its own, so that it also runs where neither Airflow nor this project is installed: the
simulator is a process of the environment that has it (`SIMULATOR_PYTHON`), the client is in this one. See
docs/simulator-protocol.md.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent
# The modules of the suite; and the simulator's tables, which need nothing but Python.
sys.path[:0] = [str(_HERE), str(_HERE.parents[2])]

_IS_IBAPI = importlib.util.find_spec("ibapi") is not None
collect_ignore = (
    ["test_decoding_insync.py", "test_requests_insync.py"]
    if _IS_IBAPI
    else ["test_decoding_ibapi.py", "test_requests_ibapi.py"]
)
if _IS_IBAPI:
    from driver_ibapi import IbapiDriver as TheDriver
else:
    from driver_insync import InsyncDriver as TheDriver  # type: ignore[assignment]

#: A Friday, 11:00 in New York.
OPEN = "2026-11-20T16:00:00+00:00"

Connect = Callable[..., Any]


class Gateway:
    """The simulator's process."""

    def __init__(self) -> None:
        python = os.environ.get("SIMULATOR_PYTHON", sys.executable)
        command = [python, "-m", "airflow_ibkr_plugin.simulator", "--port", "0", "--control-port", "0"]
        self.process = subprocess.Popen([*command, "--clock", OPEN, "--log-level", "WARNING"],
                                        stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert self.process.stdout is not None
        listening = json.loads(self.process.stdout.readline())
        self.port: int = listening["port"]
        self._control_port: int = listening["control_port"]
        self.control("clock", set=OPEN, freeze=True)

    def control(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        """Execute a control command; see docs/simulator-faults.md."""
        with socket.create_connection(("127.0.0.1", self._control_port), timeout=20) as connection:
            connection.sendall(json.dumps({"cmd": cmd} | arguments).encode() + b"\n")
            with connection.makefile() as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
        assert answer["ok"], answer
        return answer

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=20) == 0


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    """A simulator whose clock stands still inside a session; all scenarios trade on one account."""
    running = Gateway()
    yield running
    running.stop()


_client_ids = itertools.count(1)


@pytest.fixture
def client_id() -> int:
    """A client id that no scenario had before."""
    return next(_client_ids)


@pytest.fixture
def connect(gateway: Gateway) -> Iterator[Connect]:
    """Connect clients, under new ids where none is given; they are disconnected at the end."""
    drivers: list[Any] = []

    def connect_one(client_id: int | None = None) -> Any:
        drivers.append(TheDriver())
        drivers[-1].connect(gateway.port, next(_client_ids) if client_id is None else client_id)
        return drivers[-1]

    yield connect_one
    for driver in drivers:
        driver.disconnect()


@pytest.fixture
def client(connect: Connect, client_id: int) -> Any:
    """A connected client."""
    return connect(client_id)
