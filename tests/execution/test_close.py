"""Closing a strategy's position by a person's command, over sockets: the simulated gateway, SQLite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.execution import halt as halt_module
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.close import begin_close, withdraw_close
from airflow_ibkr_plugin.execution.flatten import Flattening, flatten
from airflow_ibkr_plugin.execution.halt import enforce, load, set_state
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.trading_state import TradingState

AFTER_CLOSE = "2026-03-02T22:30:00+00:00"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(halt_module, "SETTLE_SECONDS", 0.2)


@pytest.fixture
def trade(spec: GatewaySpec, database: Database) -> Callable[..., str]:
    """Trades for a strategy at the market; with a limit it leaves the order at the broker."""

    def fill(strategy: str, side: Side, quantity: int, symbol: str = "SPY", limit: int | None = None) -> str:
        with leased_session(spec, database, owner="worker") as session:
            instrument = session.resolve(InstrumentSpec.parse(symbol))
            key = IntentKey(
                installation="t", dag_id=strategy, run_id=f"{side}{limit}", task_id="o", con_id=instrument.con_id
            )
            ticket = OrderTicket(side=side, quantity=Decimal(quantity))
            if limit:
                ticket = replace(ticket, order_type=OrderType.LIMIT, limit_price=Decimal(limit))
            request = OrderRequest(
                key=key,
                strategy=strategy,
                source=session.source,
                account=session.account,
                mode="paper",
                instrument=instrument,
                ticket=ticket,
                wait_seconds=0.1 if limit else 60.0,
                leave_working=bool(limit),
                allow_short=True,
            )
            execute(session, database, request, owner="t")
        return key.order_ref

    return fill


def close(database: Database, spec: GatewaySpec, command_id: str = "c1", **changes: Any) -> Flattening:
    """What the command line does."""
    begin_close(database, command_id, "demo", **{"symbol": "SPY", "by": "anna@desk"} | changes)
    assert enforce(database, command_id, gateway_of=lambda _: spec, owner="e").verified
    return flatten(database, command_id, gateway_of=lambda _: spec, owner="f", wait_seconds=30)


def state(database: Database, order_ref: str) -> IntentState:
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(order_ref)
    assert row is not None
    return row.state


def statuses(gateway: Any, order_ref: str) -> list[str]:
    return [order["status"] for order in gateway.control("orders", order_ref=order_ref)["orders"]]


def test_one_symbol_of_one_strategy_is_closed_and_what_works_in_it_is_cancelled_before(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any
) -> None:
    """Its target and its stop would sell what is not there any more."""
    trade("demo", Side.BUY, 10)
    trade("demo", Side.BUY, 7, "AAPL")
    trade("other", Side.BUY, 4)
    target, elsewhere = trade("demo", Side.SELL, 10, limit=5_000), trade("demo", Side.SELL, 7, "AAPL", limit=5_000)
    others = trade("other", Side.SELL, 4, limit=5_000)
    done = close(database, spec)
    assert (len(done.closed), done.left) == (1, ())
    assert "SELL 10 SPY: filled" in done.closed[0]
    assert (books.position("demo"), books.position("other")) == (7, 4)
    assert state(database, target) is IntentState.CANCELLED
    assert statuses(gateway, target) == ["Cancelled"]
    assert [state(database, ref) for ref in (elsewhere, others)] == [IntentState.WORKING] * 2
    assert load(database, "c1").flat_at is not None
    assert close(database, spec) == Flattening()  # the same command, given again
    assert books.position("demo") == 7


def test_all_that_a_strategy_holds_long_and_short(
    spec: GatewaySpec, database: Database, books: Any, trade: Any
) -> None:
    trade("demo", Side.BUY, 10)
    trade("demo", Side.SELL, 7, "AAPL")
    done = close(database, spec, symbol="")
    assert (len(done.closed), done.left, books.position("demo")) == (2, (), 0)


def test_a_quantity_is_closed_once_however_often_the_command_is_given(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any
) -> None:
    trade("demo", Side.SELL, 10)
    assert close(database, spec, quantity=Decimal(4)).left == ()
    assert close(database, spec, quantity=Decimal(4)).closed == ()
    assert books.position("demo") == -6
    assert close(database, spec, "c2", quantity=Decimal(100)).left == ()  # never through zero
    assert books.position("demo") == 0


def test_what_one_order_left_of_the_quantity_is_closed_by_the_next_and_no_more(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any
) -> None:
    trade("demo", Side.BUY, 14_000, "KO")
    gateway.control("clock", freeze=True)
    begin_close(database, "c1", "demo", symbol="KO", quantity=Decimal(12_000), by="anna")
    assert enforce(database, "c1", gateway_of=lambda _: spec, owner="e").verified
    first = flatten(database, "c1", gateway_of=lambda _: spec, owner="f", wait_seconds=1.0)
    assert "KO of demo" in first.left[0]
    rest = books.position("demo") - 2_000
    assert 0 < rest < 12_000
    gateway.control("clock", freeze=False, speed=60)
    second = flatten(database, "c1", gateway_of=lambda _: spec, owner="f", wait_seconds=30)
    assert f"SELL {rest:f} KO: filled" in second.closed[0]
    assert (second.left, books.position("demo")) == ((), 2_000)


def test_the_quantity_holds_in_the_reserving_transaction_too(
    spec: GatewaySpec, database: Database, books: Any, trade: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that carry out one command, each having read what is held before the other sent."""
    trade("demo", Side.BUY, 10)
    assert close(database, spec, quantity=Decimal(4)).left == ()
    with database.write() as transaction:
        command = TradingCommands(transaction).get("c1")
        assert command is not None
        command.flat_at = None
    read, calls = TradingCommands.left_to_close, []

    def late(self: Any, command_id: str, **how: Any) -> Decimal | None:
        calls.append(how)
        return Decimal(4) if len(calls) == 1 else read(self, command_id, **how)

    monkeypatch.setattr(TradingCommands, "left_to_close", late)
    found = flatten(database, "c1", gateway_of=lambda _: spec, owner="f")
    assert "denied" in found.closed[0]
    assert books.position("demo") == 6


@pytest.mark.parametrize("fault", ["drop_after_accept", "drop_before_accept"])
def test_repeated_after_a_lost_connection_it_closes_exactly_once(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any, fault: str
) -> None:
    trade("demo", Side.BUY, 10)
    begin_close(database, "c1", "demo", symbol="SPY", quantity=Decimal(6), by="anna")
    assert enforce(database, "c1", gateway_of=lambda _: spec, owner="e").verified
    gateway.control(fault)
    assert flatten(database, "c1", gateway_of=lambda _: spec, owner="f").left
    assert close(database, spec, quantity=Decimal(6)).left == ()
    assert books.position("demo") == 4
    sells = [order for order in gateway.control("orders")["orders"] if order["action"] == "SELL"]
    assert [order["filled"] for order in sells] == ["6"]


@pytest.mark.parametrize("trading", [TradingState.HALTED, TradingState.REDUCING])
def test_it_goes_out_in_any_trading_state_and_leaves_it(
    spec: GatewaySpec, database: Database, books: Any, trade: Any, trading: TradingState
) -> None:
    trade("demo", Side.BUY, 10)
    set_state(database, "demo", trading, by="anna", reason="drill")
    assert close(database, spec).left == ()
    assert books.position("demo") == 0
    assert load(database, "c1").state is trading
    set_state(database, "demo", TradingState.ACTIVE, by="anna", reason="over")
    assert load(database, "c1").ended_at is None


def test_a_position_without_any_price_is_closed(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any
) -> None:
    trade("demo", Side.BUY, 10)
    gateway.control("market_data", access="none")
    assert close(database, spec).left == ()
    assert books.position("demo") == 0


def test_nothing_is_sent_while_the_market_is_known_to_be_closed(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any
) -> None:
    trade("demo", Side.BUY, 10)
    gateway.control("clock", set=AFTER_CLOSE)
    before = len(gateway.control("orders")["orders"])
    done = close(database, spec)
    assert "10 SPY of demo" in done.left[0]
    assert "market is closed" in done.left[0]
    assert len(gateway.control("orders")["orders"]) == before
    gateway.control("clock", set="2026-03-03T15:00:00+00:00")
    assert close(database, spec).left == ()
    assert books.position("demo") == 0


def test_a_withdrawn_command_is_not_carried_on(spec: GatewaySpec, database: Database, books: Any, trade: Any) -> None:
    trade("demo", Side.BUY, 10)
    begin_close(database, "c1", "demo", by="anna")
    withdraw_close(database, "c1")
    with pytest.raises(ConfigError, match="when it was withdrawn"):
        enforce(database, "c1", gateway_of=lambda _: spec, owner="e")
    with pytest.raises(ConfigError, match="was withdrawn"):
        begin_close(database, "c1", "demo", by="anna")
    with pytest.raises(ConfigError, match="There is no closing c9"):
        withdraw_close(database, "c9")
    assert books.position("demo") == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantity": Decimal(0)}, "cannot be closed"),
        ({"quantity": Decimal("NaN")}, "cannot be closed"),
        ({"quantity": Decimal(1), "symbol": ""}, "cannot be closed"),
        ({"strategy": "none"}, "No run and no order of strategy 'none'"),
        ({"strategy": ""}, "No run and no order of strategy ''"),
        ({"symbol": "AAPL"}, "was another one"),
        ({"quantity": Decimal(3)}, "was another one"),
    ],
)
def test_what_cannot_be_closed_is_said(database: Database, trade: Any, changes: dict[str, Any], said: str) -> None:
    trade("demo", Side.BUY, 10)
    given = {"strategy": "demo", "symbol": "SPY", "by": "anna"}
    begin_close(database, "c1", **given)
    with pytest.raises(ConfigError, match=said):
        begin_close(database, "c1", **given | changes)


def test_the_id_of_a_closing_is_no_halts(database: Database, trade: Any) -> None:
    trade("demo", Side.BUY, 10)
    set_state(database, "demo", TradingState.HALTED, by="anna", reason="drill")
    begin_close(database, "c1", "demo", by="anna")
    with pytest.raises(ConfigError, match="was CLOSE for strategy demo with --flatten"):
        set_state(database, "demo", TradingState.HALTED, by="a", reason="r", command_id="c1", flatten=True)
