"""A simulated gateway before the open, where a market order waits; a trading database; services as real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.service import visit
from airflow_ibkr_plugin.service.term import Term, stand
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.leaders import SERVICE, Leaders
from airflow_ibkr_plugin.store.models import ExecutionRow, LeaderRow, OrderIntent
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, Side, TimeInForce

ACCOUNT = "DU1234567"
BEFORE_OPEN = datetime(2026, 3, 2, 13, 0, tzinfo=UTC)  # a Monday, 8:00 in New York
AFTER_OPEN = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
SERVER = Path(__file__).with_name("server.py")


@pytest.fixture
def gateway() -> Iterator[SimulatorHandle]:
    """Before the open: what is sent waits until `gateway.control("clock", set=AFTER_OPEN.isoformat())`."""
    with start_simulator(seed=7, clock=BEFORE_OPEN, account=ACCOUNT) as simulator:
        yield simulator


@pytest.fixture
def spec(gateway: SimulatorHandle) -> GatewaySpec:
    return GatewaySpec(
        conn_id="ibkr_default",
        host="127.0.0.1",
        port=gateway.port,
        client_ids=range(10, 30),
        account=ACCOUNT,
        timeout=5,
    )


@pytest.fixture
def term(database: Database) -> Term:
    """A term that lasts longer than the test."""
    won = stand(database, "test", seconds=600)
    assert won is not None
    return won


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to a task that may come back, and nothing is under way."""
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(visit, "LEFT_TO_TASK", visit.LEFT_TO_TASK * 0)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    """See :func:`until`."""
    return until


def until(what: str, true: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return answer


@dataclass
class Floor:
    """Orders of runs whose tasks are gone, and the books."""

    database: Database
    spec: GatewaySpec
    gateway: SimulatorHandle

    def leave_order(self, monkeypatch: pytest.MonkeyPatch, run_id: str = "run-1", **changes: Any) -> str:
        """A task that ends, as by a kill, while its order waits at the broker; returns the orderRef."""
        with monkeypatch.context() as patched, leased_session(self.spec, self.database, owner=run_id) as session:
            request = self.request(session, run_id, **changes)
            patched.setattr(BrokerSession, "wait_terminal", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                execute(session, self.database, request, owner=run_id)
        return request.key.order_ref

    def request(self, session: BrokerSession, run_id: str, **changes: Any) -> OrderRequest:
        instrument = session.resolve(InstrumentSpec.parse(changes.pop("symbol", "SPY")))
        fields: dict[str, Any] = {
            "key": IntentKey(
                installation="test", dag_id="demo", run_id=run_id, task_id="order", con_id=instrument.con_id
            ),
            "strategy": "demo",
            "source": session.source,
            "account": session.account,
            "mode": "paper",
            "instrument": instrument,
            "ticket": OrderTicket(side=Side.BUY, quantity=Decimal(10), tif=TimeInForce.GTC),
            "wait_seconds": 60.0,
        }
        return OrderRequest(**fields | changes)

    def open_market(self) -> None:
        self.gateway.control("clock", set=AFTER_OPEN.isoformat())

    def intent(self, order_ref: str) -> OrderIntent:
        with self.database.read() as transaction:
            row = Intents(transaction).by_order_ref(order_ref)
        assert row is not None
        return row

    def fills(self, order_ref: str) -> list[ExecutionRow]:
        with self.database.read() as transaction:
            return Executions(transaction).for_intent(self.intent(order_ref).id)

    def position(self) -> Decimal:
        with self.database.read() as transaction:
            return sum((row.quantity for row in Positions(transaction).list(strategy="demo")), Decimal(0))


def _interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.fixture
def floor(database: Database, spec: GatewaySpec, gateway: SimulatorHandle) -> Floor:
    return Floor(database, spec, gateway)


@dataclass
class Servers:
    """Service processes; all that are left are ended with the test."""

    database: Database
    folder: Path
    port: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        given = {"url": self.database.url.render_as_string(hide_password=False), "port": self.port}
        with self.log.open("ab") as log:
            process = subprocess.Popen([sys.executable, str(SERVER), json.dumps(given)], stdout=log, stderr=log)
        self.running.append(process)
        return process

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    def leader(self) -> LeaderRow | None:
        """Who leads now."""
        with self.database.read() as session:
            return Leaders(session).current(SERVICE, datetime.now(UTC))

    def wait_for_leader(self, *processes: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """Return the process among them that leads, as soon as one does."""

        def leading() -> subprocess.Popen[bytes] | None:
            assert all(process.poll() is None for process in processes), self.log.read_text()
            row = self.leader()
            return next((p for p in processes if row and f"/{p.pid}/" in row.owner), None)

        found: subprocess.Popen[bytes] = until("no leader", leading)
        return found


@pytest.fixture
def servers(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Servers]:
    with_gateway = "gateway" in request.fixturenames
    port = request.getfixturevalue("gateway").port if with_gateway else request.getfixturevalue("unused_port")
    servers = Servers(database, tmp_path, port)
    yield servers
    for process in servers.running:
        if process.poll() is None:
            process.kill()
        process.wait(30)
