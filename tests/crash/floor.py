"""One simulated gateway in a process of its own, one trading database, and tries of the order task forked from here."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from boundaries import Boundaries, Trigger
from cases import Case, Clean, Kill, Scenario
from sqlalchemy import update

from airflow_ibkr_plugin import execution
from airflow_ibkr_plugin.broker import library
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.errors import Family, IBKRPluginError
from airflow_ibkr_plugin.hooks.ibkr import IBKRHook
from airflow_ibkr_plugin.operators.order import OrderOperator
from airflow_ibkr_plugin.registry import get_registry
from airflow_ibkr_plugin.store.database import installation_id, open_database
from airflow_ibkr_plugin.store.models import ClientLease, OrderIntent
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey

DAG_ID, TASK_ID = "crash", "order"
ACCOUNT = "DU1234567"
CLOCK = "2026-03-02T15:00:00+00:00"  # a Monday, half an hour into the session
CASH = 10**11
TRIES = 12
_BACK_OFF_SECONDS = 0.25
_HUNG_SECONDS = 60.0
_LAZY = ("airflow.sdk.execution_time.supervisor", "airflow_ibkr_plugin.alerts.failures", "_strptime")


class Gateway:
    """The simulator's process."""

    def __init__(self) -> None:
        options = ["--port=0", "--control-port=0", f"--clock={CLOCK}", f"--account={ACCOUNT}", f"--cash=USD={CASH}"]
        command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", *options, "--log-level=ERROR"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self.port, self._control_port = told["port"], told["control_port"]

    def control(self, **command: Any) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self._control_port), timeout=30) as connection:
            connection.sendall(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
        if not answer["ok"]:
            raise ValueError(f"{command}: {answer['error']}")
        return answer

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@dataclass(frozen=True)
class TaskInstance:
    """What the operator reads of Airflow's task instance: who it is, and what the signal task returned."""

    run_id: str
    try_number: int
    upstream: dict[str, Any]
    dag_id: str = DAG_ID
    task_id: str = TASK_ID
    map_index: int = -1

    def xcom_pull(self, **_: Any) -> dict[str, Any]:
        return self.upstream


class Floor:
    """Warm: all that a try needs is imported before the first fork, and nothing is connected."""

    def __init__(self, gateway: Gateway, log: Path) -> None:
        self.gateway = gateway
        self._log = log
        _warm_up()
        self.database = open_database()
        with self.database.write() as transaction:
            self._installation = installation_id(transaction)
        self._instruments: dict[str, Instrument] = {}

    def instrument(self, symbol: str) -> Instrument:
        if symbol not in self._instruments:
            self._instruments[symbol] = Instrument.from_dict(self._fork(lambda: _resolve(symbol))["done"])
        return self._instruments[symbol]

    def order_ref(self, case: Case) -> str:
        con_id = self.instrument(case.scenario.symbol).con_id
        key = IntentKey(
            installation=self._installation, dag_id=DAG_ID, run_id=case.run_id, task_id=TASK_ID, con_id=con_id
        )
        return key.order_ref

    def told_by_broker(self) -> dict[str, Any]:
        """The day's executions and the positions, asked for by a session."""
        done: dict[str, Any] = self._fork(_ask_books)["done"]
        return done

    def clean(self, scenario: Scenario, number: int) -> Clean:
        """A case without fault or kill, measured."""
        started = time.monotonic()
        told = self.attempt(Case(number, scenario), 1, Kill())
        assert "done" in told, told
        return Clean(told["passed"], time.monotonic() - started)

    def run(self, case: Case) -> tuple[int, dict[str, Any]]:
        """Tries as Airflow makes them, until one returns or fails for good; how many were killed, and the last one."""
        self._arm(case)
        killed, told = 0, dict[str, Any]()
        for number in range(1, TRIES + 1):
            kill = case.kills[number - 1] if number <= len(case.kills) else Kill()
            told = self.attempt(case, number, kill, case.fault.triggers if number == 1 else ())
            if number == 1:
                self._mend(case)
            if "killed" in told:
                killed += 1
                self.let_leases_run_out()
            elif "done" in told or told["family"] not in (Family.RETRY, Family.RETRY_AFTER):
                break
            else:
                time.sleep(_BACK_OFF_SECONDS)
        self.gateway.control(cmd="disarm")
        return killed, told

    def attempt(self, case: Case, number: int, kill: Kill, triggers: tuple[Trigger, ...] = ()) -> dict[str, Any]:
        """One try in a process of its own: `done`, an error with its `family`, or `killed`."""
        ti = TaskInstance(case.run_id, number, self._upstream(case.scenario))
        if kill.trigger is not None:
            triggers = (*triggers, kill.trigger)

        def task() -> Any:
            operator = OrderOperator(
                task_id=TASK_ID,
                strategy=DAG_ID,
                symbol=case.scenario.symbol,
                signal_task="signal",
                **case.scenario.operator,
            )
            return operator.execute({"ti": ti})

        return self._fork(task, triggers, kill.seconds)

    def let_leases_run_out(self) -> None:
        """What two minutes of waiting would do for the leases of a dead worker."""
        now = datetime.now(UTC)
        with self.database.write() as transaction:
            transaction.execute(update(OrderIntent).where(OrderIntent.lease_until > now).values(lease_until=now))
            transaction.execute(update(ClientLease).where(ClientLease.until > now).values(until=now))

    def _arm(self, case: Case) -> None:
        of_order = {"order_ref": self.order_ref(case)} if case.fault.of_order else {}
        for command in case.fault.armed:
            self.gateway.control(**command, **of_order)

    def _mend(self, case: Case) -> None:
        for command in case.fault.mended:
            self.gateway.control(**command)

    def _upstream(self, scenario: Scenario) -> dict[str, Any]:
        signal_of_the_day = {
            "symbol": scenario.symbol,
            "action": "buy",
            "confidence": 0.9,
            "as_of": CLOCK,
            "analyst": "none",
        }
        instrument = self.instrument(scenario.symbol).to_dict()
        return {"signal": signal_of_the_day, "signal_id": None, "market_data": {"instrument": instrument}}

    def _fork(
        self, task: Callable[[], Any], triggers: tuple[Trigger, ...] = (), kill_after: float | None = None
    ) -> dict[str, Any]:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _say_to(self._log)
            _be_child(task, Boundaries(triggers, self.gateway.control), writing)
        os.close(writing)
        if not select.select([reading], [], [], _HUNG_SECONDS if kill_after is None else kill_after)[0]:
            os.kill(child, signal.SIGKILL)
            if kill_after is None:
                raise TimeoutError(f"a try hung for {_HUNG_SECONDS:g} s")
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if text:
            told: dict[str, Any] = json.loads(text)
            return told
        assert os.WIFSIGNALED(status), f"a try ended with status {status} and said nothing"
        assert os.WTERMSIG(status) == signal.SIGKILL
        return {"killed": True}


def _warm_up() -> None:
    """Import what a try imports when it needs it, here, before the first fork."""
    asyncio.set_event_loop(asyncio.new_event_loop())  # the client library looks for one when it is imported
    library.load()
    get_registry()
    for module in pkgutil.iter_modules(execution.__path__, "airflow_ibkr_plugin.execution."):
        importlib.import_module(module.name)
    for name in _LAZY:
        importlib.import_module(name)


def _say_to(log: Path) -> None:
    """What a try prints, Airflow's log above all, goes there."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)


def _be_child(task: Callable[[], Any], boundaries: Boundaries, writing: int) -> None:
    """Never returns."""
    told: dict[str, Any] = {}
    try:
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


def _resolve(symbol: str) -> dict[str, Any]:
    with leased_session(IBKRHook().get_conn(), open_database(), owner="resolve") as session:
        return session.resolve(InstrumentSpec.parse(symbol)).to_dict()


def _ask_books() -> dict[str, Any]:
    with leased_session(IBKRHook().get_conn(), open_database(), owner="books") as session:
        return {
            "executions": {e.exec_id: [str(e.quantity), str(e.price), str(e.commission)] for e in session.executions()},
            "positions": {str(p.con_id): str(p.quantity) for p in session.positions()},
        }
