"""A trading database, requests, and a broker in memory.

The broker in memory stands in for `BrokerSession` only where a test is about our own state machine: which answer of
the broker leads to which state. What the real broker seam does against the real protocol is tested in
`test_place_real.py` and `test_place_killed.py`, over sockets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.broker.flex import Statement, read_statement
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.outcome import OrderOutcome
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import IntentTransition, OrderIntent
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution, IntentKey, IntentState, OrderTicket, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Position, Quote
from airflow_ibkr_plugin.trading.risk_rules import rules

ACCOUNT = "DU1234567"
RULES = {rule.name: rule for rule in rules()}
SPY = Instrument(
    symbol="SPY",
    con_id=756733,
    min_tick=Decimal("0.01"),
    time_zone="America/New_York",
    liquid_hours="20260302:0930-20260302:1600;20260303:0930-20260303:1600;20260304:0930-20260304:1600",
)


SPEC = GatewaySpec(conn_id="ibkr_default", host="127.0.0.1", port=4002, client_ids=range(10, 20), account=ACCOUNT)


@pytest.fixture(scope="session", autouse=True)
def airflow_is_imported() -> None:
    """The order path reads settings; Airflow cannot be imported first while a test holds the clock still."""
    settings.load()


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
    exec_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def fill(self, perm_id: int, quantity: Decimal | None = None) -> None:
        order = self.orders[perm_id]
        quantity = order.remaining if quantity is None else quantity
        filled = order.filled + quantity
        self.executions.append(
            Execution(
                exec_id=f"0001.{next(self.exec_ids):04}.01",
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

    def positions(self) -> list[Position]:
        quantity = self.broker.position()
        return [
            Position(account=ACCOUNT, con_id=SPY.con_id, symbol="SPY", quantity=quantity, average_cost=Decimal(100))
        ]

    def listen(self, *, seconds: float) -> bool:
        return False

    def executions(self) -> list[Execution]:
        return list(self.broker.executions)

    def everything(self) -> BrokerTruth:
        orders = tuple(self.broker.orders.values())
        return BrokerTruth(orders=orders, executions=tuple(self.broker.executions), asked_at=datetime.now(UTC))

    def account_snapshot(self) -> AccountSnapshot:
        (held,) = self.positions()
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


@dataclass
class Books:
    """What the trading database says."""

    database: Database

    def intent(self, request: OrderRequest) -> OrderIntent:
        with self.database.read() as transaction:
            row = Intents(transaction).by_order_ref(request.key.order_ref)
        assert row is not None
        return row

    def moves(self, intent_id: int) -> list[str]:
        query = select(IntentTransition.to_state).where(IntentTransition.intent_id == intent_id)
        with self.database.read() as transaction:
            return [state.value for state in transaction.scalars(query.order_by(IntentTransition.id))]

    def position(self, strategy: str | None = None) -> Decimal:
        with self.database.read() as transaction:
            return sum((row.quantity for row in Positions(transaction).list(strategy=strategy)), Decimal(0))

    def let_leases_run_out(self, dag_id: str = "demo", run_id: str = "run-1") -> None:
        """What a minute of waiting would do."""
        with self.database.write() as transaction:
            for row in Intents(transaction).for_run(dag_id, run_id):
                row.lease_until = row.lease_until and datetime.now(UTC)


@dataclass
class Desk(Books):
    """Orders by one session on the broker in memory, and the books that they are entered in."""

    broker: MemoryBroker

    def __post_init__(self) -> None:
        self.session = self.connect()

    def connect(self, **changes: Any) -> MemorySession:
        return MemorySession(self.broker, **changes)

    def request(self, side: Side = Side.BUY, quantity: int | str = 10, **changes: Any) -> OrderRequest:
        """Ten SPY at the market, unless told otherwise; `rules` maps the name of a risk rule to its parameters."""
        strategy = changes.get("strategy", "demo")
        run_id, rules = changes.pop("run_id", "run-1"), changes.pop("rules", {})
        fields: dict[str, Any] = {
            "key": IntentKey(installation="test", dag_id=strategy, run_id=run_id, task_id="order", con_id=SPY.con_id),
            "strategy": strategy,
            "source": "simulator:ibkr_default",
            "account": ACCOUNT,
            "mode": "paper",
            "instrument": SPY,
            "ticket": OrderTicket(side=side, quantity=Decimal(quantity)),
            "rules": tuple((RULES[name], parameters) for name, parameters in rules.items()),
            "wait_seconds": 0.05,
        }
        return OrderRequest(**fields | changes)

    def execute(self, request: OrderRequest, session: Any = None) -> OrderOutcome:
        used: Any = session or self.session
        return execute(used, self.database, request, owner="t")

    def place(self, side: Side = Side.BUY, quantity: int | str = 10, **changes: Any) -> OrderOutcome:
        """Execute such a request."""
        return self.execute(self.request(side, quantity, **changes))

    def arrive(self, request: OrderRequest) -> None:
        """The order reaches the broker, and the books do not know."""
        ticket, ref = request.ticket, request.key.order_ref
        assert isinstance(ticket, OrderTicket)
        self.connect().place(request.instrument, ticket, order_id=7, order_ref=ref, account=request.account)

    def state(self, **changes: Any) -> IntentState:
        """Of the intent of such a request."""
        return self.intent(self.request(**changes)).state


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def session(broker: MemoryBroker) -> Any:
    return MemorySession(broker)


@pytest.fixture
def desk(database: Database, broker: MemoryBroker) -> Desk:
    return Desk(database, broker)


@pytest.fixture
def books(database: Database) -> Books:
    return Books(database)


@pytest.fixture
def gateway() -> Iterator[Any]:
    """A simulated gateway in regular hours, over a socket."""
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
    with start_simulator(seed=7, clock=clock, account="DU1234567") as simulator:
        yield simulator


@pytest.fixture
def spec(gateway: Any) -> GatewaySpec:
    return GatewaySpec(
        conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account="DU1234567"
    )


class FlexRows:
    """Rows of a Flex statement in the form of real ones.

    A cancellation has side, quantity, price and time of its trade, no execId and no reference, the commission that is
    given back, and the code Ca.
    """

    @staticmethod
    def trade(fill: Execution, **changes: str) -> str:
        fields = {
            "accountId": fill.account,
            "currency": "USD",
            "assetCategory": "STK",
            "symbol": fill.symbol,
            "conid": str(fill.con_id),
            "dateTime": f"{fill.time.astimezone(ZoneInfo('America/New_York')):%Y%m%d;%H%M%S}",
            "transactionType": "ExchTrade",
            "quantity": f"{fill.side.sign * fill.quantity:f}",
            "tradePrice": f"{fill.price:f}",
            "ibCommission": f"{-(fill.commission or Decimal(0)):f}",
            "ibCommissionCurrency": "USD",
            "openCloseIndicator": "O",
            "notes": "P",
            "fifoPnlRealized": "0",
            "buySell": str(fill.side),
            "ibOrderID": str(fill.perm_id),
            "ibExecID": fill.exec_id,
            "orderReference": fill.order_ref,
            "levelOfDetail": "EXECUTION",
        } | changes
        return "<Trade " + " ".join(f"{name}={quoteattr(value)}" for name, value in fields.items()) + " />"

    @classmethod
    def cancel(cls, fill: Execution, given_back: Decimal = Decimal(0), **changes: str) -> str:
        taken = {
            "transactionType": "TradeCancel",
            "exchange": "--",
            "quantity": f"{-fill.side.sign * fill.quantity:f}",
            "ibCommission": f"{given_back:f}",
            "openCloseIndicator": "",
            "notes": "Ca",
            "buySell": f"{fill.side} (Ca.)",
            "ibExecID": "",
            "orderReference": "",
        }
        return cls.trade(fill, **taken | changes)

    @staticmethod
    def read(path: Path, rows: Sequence[str], days: int = 0) -> Statement:
        """The statement of so many days from 2 March 2026 on."""
        first = date(2026, 3, 2)
        last = first + timedelta(days=days)
        path.write_text(
            f'<FlexQueryResponse type="AF"><FlexStatements>\n<FlexStatement accountId="{ACCOUNT}"'
            f' fromDate="{first:%Y%m%d}" toDate="{last:%Y%m%d}"'
            f' whenGenerated="{last + timedelta(days=1):%Y%m%d};040000">\n<Trades>\n'
            + "\n".join(rows)
            + "\n</Trades></FlexStatement></FlexStatements></FlexQueryResponse>"
        )
        return read_statement(path)


@pytest.fixture
def flex() -> type[FlexRows]:
    return FlexRows
