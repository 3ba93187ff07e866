"""Closing positions by command, over sockets: the simulated gateway, the unmodified client library, SQLite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.flatten import Flattening, flatten
from airflow_ibkr_plugin.execution.halt import enforce, load, set_state
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, Side
from airflow_ibkr_plugin.trading.trading_state import TradingState

ACCOUNT = "DU1234567"
HALTED = TradingState.HALTED


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.5)


@pytest.fixture
def trade(spec: GatewaySpec, database: Database) -> Callable[..., None]:
    """Fills a market order of a strategy."""

    def fill(strategy: str, side: Side, quantity: int, symbol: str = "SPY") -> None:
        with leased_session(spec, database, owner="worker") as session:
            instrument = session.resolve(InstrumentSpec.parse(symbol))
            key = IntentKey(installation="t", dag_id=strategy, run_id=str(side), task_id="o", con_id=instrument.con_id)
            request = OrderRequest(
                key=key,
                strategy=strategy,
                source=session.source,
                account=session.account,
                mode="paper",
                instrument=instrument,
                ticket=OrderTicket(side=side, quantity=Decimal(quantity)),
                allow_short=True,
            )
            assert execute(session, database, request, owner="t").filled == quantity

    return fill


def by_hand(gateway: Any, action: str, quantity: int, symbol: str = "SPY") -> None:
    """Somebody trades in TWS."""
    gateway.control("manual_order", symbol=symbol, action=action, quantity=quantity)
    while "Submitted" in [order["status"] for order in gateway.control("orders")["orders"]]:
        gateway.control("clock", advance=1)


def command(database: Database, spec: GatewaySpec, strategy: str = "", command_id: str = "c1") -> None:
    """Halted, and confirmed as cancelled."""
    set_state(database, strategy, HALTED, by="anna", reason="drill", command_id=command_id, flatten=True)
    assert enforce(database, command_id, gateway_of=lambda _: spec, owner="halt").verified


def once(database: Database, spec: GatewaySpec, command_id: str = "c1", wait_seconds: float = 30.0) -> Flattening:
    return flatten(database, command_id, gateway_of=lambda _: spec, owner="f", wait_seconds=wait_seconds)


def held(spec: GatewaySpec, database: Database) -> list[Decimal]:
    with leased_session(spec, database, owner="look") as session:
        return [position.quantity for position in session.positions()]


def test_the_positions_of_one_strategy_are_closed_and_no_others(
    spec: GatewaySpec, database: Database, books: Any, trade: Any
) -> None:
    trade("demo", Side.BUY, 10)
    trade("other", Side.BUY, 4)
    command(database, spec, "demo")
    done = once(database, spec)
    assert (len(done.closed), done.left) == (1, ())
    assert (books.position("demo"), books.position("other")) == (0, 4)
    assert held(spec, database) == [4]
    assert load(database, "c1").flat_at is not None
    assert once(database, spec) == Flattening()


def test_the_installation_is_closed_strategy_by_strategy_and_then_what_was_bought_by_hand(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any
) -> None:
    trade("long", Side.BUY, 10)
    trade("short", Side.SELL, 15)
    trade("forex", Side.BUY, 25_000, "EUR.USD")
    by_hand(gateway, "BUY", 7, "AAPL")
    command(database, spec)
    done = once(database, spec)
    assert done.left == ()
    assert len(done.closed) == 4
    assert [books.position(strategy) for strategy in ("long", "short", "forex")] == [0, 0, 0]
    assert held(spec, database) == []


def test_a_strategy_closes_no_more_than_the_account_has(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any
) -> None:
    """Somebody sold a part of it by hand."""
    trade("demo", Side.BUY, 10)
    by_hand(gateway, "SELL", 6)
    command(database, spec, "demo")
    done = once(database, spec)
    assert held(spec, database) == []
    assert books.position("demo") == 6
    assert "6 SPY of demo" in done.left[0]
    assert "DENIED" in once(database, spec).closed[0].upper()
    assert held(spec, database) == []
    assert load(database, "c1").flat_at is None


def test_where_the_books_and_a_trade_by_hand_meet_the_account_is_closed_and_the_difference_told(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any
) -> None:
    trade("long", Side.BUY, 10)
    trade("short", Side.SELL, 15)
    by_hand(gateway, "BUY", 7)
    command(database, spec)
    done = once(database, spec)
    assert held(spec, database) == []
    assert books.position("long") == 0
    assert "-7 SPY of short" in done.left[0]
    assert len(done.left) == 1


@pytest.mark.parametrize("fault", ["drop_after_accept", "drop_before_accept"])
def test_repeated_after_a_lost_connection_it_closes_exactly_once(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, trade: Any, fault: str
) -> None:
    trade("demo", Side.BUY, 10)
    by_hand(gateway, "BUY", 7, "AAPL")
    command(database, spec)
    gateway.control(fault)
    assert once(database, spec).left
    done = once(database, spec)
    assert done.left == ()
    assert held(spec, database) == []
    assert books.position("demo") == 0
    sells = [order for order in gateway.control("orders")["orders"] if order["action"] == "SELL"]
    assert sorted(order["status"] for order in sells) == ["Filled", "Filled"]


def test_what_was_sent_for_no_strategy_is_finished_though_the_account_holds_it_no_more(
    spec: GatewaySpec, gateway: Any, database: Database, trade: Any
) -> None:
    trade("demo", Side.BUY, 1)
    trade("demo", Side.SELL, 1)
    by_hand(gateway, "BUY", 7, "AAPL")
    command(database, spec)
    gateway.control("drop_after_accept")
    once(database, spec)
    assert once(database, spec).left == ()
    with database.read() as transaction:
        intents = Intents(transaction).for_run("", "command:c1")
    assert [intent.state for intent in intents] == [IntentState.FILLED]


def test_what_did_not_fill_is_cancelled_told_and_closed_by_the_next_call(
    spec: GatewaySpec, gateway: Any, database: Database, trade: Any, books: Any
) -> None:
    trade("demo", Side.BUY, 12_000, "KO")
    gateway.control("clock", freeze=True)
    command(database, spec)
    first = once(database, spec, wait_seconds=1.0)
    assert "cancelled" in first.closed[0]
    assert "KO of demo" in first.left[0]
    rest = books.position("demo")
    assert 0 < rest < 12_000
    gateway.control("clock", freeze=False, speed=60)
    second = once(database, spec)
    assert second.left == ()
    assert f"SELL {rest:f} KO: filled" in second.closed[0]
    assert held(spec, database) == []


def test_two_commands_do_not_close_the_same_account_at_once(
    spec: GatewaySpec, database: Database, trade: Any, books: Any
) -> None:
    trade("demo", Side.BUY, 10)
    command(database, spec)
    with database.write() as transaction:
        now = datetime.now().astimezone()
        assert ClientLeases(transaction).acquire(f"flatten:simulator:{ACCOUNT}", range(1), "c9", now, 60) is not None
    other = once(database, spec)
    assert "Another command, or the service, closes" in other.left[0]
    assert other.busy
    with database.write() as transaction:
        ClientLeases(transaction).release(f"flatten:simulator:{ACCOUNT}", 0, "c9")
        assert ClientLeases(transaction).acquire(f"flatten:simulator:{ACCOUNT}", range(1), "c1", now, 60) is not None
    assert once(database, spec).left == ()  # its own, of a process that died
    assert books.position("demo") == 0


def test_nothing_is_closed_before_the_cancel_is_confirmed_or_after_the_command_was_ended(
    spec: GatewaySpec, database: Database, trade: Any, books: Any, unused_port: int
) -> None:
    trade("demo", Side.BUY, 10)
    set_state(database, "", HALTED, by="anna", reason="drill", command_id="c1", flatten=True)
    down = replace(spec, port=unused_port)
    assert not enforce(database, "c1", gateway_of=lambda _: down, owner="halt").verified
    with pytest.raises(ConfigError, match="may work"):
        once(database, spec)
    command(database, spec)
    assert "No gateway at" in once(database, down).left[0]
    set_state(database, "", TradingState.ACTIVE, by="anna", reason="over")
    with pytest.raises(ConfigError, match="ended"):
        once(database, spec)
    assert books.position("demo") == 10
