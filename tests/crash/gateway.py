"""The simulated gateway in a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from functools import cached_property
from typing import Any

ACCOUNT = "DU1234567"
CASH = 10**11


class Gateway:
    """The simulator's process.

    :param clock: where its clock starts, ISO 8601.
    """

    def __init__(self, clock: str) -> None:
        options = ["--port=0", "--control-port=0", f"--clock={clock}", f"--account={ACCOUNT}", f"--cash=USD={CASH}"]
        command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", *options, "--log-level=ERROR"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @cached_property
    def _ports(self) -> dict[str, int]:
        assert self._process.stdout is not None
        told: dict[str, int] = json.loads(self._process.stdout.readline())
        return told

    @property
    def port(self) -> int:
        """Where clients connect; waits until they can."""
        return self._ports["port"]

    def control(self, **command: Any) -> dict[str, Any]:
        """Do a control command. :raises ValueError: it is refused."""
        with socket.create_connection(("127.0.0.1", self._ports["control_port"]), timeout=30) as connection:
            connection.sendall(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
        if not answer["ok"]:
            raise ValueError(f"{command}: {answer['error']}")
        return answer

    def orders(self, order_ref: str) -> list[dict[str, Any]]:
        """What the broker has under an orderRef."""
        found: list[dict[str, Any]] = self.control(cmd="orders", order_ref=order_ref)["orders"]
        return found

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
