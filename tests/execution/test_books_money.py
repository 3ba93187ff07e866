"""Commissions, profit and cash of our books against the simulated account's own figures, to the cent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, Side
from airflow_ibkr_plugin.trading.reconcile import Result

ACCOUNT = "DU1234567"
START = Decimal(1_000_000)
CENT = Decimal("0.01")
_runs = itertools.count()


@pytest.fixture
def broker(database: Database) -> Iterator[BrokerSession]:
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
    with start_simulator(seed=7, clock=clock, account=ACCOUNT) as gateway:
        spec = GatewaySpec(
            conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
        )
        with leased_session(spec, database, owner="test") as session:
            yield session


def trade(broker: BrokerSession, database: Database, strategy: str, instrument: Instrument, change: Decimal) -> None:
    key = IntentKey(installation="t", dag_id=strategy, run_id=f"r{next(_runs)}", task_id="o", con_id=instrument.con_id)
    request = OrderRequest(
        key=key,
        strategy=strategy,
        source=broker.source,
        account=ACCOUNT,
        mode="paper",
        instrument=instrument,
        ticket=OrderTicket(side=Side.BUY if change > 0 else Side.SELL, quantity=abs(change)),
        allow_short=True,
    )
    assert execute(broker, database, request, owner="t").filled == abs(change)


def cash_of(broker: BrokerSession, expected: Decimal) -> Decimal:
    """As the account's values say, as soon as they have followed the last trade."""
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    while (cash := broker.account_snapshot().cash) != expected and datetime.now(UTC) < deadline:
        broker.listen(seconds=0.2)
    return cash


TRADES = st.lists(
    st.tuples(st.sampled_from(["one", "two"]), st.sampled_from(["SPY", "AAPL"]), st.integers(-30, 30).filter(bool)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trades=TRADES)
def test_the_strategies_books_add_up_to_the_account(
    broker: BrokerSession, database: Database, trades: list[tuple[str, str, int]]
) -> None:
    instruments = {symbol: broker.resolve(InstrumentSpec.parse(symbol)) for symbol in ("SPY", "AAPL")}
    for strategy, symbol, change in trades:
        trade(broker, database, strategy, instruments[symbol], Decimal(change))
    with database.read() as session:
        held = [row for row in Positions(session).list() if row.strategy and row.quantity]
        by_books = sum(
            (row.realized_pnl or Decimal(0)) - row.quantity * row.average_cost
            for row in Positions(session).list()
            if row.strategy
        )
    expected = (START + by_books).quantize(CENT)
    assert cash_of(broker, expected) == expected
    assert reconcile(broker, database, by="test").result is Result.AGREE
    for row in held:  # all closed: what was realised is what the account has gained
        trade(broker, database, row.strategy, instruments[row.symbol], -row.quantity)
    with database.read() as session:
        found = replay(session)
    assert found.mismatches == ()
    gained = found.realized["USD"].quantize(CENT)
    assert cash_of(broker, START + gained) == START + gained
    told = {fill.exec_id: fill.commission for fill in broker.executions()}
    assert None not in told.values()
    assert found.commissions == {"USD": sum(filter(None, told.values()), Decimal(0))}


def test_a_figure_that_is_off_by_a_cent_is_seen(broker: BrokerSession, database: Database) -> None:
    instrument: Any = broker.resolve(InstrumentSpec.parse("SPY"))
    trade(broker, database, "one", instrument, Decimal(10))
    with database.write() as session:
        (row,) = [row for row in Positions(session).list() if row.strategy]
        row.realized_pnl = (row.realized_pnl or Decimal(0)) + CENT
    with database.read() as session:
        assert [one.what for one in replay(session).mismatches] == ["realised profit"]
