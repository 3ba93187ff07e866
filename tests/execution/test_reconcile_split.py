"""A split at the broker: the books follow it for all strategies, or a person states it; never by quantities alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.history import BarsRequest, fetch_bars
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import StoreError
from airflow_ibkr_plugin.execution import reconcile as engine
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import PositionAdjustment, PositionRow
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, Side
from airflow_ibkr_plugin.trading.reconcile import Result
from airflow_ibkr_plugin.trading.splits import Ratio
from airflow_ibkr_plugin.trading.trading_state import TradingState

ACCOUNT = "DU1234567"
CLOCK = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)
NEXT_DAY = datetime(2026, 3, 11, 15, 0, tzinfo=UTC)


@dataclass
class Desk:
    gateway: Any
    broker: BrokerSession
    database: Database
    apple: Instrument

    def buy(self, quantity: int, strategy: str, run_id: str, side: Side = Side.BUY) -> None:
        con_id = self.apple.con_id
        request = OrderRequest(
            key=IntentKey(installation="t", dag_id=strategy, run_id=run_id, task_id="order", con_id=con_id),
            strategy=strategy,
            source=self.broker.source,
            account=ACCOUNT,
            mode="paper",
            instrument=self.apple,
            ticket=OrderTicket(side=side, quantity=Decimal(quantity)),
        )
        assert execute(self.broker, self.database, request, owner="t").filled == quantity

    def bars(self) -> None:
        fetch_bars(self.broker, self.database, self.apple, BarsRequest(duration="30 D"))

    def split(self, ratio: float) -> None:
        self.gateway.control("clock", set=NEXT_DAY.isoformat())
        self.gateway.control("split", symbol="AAPL", ratio=ratio)

    def held(self) -> dict[str, Decimal]:
        with self.database.read() as session:
            return {row.strategy: row.quantity for row in Positions(session).list() if row.strategy}

    def row(self, strategy: str) -> PositionRow:
        with self.database.read() as session:
            found = Positions(session).get(self.broker.source, ACCOUNT, strategy, self.apple.con_id)
        assert found is not None
        return found

    def reconcile(self, **options: Any) -> Any:
        return reconcile(self.broker, self.database, by="test", **options)


@pytest.fixture
def desk(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.1)
    with start_simulator(seed=7, clock=CLOCK, account=ACCOUNT) as gateway:
        spec = GatewaySpec(
            conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
        )
        with leased_session(spec, database, owner="test") as broker:
            yield Desk(gateway, broker, database, broker.resolve(InstrumentSpec.parse("AAPL")))


@pytest.mark.parametrize("noticed", [True, False])
def test_prices_that_show_a_split_let_all_positions_follow_it(desk: Desk, noticed: bool) -> None:
    desk.bars()
    desk.buy(10, "one", "r1")
    desk.buy(5, "two", "r2")
    before = desk.row("one")
    desk.reconcile()
    desk.split(4)
    if noticed:  # market data came first, and took the new prices into the cache
        desk.bars()
    found = desk.reconcile()
    assert (found.result, found.differences, found.beside) == (Result.AGREE, (), {})
    assert "AAPL split 4 for 1" in found.splits[0]
    assert desk.held() == {"one": Decimal(40), "two": Decimal(20)}
    after = desk.row("one")
    assert abs(after.quantity * after.average_cost - before.quantity * before.average_cost) < Decimal("0.000001")
    assert after.realized_pnl == before.realized_pnl
    assert desk.reconcile().splits == ()
    with desk.database.read() as session:
        assert TradingStates(session).effective("one").state is TradingState.ACTIVE
        (alert,) = Alerts(session).due(datetime(2100, 1, 1, tzinfo=UTC))
        assert len(session.scalars(select(PositionAdjustment)).all()) == 2
    assert alert.severity == "warning"
    desk.buy(40, "one", "r3", Side.SELL)
    assert desk.held() == {"one": Decimal(0), "two": Decimal(20)}
    assert desk.reconcile().result is Result.AGREE


def test_fills_of_the_day_after_the_split_are_in_new_shares(desk: Desk) -> None:
    desk.bars()
    desk.buy(10, "one", "r1")
    desk.reconcile()
    desk.split(4)
    desk.gateway.control("clock", advance=60)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "SETTLE_SECONDS", 0.0)
        desk.buy(3, "one", "r2")
    found = desk.reconcile()
    assert found.result is Result.AGREE
    assert desk.held() == {"one": Decimal(43)}


def test_a_fraction_is_paid_out_of_whose_it_is(desk: Desk) -> None:
    desk.bars()
    desk.buy(11, "one", "r1")
    desk.buy(10, "two", "r2")
    desk.reconcile()
    desk.split(0.1)
    found = desk.reconcile()
    assert found.result is Result.AGREE
    assert desk.held() == {"one": Decimal(1), "two": Decimal(1)}
    with desk.database.read() as session:
        paid = {row.strategy: row.paid_out for row in session.scalars(select(PositionAdjustment))}
        price = session.scalars(select(PositionAdjustment.price)).first()
    assert paid == {"one": Decimal("0.1"), "two": Decimal(0)}
    assert price is not None
    assert price > 0


def test_without_prices_quantities_prove_nothing_and_a_person_states_it(desk: Desk) -> None:
    desk.buy(10, "one", "r1")
    desk.reconcile()
    desk.split(4)
    (one,) = desk.reconcile().open
    assert (one.ours, one.theirs) == ("10", "40")
    wrong = desk.reconcile(splits={"AAPL": Ratio(new=3, old=1)})
    assert wrong.result is Result.DISAGREE
    found = desk.reconcile(splits={"AAPL": Ratio(new=4, old=1)})
    assert (found.result, desk.held()) == (Result.AGREE, {"one": Decimal(40)})
    assert "stated by a person" in found.splits[0]


def test_a_split_that_cannot_be_booked_for_all_is_booked_for_none(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.bars()
    desk.buy(10, "one", "r1")
    desk.buy(5, "two", "r2")
    desk.reconcile()
    desk.split(4)
    add_up = Positions.add_up_again
    done = []

    def fail_the_second(self: Positions, row: PositionRow, **options: Any) -> PositionRow:
        done.append(row)
        if len(done) == 2:
            raise StoreError("gone")
        return add_up(self, row, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Positions, "add_up_again", fail_the_second)
        with pytest.raises(StoreError, match="gone"):
            desk.reconcile()
    assert desk.held() == {"one": Decimal(10), "two": Decimal(5)}
    assert desk.reconcile().result is Result.AGREE
    assert desk.held() == {"one": Decimal(40), "two": Decimal(20)}
