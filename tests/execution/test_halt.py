"""The kill switch over sockets: the simulated gateway, the unmodified client library, the broker seam, SQLite."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker import placement
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import BrokerError, ConfigError
from airflow_ibkr_plugin.execution import halt as halt_module
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.halt import Enforcement, enforce, load, set_state
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.trading_state import TradingState

ACCOUNT = "DU1234567"
LARGE = OrderTicket(side=Side.BUY, quantity=Decimal(12_000))  # the simulated market offers 5,000 KO a second
HALTED = TradingState.HALTED


@pytest.fixture
def gateway() -> Iterator[Any]:
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")  # a Monday, half an hour into the session
    with start_simulator(seed=7, clock=clock, account=ACCOUNT) as simulator:
        yield simulator


@pytest.fixture
def spec(gateway: Any) -> GatewaySpec:
    return GatewaySpec(
        conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(halt_module, "SETTLE_SECONDS", 0.5)


class Crash(BaseException):
    """Ends a worker at once: nothing catches it."""


def far(
    session: BrokerSession, strategy: str = "demo", run_id: str = "1", symbol: str = "SPY", **changes: Any
) -> OrderRequest:
    """Ten SPY at a price that nobody gives."""
    instrument = session.resolve(InstrumentSpec.parse(symbol))
    reference = session.quote(instrument).reference
    assert reference is not None
    fields: dict[str, Any] = {
        "key": IntentKey(
            installation="test", dag_id=strategy, run_id=run_id, task_id="order", con_id=instrument.con_id
        ),
        "strategy": strategy,
        "source": session.source,
        "account": session.account,
        "mode": "paper",
        "instrument": instrument,
        "ticket": OrderTicket(
            side=Side.BUY,
            quantity=Decimal(10),
            order_type=OrderType.LIMIT,
            limit_price=(reference / 2).quantize(Decimal(1)),
        ),
        "wait_seconds": 120.0,
    }
    return OrderRequest(**fields | changes)


@pytest.fixture
def leave_working(spec: GatewaySpec, database: Database) -> Callable[..., OrderRequest]:
    """Places such an order by a worker that dies when it works; `killed`: as by SIGKILL, so that its leases run on."""

    def leave(strategy: str = "demo", *, killed: bool = False, **changes: Any) -> OrderRequest:
        with leased_session(spec, database, owner="worker") as session:
            request = far(session, strategy, **changes)
            dying: Any = session
            dying.wait_terminal = crash
            with pytest.raises(Crash):
                execute(session, database, request, owner="t")
        if killed:
            now = datetime.now(UTC)
            with database.write() as transaction:
                row = Intents(transaction).by_order_ref(request.key.order_ref)
                assert row is not None
                assert Intents(transaction).acquire_lease(row.id, "dead", now=now, seconds=60)
                held = ClientLeases(transaction).acquire(spec.address, [session.client_id], "dead", now, 120)
                assert held == row.client_id
        return request

    return leave


def crash(*_: Any, **__: Any) -> Any:
    raise Crash


def halt(database: Database, strategy: str = "", **changes: Any) -> None:
    fields: dict[str, Any] = {"by": "anna", "reason": "drill", "command_id": "c1"}
    set_state(database, strategy, HALTED, **fields | changes)


def once(database: Database, spec: GatewaySpec, command_id: str = "c1") -> Enforcement:
    return enforce(database, command_id, gateway_of=lambda conn_id: replace(spec, conn_id=conn_id), owner="halt")


def statuses(gateway: Any, request: OrderRequest) -> list[str]:
    return [order["status"] for order in gateway.control("orders", order_ref=request.key.order_ref)["orders"]]


def effective(database: Database, strategy: str = "demo") -> TradingState:
    with database.read() as transaction:
        return TradingStates(transaction).effective(strategy).state


def test_orders_of_dead_workers_are_cancelled_by_the_client_ids_that_own_them(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, leave_working: Any
) -> None:
    with leased_session(spec, database, owner="in the way of the first id"):
        second = leave_working(run_id="2")
    first = leave_working()
    assert books.intent(first).client_id != books.intent(second).client_id
    halt(database)
    done = once(database, spec)
    assert done.verified, done
    assert len(done.cancelled) == 2
    assert statuses(gateway, first) == statuses(gateway, second) == ["Cancelled"]
    for request in (first, second):
        assert books.intent(request).state is IntentState.CANCELLED
    assert load(database, "c1").cancelled_at is not None
    assert once(database, spec) == Enforcement()


def test_the_leases_of_a_killed_worker_do_not_stand_in_the_way(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, leave_working: Any
) -> None:
    request = leave_working(killed=True)
    halt(database)
    assert once(database, spec).verified
    assert statuses(gateway, request) == ["Cancelled"]
    assert books.intent(request).state is IntentState.WORKING  # entered by whoever comes when the lease has run out


def test_a_strategys_halt_leaves_the_orders_of_others_and_those_made_by_hand(
    spec: GatewaySpec, gateway: Any, database: Database, leave_working: Any
) -> None:
    own, other = leave_working("demo"), leave_working("other")
    gateway.control("manual_order", symbol="AAPL", action="BUY", quantity=1, limit=1.0)
    halt(database, "demo")
    assert once(database, spec).verified
    assert (statuses(gateway, own), statuses(gateway, other)) == (["Cancelled"], ["Submitted"])
    halt(database, command_id="c2")
    assert once(database, spec, "c2").verified
    assert statuses(gateway, other) == ["Cancelled"]
    assert [o["status"] for o in gateway.control("orders")["orders"]].count("Submitted") == 1


def test_while_the_gateway_is_down_nothing_is_verified_the_state_stays_and_a_later_round_cancels(
    spec: GatewaySpec, gateway: Any, database: Database, leave_working: Any, unused_port: int
) -> None:
    request = leave_working()
    halt(database)
    down = once(database, replace(spec, port=unused_port))
    assert not down.verified
    assert "No gateway at" in down.unreachable[0]
    assert effective(database) is HALTED
    with database.read() as transaction:
        (waiting,) = TradingCommands(transaction).uncancelled()
    assert "No gateway at" in waiting.last_error
    assert statuses(gateway, request) == ["Submitted"]
    assert once(database, spec).verified
    assert statuses(gateway, request) == ["Cancelled"]
    with database.read() as transaction:
        assert TradingCommands(transaction).uncancelled() == []


def test_a_worker_that_waits_for_its_order_cancels_it_itself(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any
) -> None:
    with leased_session(spec, database, owner="worker") as session:
        request, outcomes = far(session), []
        working = threading.Event()
        wait = session.wait_terminal

        def waiting(*arguments: Any, **named: Any) -> Any:
            working.set()
            return wait(*arguments, **named)

        followed: Any = session
        followed.wait_terminal = waiting
        worker = threading.Thread(target=lambda: outcomes.append(execute(session, database, request, owner="t")))
        worker.start()
        assert working.wait(30)
        halt(database)
        first = once(database, spec)
        assert not first.verified
        assert "its worker cancels it" in first.left[0]
        worker.join(30)
    assert outcomes[0].state is IntentState.CANCELLED
    assert any("cancelling" in move for move in books.moves(outcomes[0].intent_id))
    assert once(database, spec).verified


def test_a_partly_filled_order_is_cancelled_and_its_fills_are_kept(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, leave_working: Any
) -> None:
    gateway.control("clock", freeze=True)
    request = leave_working(symbol="KO", ticket=LARGE)
    halt(database)
    assert once(database, spec).verified
    assert statuses(gateway, request) == ["Cancelled"]
    assert books.intent(request).state is IntentState.CANCELLED
    assert 5000 <= books.position("demo") < 12_000
    with leased_session(spec, database, owner="look") as session:
        assert [position.quantity for position in session.positions()] == [books.position("demo")]


def test_an_order_that_filled_while_it_was_cancelled_is_booked_as_filled(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any, monkeypatch: pytest.MonkeyPatch, leave_working: Any
) -> None:
    gateway.control("clock", freeze=True)
    request = leave_working(symbol="KO", ticket=LARGE)
    cancel, codes = placement.cancel, []

    async def late(broker: Any, order: Any, *, seconds: float) -> Any:
        while statuses(gateway, request) != ["Filled"]:
            gateway.control("clock", advance=1)
        truth = await cancel(broker, order, seconds=seconds)
        codes.extend(error.code for error in broker.journal.order_errors[order.order_id])
        return truth

    monkeypatch.setattr(placement, "cancel", late)
    halt(database)
    done = once(database, spec)
    assert done.verified, done
    assert codes == [10148]
    assert "Filled, filled 12000" in done.cancelled[0]
    assert books.intent(request).state is IntentState.FILLED
    assert books.position("demo") == 12_000


def test_an_order_that_may_be_on_its_way_keeps_the_halt_unverified(
    spec: GatewaySpec, gateway: Any, database: Database, books: Any
) -> None:
    with leased_session(spec, database, owner="worker") as session:
        request = far(session)
        gateway.control("drop_before_accept")
        with pytest.raises(BrokerError):
            execute(session, database, request, owner="t")
    halt(database)
    first = once(database, spec)
    assert not first.verified
    assert "may be on its way" in first.left[0]
    assert once(database, spec).verified  # asked twice, half a second apart
    assert books.intent(request).state is IntentState.ABANDONED
    assert statuses(gateway, request) == []


def test_an_unanswered_listing_verifies_nothing(
    spec: GatewaySpec, gateway: Any, database: Database, leave_working: Any
) -> None:
    leave_working()
    halt(database)
    gateway.control("mute", messages=["openOrderEnd"])
    done = once(database, replace(spec, timeout=1.0))
    assert not done.verified
    assert load(database, "c1").cancelled_at is None
    gateway.control("mute", messages=[])


def test_a_connection_that_is_gone_matters_only_where_orders_may_be_left(
    spec: GatewaySpec, database: Database, leave_working: Any
) -> None:
    def gone(conn_id: str) -> GatewaySpec:
        raise ConfigError(f"no connection {conn_id}")

    leave_working()
    halt(database)
    assert not enforce(database, "c1", gateway_of=gone, owner="halt").verified
    assert once(database, spec).verified
    halt(database, command_id="c2")
    assert enforce(database, "c2", gateway_of=gone, owner="halt").verified


def test_a_looser_state_needs_a_reason_and_ends_the_commands_of_its_scope(
    spec: GatewaySpec, database: Database, leave_working: Any, gateway: Any
) -> None:
    request = leave_working()
    halt(database)
    for looser in (TradingState.REDUCING, TradingState.ACTIVE):
        with pytest.raises(ConfigError, match="--reason"):
            set_state(database, "", looser, by="ben", reason=" ")
    assert effective(database) is HALTED
    assert set_state(database, "", TradingState.ACTIVE, by="ben", reason="over")
    with pytest.raises(ConfigError, match="ended"):
        once(database, spec)
    with pytest.raises(ConfigError, match="ended"):
        halt(database)
    assert effective(database) is TradingState.ACTIVE
    assert statuses(gateway, request) == ["Submitted"]


def test_a_command_id_is_of_one_command(database: Database) -> None:
    halt(database)
    halt(database)
    for other in ({"strategy": "demo"}, {"flatten": True}):
        with pytest.raises(ConfigError, match="c1 was HALTED for the installation, not this"):
            halt(database, **other)
    assert effective(database, "demo") is HALTED
    with pytest.raises(ConfigError, match="no command"):
        load(database, "c9")
