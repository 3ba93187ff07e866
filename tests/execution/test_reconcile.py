"""Reconciliation over sockets: the simulated gateway, the unmodified client library, both books."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import BooksDisagree, BrokerError, BrokerTimeout
from airflow_ibkr_plugin.execution import reconcile as engine
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import ExecutionRow, OrderRow, PositionRow, ReconciliationDifference
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.reconcile import DifferenceKind, Result
from airflow_ibkr_plugin.trading.trading_state import TradingState

ACCOUNT = "DU1234567"
SOURCE = "simulator:ibkr_default"


@pytest.fixture
def broker(spec: GatewaySpec, database: Database) -> Iterator[BrokerSession]:
    with leased_session(spec, database, owner="test") as session:
        yield session


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.1)


def request(broker: BrokerSession, run_id: str = "run-1", symbol: str = "SPY", **changes: Any) -> OrderRequest:
    instrument = broker.resolve(InstrumentSpec.parse(symbol))
    strategy = changes.pop("strategy", "demo")
    ticket = {"side": Side.BUY, "quantity": Decimal(10)} | changes.pop("ticket", {})
    fields: dict[str, Any] = {
        "key": IntentKey(installation="t", dag_id=strategy, run_id=run_id, task_id="order", con_id=instrument.con_id),
        "strategy": strategy,
        "source": broker.source,
        "account": broker.account,
        "mode": "paper",
        "instrument": instrument,
        "ticket": OrderTicket(**ticket),
        "allow_short": True,
    }
    return OrderRequest(**fields | changes)


def trade(broker: BrokerSession, database: Database, run_id: str = "run-1", symbol: str = "SPY", **changes: Any) -> Any:
    return execute(broker, database, request(broker, run_id, symbol, **changes), owner="t")


def leave(broker: BrokerSession, database: Database, run_id: str = "run-1") -> OrderRequest:
    """A limit far below the market, left working."""
    limit = {"order_type": OrderType.LIMIT, "limit_price": Decimal(100)}
    left = request(broker, run_id, ticket=limit, leave_working=True, wait_seconds=0.1)
    assert execute(broker, database, left, owner="t").state is IntentState.WORKING
    return left


def state(database: Database, strategy: str = "demo") -> TradingState:
    with database.read() as session:
        return TradingStates(session).effective(strategy).state


def alerts(database: Database) -> list[str]:
    with database.read() as session:
        return [f"{row.title}\n{row.body}" for row in Alerts(session).due(datetime(2100, 1, 1, tzinfo=UTC))]


def held(database: Database, strategy: str = "demo") -> dict[str, Decimal]:
    with database.read() as session:
        return {row.symbol: row.quantity for row in Positions(session).list(strategy=strategy)}


def forget(database: Database) -> None:
    """Our book as it was before the fills, as after a restored backup of positions and executions."""
    with database.write() as session:
        for model in (ExecutionRow, PositionRow):
            session.execute(model.__table__.delete())


def test_what_was_traded_by_us_agrees(broker: BrokerSession, database: Database) -> None:
    trade(broker, database)
    leave(broker, database, "run-2")
    found = reconcile(broker, database, by="test")
    assert (found.result, found.differences, found.booked, found.beside) == (Result.AGREE, (), 0, {})
    with database.read() as session:
        row = Reconciliations(session, SOURCE, ACCOUNT).last_made()
        assert row is not None
        assert (row.id, row.made_by, row.result, row.source) == (found.id, "test", Result.AGREE, SOURCE)
    assert alerts(database) == []


def test_fills_that_our_book_lacks_are_booked_and_agree(broker: BrokerSession, database: Database) -> None:
    trade(broker, database)
    trade(broker, database, "run-2", strategy="other")
    forget(database)
    found = reconcile(broker, database, by="test")
    assert (found.result, found.booked) == (Result.AGREE, 2)
    assert (held(database), held(database, "other")) == ({"SPY": Decimal(10)}, {"SPY": Decimal(10)})
    assert reconcile(broker, database, by="test").booked == 0
    assert state(database) is TradingState.ACTIVE


def test_a_trade_by_hand_reduces_who_holds_it_and_is_told_once(
    broker: BrokerSession, database: Database, gateway: Any
) -> None:
    trade(broker, database)
    trade(broker, database, "run-2", "AAPL", strategy="other")
    assert reconcile(broker, database, by="test").result is Result.AGREE
    gateway.control("manual_order", symbol="SPY", action="BUY", quantity=7)
    _wait_for_fill(broker, 3)
    for _ in range(2):
        found = reconcile(broker, database, by="test")
        assert found.result is Result.DISAGREE
        (one,) = found.open
        assert (one.kind, one.symbol, one.ours, one.theirs) == (DifferenceKind.POSITION, "SPY", "10", "17")
        assert one.strategies == ("demo",)
        assert "BUY 7 at " in one.detail
    assert (state(database), state(database, "other")) == (TradingState.REDUCING, TradingState.ACTIVE)
    (alert,) = alerts(database)
    assert "SPY" in alert
    assert "demo is REDUCING" in alert
    assert f"airflow ibkr reconcile --accept {found.id - 1} --reason TEXT" in alert
    with database.read() as session:
        (stored,) = [row for row in session.query(ExecutionRow) if row.intent_id is None]
        assert (stored.quantity, stored.strategy) == (Decimal(7), "")
        assert [row.order_ref for row in session.query(OrderRow) if row.intent_id is None] == [""]
        assert {row.reconciliation_id for row in session.query(ReconciliationDifference)} == {found.id - 1, found.id}
    assert held(database) == {"SPY": Decimal(10)}


def test_a_person_accepts_what_differs_and_the_next_change_differs_again(
    broker: BrokerSession, database: Database, gateway: Any
) -> None:
    trade(broker, database)
    reconcile(broker, database, by="test")
    gateway.control("manual_order", symbol="SPY", action="BUY", quantity=7)
    _wait_for_fill(broker, 2)
    seen = reconcile(broker, database, by="test")
    assert seen.result is Result.DISAGREE
    trade(broker, database, "run-2", ticket={"side": Side.SELL, "quantity": Decimal(3)})  # both sides follow
    taken = reconcile(broker, database, by="ann@desk", accept=seen.id, reason="bought by hand")
    assert taken.result is Result.AGREE
    assert [one.accepted for one in taken.differences] == [True]
    with database.read() as session:
        row = Reconciliations(session, SOURCE, ACCOUNT).last_made()
        assert row is not None
        assert (row.accepted_by, row.reason) == ("ann@desk", "bought by hand")
    again = reconcile(broker, database, by="test")
    assert (again.result, again.beside) == (Result.AGREE, {"SPY": Decimal(7)})
    assert state(database) is TradingState.REDUCING  # only a person's `resume` lets it trade
    gateway.control("manual_order", symbol="SPY", action="SELL", quantity=2)
    _wait_for_fill(broker, 4)
    (one,) = reconcile(broker, database, by="test").open
    assert (one.ours, one.theirs) == ("14", "12")


@pytest.mark.parametrize("more", [("SPY", 5), ("AAPL", 5), ("SPY", -7)])
def test_only_what_a_person_has_seen_is_accepted(
    broker: BrokerSession, database: Database, gateway: Any, more: tuple[str, int]
) -> None:
    symbol, quantity = more
    trade(broker, database)
    agreed = reconcile(broker, database, by="test")
    gateway.control("manual_order", symbol="SPY", action="BUY", quantity=7)
    _wait_for_fill(broker, 2)
    seen = reconcile(broker, database, by="test")
    gateway.control("manual_order", symbol=symbol, action="BUY" if quantity > 0 else "SELL", quantity=abs(quantity))
    _wait_for_fill(broker, 3)
    for named in (seen.id, agreed.id, 999):
        with pytest.raises(BooksDisagree, match=f"is not what reconciliation {named} found; nothing is acc") as caught:
            reconcile(broker, database, by="ann", accept=named, reason="bought by hand")
        with database.read() as session:
            found = Reconciliations(session, SOURCE, ACCOUNT)
            last = found.last_made()
            assert last is not None
            assert (last.accepted_by, found.unexplained(), found.accepted()) == ("", {}, frozenset())
            assert f"Reconciliation {last.id}: " in caught.value.message
            assert (last.result is Result.AGREE) == (quantity < 0)
    if quantity > 0:
        assert f"--accept {last.id} --reason TEXT" in caught.value.remedy
        assert reconcile(broker, database, by="ann", accept=last.id, reason="both").result is Result.AGREE


def test_what_another_account_s_reconciliation_found_is_not_accepted(
    broker: BrokerSession, database: Database, gateway: Any
) -> None:
    trade(broker, database)
    gateway.control("manual_order", symbol="SPY", action="BUY", quantity=7)
    _wait_for_fill(broker, 2)
    seen = reconcile(broker, database, by="test")
    with database.write() as session:
        other = Reconciliations(session, SOURCE, "DU9")
        other_id = other.add(Result.DISAGREE, seen.differences, at=seen.at, made_by="test").id
    with pytest.raises(BooksDisagree):
        reconcile(broker, database, by="ann", accept=other_id, reason="mine")


def test_what_was_held_before_us_is_taken_over_once_and_shown(
    broker: BrokerSession, database: Database, gateway: Any
) -> None:
    gateway.control("manual_order", symbol="AAPL", action="BUY", quantity=5)
    _wait_for_fill(broker, 1)
    first = reconcile(broker, database, by="test")
    assert (first.result, first.beside) == (Result.AGREE, {"AAPL": Decimal(5)})
    gateway.control("manual_order", symbol="MSFT", action="BUY", quantity=3)
    _wait_for_fill(broker, 2)
    second = reconcile(broker, database, by="test")
    assert [(one.symbol, one.strategies) for one in second.open] == [("MSFT", ())]


def test_the_first_time_a_contract_that_we_ordered_is_not_taken_over(
    broker: BrokerSession, database: Database, gateway: Any
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "reconcile", None)
        trade(broker, database)
    with database.write() as session:  # an installation of before reconciliations
        for model in (ReconciliationDifference, *_reconciliations()):
            session.execute(model.__table__.delete())
    gateway.control("manual_order", symbol="SPY", action="SELL", quantity=4)
    _wait_for_fill(broker, 2)
    (one,) = reconcile(broker, database, by="test").open
    assert (one.ours, one.theirs) == ("10", "6")


def test_an_order_that_the_broker_lost_differs(
    broker: BrokerSession, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave(broker, database)
    everything = BrokerSession.everything
    monkeypatch.setattr(BrokerSession, "everything", lambda self: replace(everything(self), orders=(), executions=()))
    assert reconcile(broker, database, by="test").result is Result.AGREE  # it was moved just now
    _age(database)
    (one,) = reconcile(broker, database, by="test").open
    assert (one.kind, one.order_ref, one.strategies) == (
        DifferenceKind.ORDER_MISSING,
        left.key.order_ref,
        ("demo",),
    )


def test_an_order_changed_by_hand_differs_until_it_is_accepted(
    broker: BrokerSession, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(broker, database)
    everything = BrokerSession.everything

    def changed(self: BrokerSession) -> Any:
        truth = everything(self)
        return replace(truth, orders=tuple(replace(o, limit_price=Decimal(101)) for o in truth.orders))

    monkeypatch.setattr(BrokerSession, "everything", changed)
    found = reconcile(broker, database, by="test")
    (one,) = found.open
    assert (one.kind, one.ours, one.theirs) == (DifferenceKind.ORDER_CHANGED, "limit 100", "limit 101")
    assert state(database) is TradingState.REDUCING
    reconcile(broker, database, by="ann", accept=found.id, reason="my hand")
    assert reconcile(broker, database, by="test").result is Result.AGREE


def test_an_order_with_a_reference_like_ours_that_we_do_not_know_differs(
    broker: BrokerSession, database: Database
) -> None:
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(1), order_type=OrderType.LIMIT, limit_price=Decimal(100))
    instrument = broker.resolve(InstrumentSpec.parse("SPY"))
    broker.place(instrument, ticket, order_id=broker.next_order_id(), order_ref="aip-unknown", account=ACCOUNT)
    (one,) = reconcile(broker, database, by="test").open
    assert (one.kind, one.order_ref) == (DifferenceKind.ORDER_UNKNOWN, "aip-unknown")


def test_an_order_ended_by_our_book_that_works_differs(broker: BrokerSession, database: Database) -> None:
    left = leave(broker, database)
    from airflow_ibkr_plugin.store.intents import Intents

    with database.write() as session:
        row = Intents(session).by_order_ref(left.key.order_ref)
        assert row is not None
        Intents(session).transition(row, IntentState.CANCELLED, at=datetime.now(UTC), reason="a false cancel")
    (one,) = reconcile(broker, database, by="test").open
    assert (one.kind, one.ours, one.strategies) == (DifferenceKind.ORDER_ALIVE, "cancelled", ("demo",))


def test_a_fill_without_our_reference_is_ours_by_its_permid(
    broker: BrokerSession, database: Database, gateway: Any
) -> None:
    gateway.control("unnamed_fill")
    trade(broker, database)
    forget(database)
    found = reconcile(broker, database, by="test")
    assert (found.result, found.booked) == (Result.AGREE, 1)
    assert held(database) == {"SPY": Decimal(10)}


def test_what_cannot_be_asked_is_stored_as_not_made(
    broker: BrokerSession, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconcile(broker, database, by="test")

    def mute(_: BrokerSession) -> Any:
        raise BrokerTimeout("no positions")

    monkeypatch.setattr(BrokerSession, "positions", mute)
    with pytest.raises(BrokerError, match="no positions"):
        reconcile(broker, database, by="test")
    with database.read() as session:
        last = Reconciliations(session, SOURCE, ACCOUNT).last()
        assert last is not None
        assert (last.result, last.reason) == (Result.FAILED, "BrokerTimeout: no positions")
        assert Reconciliations(session, SOURCE, ACCOUNT).last_made() is not None


def _wait_for_fill(broker: BrokerSession, count: int) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    while len(broker.executions()) < count:
        assert datetime.now(UTC) < deadline
        broker.listen(seconds=0.2)


def _age(database: Database) -> None:
    """What a minute of waiting would do."""
    from airflow_ibkr_plugin.store.models import OrderIntent

    with database.write() as session:
        for row in session.query(OrderIntent):
            row.updated_at -= timedelta(minutes=2)


def _reconciliations() -> Any:
    from airflow_ibkr_plugin.store.models import ReconciliationRow

    return (ReconciliationRow,)
