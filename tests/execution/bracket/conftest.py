"""A simulated gateway in the morning, a trading database, and a strategy that sends brackets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.outcome import OrderOutcome
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import OrderIntent
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.brackets import BracketPlan
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, Side
from airflow_ibkr_plugin.trading.plans import TicketPlan
from airflow_ibkr_plugin.trading.risk_rules import rules
from airflow_ibkr_plugin.trading.sizing import Sizing

ACCOUNT = "DU1234567"
MORNING = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)  # a Monday, half an hour into the session
WIDE = {"stop": {"offset": 0.2}, "target": {"offset": 0.3}}
RULES = {rule.name: rule for rule in rules()}


@dataclass
class Floor:
    """A simulated gateway, a trading database, and one strategy that sends brackets."""

    gateway: SimulatorHandle
    database: Database
    spec: GatewaySpec

    @contextmanager
    def session(self, **changes: Any) -> Iterator[BrokerSession]:
        with leased_session(replace(self.spec, **changes), self.database, owner="test") as session:
            yield session

    def request(self, session: BrokerSession, run_id: str = "run-1", **changes: Any) -> OrderRequest:
        """Ten KO at the market with a stop 20 % and a target 30 % away, unless told otherwise."""
        instrument = session.resolve(InstrumentSpec.parse("KO"))
        rules = changes.pop("rules", {})
        plan: dict[str, Any] = {
            "side": Side.BUY,
            "sizing": Sizing.parse({"quantity": changes.pop("quantity", 10)}),
            "bracket": BracketPlan.parse(changes.pop("bracket", WIDE)),
        }
        plan |= {name: changes.pop(name) for name in ("side", "order_type", "limit_offset") if name in changes}
        fields: dict[str, Any] = {
            "key": IntentKey(
                installation="test", dag_id="demo", run_id=run_id, task_id="order", con_id=instrument.con_id
            ),
            "strategy": "demo",
            "source": session.source,
            "account": session.account,
            "mode": "paper",
            "instrument": instrument,
            "ticket": TicketPlan(**plan),
            "rules": tuple((RULES[name], parameters) for name, parameters in rules.items()),
            "wait_seconds": 20.0,
        }
        return OrderRequest(**fields | changes)

    def execute(self, session: BrokerSession, request: OrderRequest) -> OrderOutcome:
        return execute(session, self.database, request, owner="t")

    def bracket(self, **changes: Any) -> OrderOutcome:
        with self.session() as session:
            return self.execute(session, self.request(session, **changes))

    def legs(self, run_id: str = "run-1") -> dict[str, OrderIntent]:
        with self.database.read() as transaction:
            return {row.leg: row for row in Intents(transaction).for_run("demo", run_id)}

    def states(self, run_id: str = "run-1") -> dict[str, str]:
        return {leg: str(row.state) for leg, row in self.legs(run_id).items()}

    def working(self) -> dict[str, tuple[str, str]]:
        """What the broker has alive: quantity and type, by the leg of ours."""
        legs = {row.order_ref: leg for leg, row in self.legs().items()}
        alive = [o for o in self.orders() if o["status"] in ("Submitted", "PreSubmitted")]
        return {legs.get(o["order_ref"], o["order_ref"]): (o["quantity"], o["order_type"]) for o in alive}

    def orders(self, order_ref: str | None = None) -> list[Any]:
        given = {} if order_ref is None else {"order_ref": order_ref}
        found: list[Any] = self.gateway.control("orders", **given)["orders"]
        return found

    def held(self) -> Decimal:
        with self.database.read() as transaction:
            return sum((row.quantity for row in Positions(transaction).list(strategy="demo")), Decimal(0))

    def alerts(self) -> list[str]:
        with self.database.read() as transaction:
            return [row.body for row in Alerts(transaction).due(datetime(2100, 1, 1, tzinfo=UTC))]

    def owner(self, session: BrokerSession, order_ref: str) -> Any:
        (order,) = session.find_by_ref(order_ref).orders
        return order


@pytest.fixture
def gateway() -> Iterator[SimulatorHandle]:
    with start_simulator(seed=7, clock=MORNING, account=ACCOUNT) as simulator:
        yield simulator


@pytest.fixture
def floor(gateway: SimulatorHandle, database: Database, monkeypatch: pytest.MonkeyPatch) -> Floor:
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.3)
    spec = GatewaySpec(
        conn_id="ibkr_default",
        host="127.0.0.1",
        port=gateway.port,
        client_ids=range(10, 20),
        account=ACCOUNT,
        timeout=5,
    )
    return Floor(gateway, database, spec)
