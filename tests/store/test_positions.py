from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.store.account_snapshots import AccountSnapshots
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.holdings import Holding
from airflow_ibkr_plugin.store.models import OrderIntent, PositionRow
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.orders import Execution, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Position

SOURCE = "simulator:ibkr_default"
ON_DATABASE = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
_numbers = itertools.count(1)


def book(database: Database, fill: Execution, intent: OrderIntent, at: datetime) -> tuple[PositionRow, bool]:
    with database.write() as session:
        row, is_new = Executions(session).record(SOURCE, fill, intent, at)
        return Positions(session).apply(row, intent.strategy, at=at), is_new


def test_a_fill_is_booked_once(
    database: Database, make_intent: Callable[..., OrderIntent], new_execution: Any, now: datetime
) -> None:
    intent = make_intent()
    position, is_new = book(database, new_execution(), intent, now)
    assert is_new
    again, is_new = book(database, new_execution(), intent, now + timedelta(minutes=1))
    assert not is_new
    assert (position.quantity, again.quantity) == (Decimal(4), Decimal(4))
    with database.read() as session:
        (row,) = Executions(session).for_intent(intent.id)
        assert Executions(session).for_run(intent.dag_id, intent.run_id) == [row]
    assert row.booked_at == now
    assert row.strategy == "momentum"


def test_the_same_exec_id_at_two_sources_is_two_fills(database: Database, new_execution: Any, now: datetime) -> None:
    with database.write() as session:
        executions = Executions(session)
        assert executions.record("simulator:a", new_execution(), None, now)[1]
        assert executions.record("paper:b", new_execution(), None, now)[1]


def test_a_late_commission_reaches_the_cost(
    database: Database, make_intent: Callable[..., OrderIntent], new_execution: Any, now: datetime
) -> None:
    intent = make_intent()
    first, _ = book(database, new_execution(), intent, now)
    assert first.average_cost == Decimal("100.1")
    late = new_execution(commission=Decimal(1), commission_currency="USD", realized_pnl=Decimal(0))
    second, is_new = book(database, late, intent, now)
    assert not is_new
    assert second.average_cost == Decimal("100.35")
    third, _ = book(database, new_execution(), intent, now)  # a repeated report without it takes nothing back
    assert third.average_cost == Decimal("100.35")
    fourth, _ = book(database, replace(late, commission=Decimal(9)), intent, now)  # the first one stays
    assert fourth.average_cost == Decimal("100.35")


def test_a_commission_in_another_currency_stays_out(
    database: Database, make_intent: Callable[..., OrderIntent], new_execution: Any, now: datetime
) -> None:
    fill = new_execution(commission=Decimal(2), commission_currency="EUR")
    position, _ = book(database, fill, make_intent(), now)
    assert position.average_cost == Decimal("100.1")


def test_an_owner_found_later_is_filled_in(
    database: Database, make_intent: Callable[..., OrderIntent], new_execution: Any, now: datetime
) -> None:
    with database.write() as session:
        row, _ = Executions(session).record(SOURCE, new_execution(), None, now)
        assert (row.intent_id, row.strategy) == (None, "")
        with pytest.raises(ValueError, match="belongs to"):
            Positions(session).apply(row, "momentum", at=now)
    position, _ = book(database, new_execution(), make_intent(), now)
    assert position.quantity == Decimal(4)


FILLS = st.lists(
    st.tuples(
        st.sampled_from(Side),
        st.integers(1, 50).map(Decimal),
        st.decimals(min_value="0.01", max_value="500", places=2),
        st.one_of(st.none(), st.decimals(min_value="0", max_value="3", places=2)),
    ),
    min_size=1,
    max_size=6,
)


@ON_DATABASE
@given(fills=FILLS, data=st.data())
def test_any_order_and_repetition_give_the_same_position(
    database: Database,
    make_intent: Callable[..., OrderIntent],
    new_execution: Any,
    new_key: Any,
    now: datetime,
    fills: list[tuple[Side, Decimal, Decimal, Decimal | None]],
    data: st.DataObject,
) -> None:
    name = f"strategy-{next(_numbers)}"
    intent = make_intent(new_key(dag_id=name), strategy=name)
    expected = Holding()
    reports: list[Execution] = []
    for number, (side, quantity, price, commission) in enumerate(fills):
        bare = new_execution(
            exec_id=f"{name}-{number}", side=side, quantity=quantity, price=price, time=now + timedelta(seconds=number)
        )
        reports.append(bare)
        if commission is not None:
            reports.append(replace(bare, commission=commission, commission_currency="USD"))
        expected = expected.after(side.sign * quantity, price, commission or Decimal(0))
    reports += data.draw(st.lists(st.sampled_from(reports), max_size=3))
    new = 0
    for report in data.draw(st.permutations(reports)):
        position, is_new = book(database, report, intent, now)
        new += is_new
    assert new == len(fills)
    assert Holding(position.quantity, position.average_cost, position.realized_pnl or Decimal(0)) == expected


def test_fills_at_once_all_count(
    database: Database,
    make_intent: Callable[..., OrderIntent],
    new_execution: Any,
    race: Callable[..., list[Any]],
    now: datetime,
) -> None:
    """Eight racers book four fills, each twice, at the same time."""
    intent = make_intent()

    def work(database: Database, number: int) -> bool:
        return book(database, new_execution(exec_id=f"e{number // 2}"), intent, now)[1]

    assert sum(race(work, 8)) == 4
    with database.read() as session:
        position = Positions(session).get(SOURCE, "DU1", "momentum", 756733)
    assert position is not None
    assert position.quantity == Decimal(16)


def holding(con_id: int, symbol: str, quantity: str) -> Position:
    return Position(
        account="DU1", con_id=con_id, symbol=symbol, quantity=Decimal(quantity), average_cost=Decimal("1.5")
    )


def test_the_account_is_replaced_and_strategies_stay(
    database: Database, make_intent: Callable[..., OrderIntent], new_execution: Any, now: datetime
) -> None:
    book(database, new_execution(), make_intent(), now)
    with database.write() as session:
        positions = Positions(session)
        positions.replace_account(SOURCE, "DU1", [holding(1, "AAA", "3"), holding(2, "BBB", "-4")], now)
        positions.replace_account(SOURCE, "DU2", [holding(1, "AAA", "7")], now)
        positions.replace_account(SOURCE, "DU1", [holding(2, "BBB", "5"), holding(3, "CCC", "1")], now)
    with database.read() as session:
        positions = Positions(session)
        account = [(p.account, p.symbol, p.quantity) for p in positions.list(SOURCE, "")]
        assert account == [("DU2", "AAA", Decimal(7)), ("DU1", "BBB", Decimal(5)), ("DU1", "CCC", Decimal(1))]
        assert [p.symbol for p in positions.list(strategy="momentum")] == ["SPY"]
        assert len(positions.list()) == 4
        assert positions.list("paper:x") == []
        assert positions.get(SOURCE, "DU1", "", 1) is None
    with database.write() as session:
        Positions(session).replace_account(SOURCE, "DU1", [], now)
    with database.read() as session:
        assert [p.account for p in Positions(session).list(SOURCE, "")] == ["DU2"]


def test_snapshots(database: Database, now: datetime) -> None:
    snapshot = AccountSnapshot(
        account="DU1",
        at=now,
        currency="USD",
        net_liquidation=Decimal("100000.01"),
        cash=Decimal("-5.5"),
        buying_power=Decimal("4E+5"),
        positions=(holding(1, "AAA", "1E+2"),),
        values={"NetLiquidation": "100000.01"},
        simulated=True,
    )
    with database.write() as session:
        snapshots = AccountSnapshots(session)
        snapshots.add(SOURCE, snapshot, "d", "r1", "t", created_at=now)
        snapshots.add(SOURCE, replace(snapshot, cash=Decimal(1)), "d", "r2", "t", created_at=now)
    with database.read() as session:
        snapshots = AccountSnapshots(session)
        (row,) = snapshots.for_run("d", "r1")
        latest = snapshots.latest(SOURCE, "DU1")
        assert snapshots.latest(SOURCE, "DU2") is None
    assert latest is not None
    assert latest.cash == Decimal(1)
    assert (row.net_liquidation, row.cash, row.buying_power) == (Decimal("100000.01"), Decimal("-5.5"), Decimal(400000))
    assert row.positions[0]["quantity"] == "100"
    assert row.positions[0]["market_price"] is None
    assert row.values == {"NetLiquidation": "100000.01"}
    assert row.simulated
