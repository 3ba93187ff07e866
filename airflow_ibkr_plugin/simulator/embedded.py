"""A simulator in a thread of this process, for tests."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from airflow_ibkr_plugin.simulator.account.funds import account_codes
from airflow_ibkr_plugin.simulator.gateway import Options
from airflow_ibkr_plugin.simulator.server import Simulator

_START_SECONDS = 60.0
_ANSWER_SECONDS = 30.0


class SimulatorHandle:
    """A running simulator.

    :ivar port, control_port, ibc_port: where it listens; the last two None if they were not asked for.
    """

    def __init__(self, options: Options) -> None:
        """Use :func:`start_simulator`."""
        self._loop = asyncio.new_event_loop()
        self._started: Future[Simulator] = Future()
        self._thread = threading.Thread(target=self._run, args=(options,), name="simulated-gateway", daemon=True)
        self._thread.start()
        self._simulator = self._started.result(_START_SECONDS)
        self.host = options.host
        self.port = self._simulator.port
        self.control_port = self._simulator.control_port
        self.ibc_port = self._simulator.ibc_port
        self.account = account_codes(options.account)[0]

    def control(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        """Execute a control command (docs/simulator-faults.md) and return its answer.

        :raises ValueError: the command was refused; says why.
        """
        work = self._simulator.control.execute({"cmd": cmd} | arguments)
        answer = asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_SECONDS)
        if not answer["ok"]:
            raise ValueError(answer["error"])
        return answer

    def stop(self) -> None:
        """Stop it; returns when all its ports are closed. Does nothing the second time."""
        work = self._simulator.stop()
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop has closed: it had stopped by itself
            work.close()
        self.join(_ANSWER_SECONDS)

    def join(self, seconds: float) -> None:
        """Wait until it has stopped, by :meth:`stop` or by itself (IBC's STOP).

        :raises TimeoutError: it has not.
        """
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"The simulator on port {self.port} has not stopped within {seconds:g} s.")

    def __enter__(self) -> SimulatorHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _run(self, options: Options) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(options))
        finally:
            self._loop.close()

    async def _serve(self, options: Options) -> None:
        try:
            simulator = Simulator(options)
            await simulator.start()
        except BaseException as error:  # noqa: BLE001  (raised in the caller's thread, by the future)
            self._started.set_exception(error)
            return
        self._started.set_result(simulator)
        await simulator.stopped.wait()


def start_simulator(**options: Any) -> SimulatorHandle:
    """Start a simulator on free ports of 127.0.0.1, in a thread of its own.

    :param options: see :class:`Options`; `port` and `control_port` default to 0.
    :raises ConfigError: the options cannot be used.
    """
    return SimulatorHandle(Options(**{"port": 0, "control_port": 0} | options))
