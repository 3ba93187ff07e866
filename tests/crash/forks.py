"""Work in a child of a warm process: forked, watched, killed, and heard."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import pkgutil
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boundaries import Boundaries

from airflow_ibkr_plugin import execution, service
from airflow_ibkr_plugin.broker import library
from airflow_ibkr_plugin.errors import Family, IBKRPluginError
from airflow_ibkr_plugin.registry import get_registry

_HUNG_SECONDS = 90.0
_LAZY = ("airflow.sdk.execution_time.supervisor", "airflow_ibkr_plugin.alerts.failures", "_strptime")


def warm_up() -> None:
    """Import what a child imports when it needs it, here, before the first fork."""
    asyncio.set_event_loop(asyncio.new_event_loop())  # the client library looks for one when it is imported
    library.load()
    get_registry()
    for package in (execution, service):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    for name in _LAZY:
        importlib.import_module(name)


class Child:
    """A task in a process of its own.

    :param log: where it writes what it prints, Airflow's log above all. :ivar finished: it was heard to its end.
    """

    def __init__(self, task: Callable[[], Any], boundaries: Boundaries, log: Path) -> None:
        self.finished = False
        self._reading, writing = os.pipe()
        self._started = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._reading)
            _say_to(log)
            _be_child(task, boundaries, writing)
        os.close(writing)

    def ended(self) -> bool:
        """Whether it has ended, or is about to."""
        return self.finished or bool(select.select([self._reading], [], [], 0)[0])

    def kill(self) -> None:
        """At once."""
        os.kill(self.pid, signal.SIGKILL)

    def ask_to_end(self) -> None:
        """SIGTERM; what it was about till now does not count as hanging."""
        self._started = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)

    def finish(self, kill_after: float | None = None) -> dict[str, Any]:
        """What it came to: `done`, an error with its `family`, or `killed`.

        :param kill_after: seconds after it began at which it is killed, if it is still there.
        :raises TimeoutError: it hung.
        """
        limit = _HUNG_SECONDS if kill_after is None else kill_after
        left = max(0.0, self._started + limit - time.monotonic())
        if not select.select([self._reading], [], [], left)[0]:
            self.kill()
            if kill_after is None:
                raise TimeoutError(f"a try hung for {_HUNG_SECONDS:g} s")
        with os.fdopen(self._reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        self.finished = True
        if text:
            told: dict[str, Any] = json.loads(text)
            return told
        assert os.WIFSIGNALED(status), f"a try ended with status {status} and said nothing"
        assert os.WTERMSIG(status) == signal.SIGKILL
        return {"killed": True}


def _say_to(log: Path) -> None:
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)


def _be_child(task: Callable[[], Any], boundaries: Boundaries, writing: int) -> None:
    """Never returns."""
    told: dict[str, Any] = {}
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        boundaries.install()
        told = {"done": task()}
    except IBKRPluginError as error:
        told = {"family": error.family, "error": f"{type(error).__name__}: {error}"}
    except BaseException as error:
        logging.exception("a try failed")
        told = {"family": Family.FATAL, "error": repr(error)}
    finally:
        os.write(writing, json.dumps(told | {"passed": boundaries.passed}).encode())  # at once: it may be killed here
        os._exit(0)
