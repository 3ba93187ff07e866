"""The order path over sockets: the simulated gateway, the unmodified client library, the broker seam, SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import AmbiguousOrder, BrokerError, ConfigError, LiveTradingRefused
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.place import execute, resume, unfinished
from airflow_ibkr_plugin.execution.portfolio import snapshot
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.risk_rules import rules

RULES = {rule.name: rule for rule in rules()}
ACCOUNT = "DU1234567"
CLOCK = "2026-03-02T15:00:00+00:00"  # a Monday, half an hour into the session


@pytest.fixture
def gateway() -> Iterator[Any]:
    simulator = start_simulator(seed=7, clock=datetime.fromisoformat(CLOCK), account=ACCOUNT)
    yield simulator
    simulator.stop()


@pytest.fixture
def spec(gateway: Any) -> GatewaySpec:
    return GatewaySpec(
        conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
    )


@pytest.fixture
def broker(spec: GatewaySpec, database: Database) -> Iterator[BrokerSession]:
    with leased_session(spec, database, owner="test") as session:
        yield session


@pytest.fixture
def make_crash(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The next wait for an order's end is interrupted, as by an operator's Ctrl-C."""
    wait = BrokerSession.wait_terminal

    def crash_once() -> None:
        def crash(*_: Any, **__: Any) -> Any:
            monkeypatch.setattr(BrokerSession, "wait_terminal", wait)
            raise KeyboardInterrupt

        monkeypatch.setattr(BrokerSession, "wait_terminal", crash)

    return crash_once


@pytest.fixture
def lost(spec: GatewaySpec, gateway: Any, database: Database, monkeypatch: pytest.MonkeyPatch) -> OrderRequest:
    """The request of an order that was sent once, and never reached the broker."""
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.5)
    with leased_session(spec, database, owner="first") as session:
        request = request_on(session)
        gateway.control("drop_before_accept")
        with pytest.raises(BrokerError):
            execute(session, database, request, owner="t")
    return request


def request_on(session: BrokerSession, **changes: Any) -> OrderRequest:
    instrument = session.resolve(InstrumentSpec.parse(changes.pop("symbol", "SPY")))
    fields: dict[str, Any] = {
        "key": IntentKey(
            installation="test",
            dag_id="demo",
            run_id=changes.pop("run_id", "run-1"),
            task_id="order",
            con_id=instrument.con_id,
        ),
        "strategy": "demo",
        "source": session.source,
        "account": session.account,
        "mode": "paper",
        "instrument": instrument,
        "ticket": OrderTicket(side=Side.BUY, quantity=Decimal(10)),
        "rules": ((RULES["trading_hours"], {}), (RULES["order_notional"], {"max": 1_000_000})),
        "wait_seconds": 30.0,
    }
    return OrderRequest(**fields | changes)


def at_broker(gateway: Any, request: OrderRequest) -> list[Any]:
    found: list[Any] = gateway.control("orders", order_ref=request.key.order_ref)["orders"]
    return found


def away_from_market(session: BrokerSession, request: OrderRequest) -> OrderTicket:
    reference = session.quote(request.instrument).reference
    assert reference is not None
    return OrderTicket(
        side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=(reference / 2).quantize(1)
    )


def test_a_market_order_is_filled_and_booked_once(broker: BrokerSession, gateway: Any, database: Database) -> None:
    request = request_on(broker)
    outcome = execute(broker, database, request, owner="t")
    assert (outcome.state, outcome.filled, outcome.simulated) == (IntentState.FILLED, Decimal(10), True)
    assert outcome.commission > 0
    assert outcome.commission_currency == "USD"
    assert execute(broker, database, request, owner="t") == outcome
    assert len(at_broker(gateway, request)) == 1
    taken = snapshot(broker, database, dag_id="demo", run_id="run-1", task_id="portfolio")
    with database.read() as transaction:
        (own,) = Positions(transaction).list(strategy="demo")
        (fill,) = Executions(transaction).for_intent(outcome.intent_id)
    assert [p.quantity for p in taken.positions] == [own.quantity] == [Decimal(10)]
    assert own.average_cost == fill.price + outcome.commission / 10


def test_bought_and_sold_the_books_are_flat(broker: BrokerSession, database: Database, books: Any) -> None:
    execute(broker, database, request_on(broker), owner="t")
    sell = OrderTicket(side=Side.SELL, quantity=Decimal(15))
    outcome = execute(broker, database, request_on(broker, run_id="run-2", ticket=sell), owner="t")
    assert outcome.filled == 10  # clamped to what is held
    assert not broker.positions()
    assert books.position() == 0


def test_forex(broker: BrokerSession, database: Database) -> None:
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(25_000))
    outcome = execute(broker, database, request_on(broker, symbol="EUR.USD", ticket=ticket), owner="t")
    assert (outcome.state, outcome.filled) == (IntentState.FILLED, Decimal(25_000))


def test_a_denied_order_never_reaches_the_broker(broker: BrokerSession, gateway: Any, database: Database) -> None:
    request = request_on(broker, rules=((RULES["order_notional"], {"max": 1}),))
    outcome = execute(broker, database, request, owner="t")
    assert (outcome.state, len(outcome.decisions)) == (IntentState.DENIED, 4)
    assert not at_broker(gateway, request)


def test_an_order_the_broker_refuses(broker: BrokerSession, gateway: Any, database: Database) -> None:
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(1_000_000))
    request = request_on(broker, ticket=ticket, rules=())
    outcome = execute(broker, database, request, owner="t")
    assert outcome.state is IntentState.REJECTED
    assert "201" in outcome.reason
    with database.read() as transaction:
        assert AccountOrders(transaction, outcome.source, ACCOUNT).open() == ()


def test_a_limit_order_that_does_not_fill_is_cancelled_and_confirmed(
    broker: BrokerSession, gateway: Any, database: Database
) -> None:
    request = request_on(broker, wait_seconds=1.0)
    request = request_on(broker, wait_seconds=1.0, ticket=away_from_market(broker, request))
    outcome = execute(broker, database, request, owner="t")
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, Decimal(0))
    assert [order["status"] for order in at_broker(gateway, request)] == ["Cancelled"]


def test_the_connection_dropped_after_the_order_was_accepted(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any
) -> None:
    with leased_session(spec, database, owner="first") as session:
        request = request_on(session)
        gateway.control("drop_after_accept")
        with pytest.raises(BrokerError) as raised:
            execute(session, database, request, owner="t")
        assert raised.value.family.startswith("retry")
    assert books.intent(request).state is IntentState.AMBIGUOUS
    with leased_session(spec, database, owner="second") as session:
        outcome = execute(session, database, request, owner="t")
        assert (outcome.state, outcome.filled) == (IntentState.FILLED, Decimal(10))
        assert [p.quantity for p in session.positions()] == [10]
    assert len(at_broker(gateway, request)) == 1


def test_a_lost_order_is_sent_once_more(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, lost: OrderRequest
) -> None:
    assert not at_broker(gateway, lost)
    with leased_session(spec, database, owner="second") as session:
        outcome = execute(session, database, lost, owner="t")
    assert outcome.state is IntentState.FILLED
    assert len(at_broker(gateway, lost)) == 1
    assert books.moves(outcome.intent_id)[:4] == ["reserved", "sending", "ambiguous", "sending"]


def test_a_lost_order_of_yesterday_needs_a_human(
    spec: GatewaySpec, gateway: Any, database: Database, lost: OrderRequest
) -> None:
    gateway.control("clock", advance=24 * 3600)
    with leased_session(spec, database, owner="second") as session, pytest.raises(AmbiguousOrder):
        execute(session, database, lost, owner="t")
    assert not at_broker(gateway, lost)


def test_the_working_order_of_a_crashed_worker_is_cancelled_by_its_own_client_id(
    spec: GatewaySpec, gateway: Any, database: Database, make_crash: Callable[[], None]
) -> None:
    with leased_session(spec, database, owner="first") as session:
        request = request_on(session)
        request = request_on(session, wait_seconds=0.5, ticket=away_from_market(session, request))
        first_id = session.client_id
        make_crash()
        with pytest.raises(KeyboardInterrupt):
            execute(session, database, request, owner="t")
    with leased_session(spec, database, owner="blocker"), leased_session(spec, database, owner="second") as session:
        assert session.client_id != first_id
        with pytest.raises(BrokerError, match="taken"):  # somebody else uses the id: later
            execute(session, database, request, owner="t")
    with leased_session(spec, database, owner="third") as session:
        outcome = execute(session, database, request, owner="t")
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, Decimal(0))
    assert [order["status"] for order in at_broker(gateway, request)] == ["Cancelled"]


def test_an_order_that_is_not_wanted_any_more_is_finished_not_sent_again(
    spec: GatewaySpec, gateway: Any, database: Database, make_crash: Callable[[], None]
) -> None:
    with leased_session(spec, database, owner="first") as session:
        request = request_on(session)
        request = request_on(session, ticket=away_from_market(session, request))
        make_crash()
        with pytest.raises(KeyboardInterrupt):
            execute(session, database, request, owner="t")
    key: dict[str, Any] = {"dag_id": "demo", "run_id": "run-1", "task_id": "order", "con_id": request.instrument.con_id}
    assert unfinished(database, **key) == [request.key.order_ref]
    for other in ({"run_id": "run-2"}, {"task_id": "order_2"}, {"con_id": 1}, {"dag_id": "other"}):
        assert unfinished(database, **key | other) == []
    with leased_session(spec, database, owner="second") as session:
        outcome = resume(session, database, request.key.order_ref, owner="t", wait_seconds=0.5)
        assert outcome is not None
        assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, Decimal(0))
        assert unfinished(database, **key) == []
        assert resume(session, database, request.key.order_ref, owner="t", wait_seconds=0.5) is None
        assert resume(session, database, "aip-none", owner="t", wait_seconds=0.5) is None
    assert [order["status"] for order in at_broker(gateway, request)] == ["Cancelled"]


def test_the_fill_of_an_order_that_is_not_wanted_any_more_is_booked(
    spec: GatewaySpec, gateway: Any, database: Database
) -> None:
    with leased_session(spec, database, owner="first") as session:
        request = request_on(session)
        gateway.control("drop_after_accept")
        with pytest.raises(BrokerError):
            execute(session, database, request, owner="t")
    other = replace(spec, conn_id="other")
    with leased_session(other, database, owner="second") as session, pytest.raises(ConfigError):
        resume(session, database, request.key.order_ref, owner="t", wait_seconds=20)
    with leased_session(spec, database, owner="third") as session:
        outcome = resume(session, database, request.key.order_ref, owner="t", wait_seconds=20)
    assert outcome is not None
    assert (outcome.state, outcome.filled) == (IntentState.FILLED, Decimal(10))
    assert len(at_broker(gateway, request)) == 1


def test_a_lost_order_that_is_not_wanted_any_more_is_abandoned(
    spec: GatewaySpec, gateway: Any, database: Database, lost: OrderRequest
) -> None:
    with leased_session(spec, database, owner="second") as session:
        outcome = resume(session, database, lost.key.order_ref, owner="t", wait_seconds=20)
    assert outcome is not None
    assert outcome.state is IntentState.ABANDONED
    assert not at_broker(gateway, lost)


def test_a_simulated_gateway_never_runs_live(broker: BrokerSession, gateway: Any, database: Database) -> None:
    request = request_on(broker, mode="live")
    with pytest.raises(LiveTradingRefused):
        execute(broker, database, request, owner="t")
    assert not at_broker(gateway, request)


def test_after_the_close_trading_hours_deny(broker: BrokerSession, gateway: Any, database: Database) -> None:
    gateway.control("clock", advance=8 * 3600)
    outcome = execute(broker, database, request_on(broker), owner="t")
    assert (outcome.state, outcome.reason) == (IntentState.DENIED, "trading_hours: the market is closed")
