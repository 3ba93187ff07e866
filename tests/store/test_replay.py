"""Positions computed again from their executions, corrections and splits in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.models import AdjustmentKind, OrderIntent, PositionAdjustment, PositionRow
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.reconcile import Result

SOURCE = "simulator:ibkr_default"
MakeIntent = Callable[..., OrderIntent]


def book(database: Database, intent: OrderIntent, at: datetime, *fills: Any) -> PositionRow:
    with database.write() as session:
        for fill in fills:
            row, _ = Executions(session).record(SOURCE, fill, intent, at)
            position = Positions(session).apply(row, intent.strategy, at=at)
        return position


def test_what_is_stored_is_what_the_executions_say(
    database: Database, make_intent: MakeIntent, new_execution: Any, now: datetime
) -> None:
    paid = {"commission": Decimal("1.05"), "commission_currency": "USD"}
    sold = {"exec_id": "0002.01", "side": Side.SELL, "quantity": Decimal(1), "time": now + timedelta(minutes=1)}
    book(database, make_intent(), now, new_execution(**paid), new_execution(**sold, **paid))
    with database.read() as session:
        found = replay(session)
    assert (found.positions, found.fills, found.mismatches) == (1, 2, ())
    assert found.commissions == {"USD": Decimal("2.10")}
    assert found.realized == {"USD": Decimal("-1.3125")}


def test_a_position_that_was_tampered_with_or_is_missing_is_named(
    database: Database, make_intent: MakeIntent, new_execution: Any, now: datetime
) -> None:
    book(database, make_intent(), now, new_execution())
    with database.write() as session:
        session.query(PositionRow).update({"quantity": Decimal(5)})
    with database.read() as session:
        (one,) = replay(session).mismatches
        assert (one.what, one.stored, one.replayed) == ("quantity", Decimal(5), Decimal(4))
        assert "momentum SPY" in str(one)
        assert replay(session, "another").mismatches == ()
    with database.write() as session:
        session.query(PositionRow).delete()
    with database.read() as session:
        (one,) = replay(session).mismatches
        assert (one.what, one.stored) == ("quantity", None)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_corrected_execution_takes_the_place_of_what_it_corrects(
    database: Database, make_intent: MakeIntent, new_execution: Any, now: datetime, order: tuple[int, int]
) -> None:
    wrong = new_execution(exec_id="0001.63.01.01", quantity=Decimal(4), price=Decimal("100.10"))
    right = new_execution(exec_id="0001.63.01.02", quantity=Decimal(3), price=Decimal("100.20"))
    intent = make_intent()
    position = book(database, intent, now, *[(wrong, right)[number] for number in order])
    assert (position.quantity, position.average_cost) == (Decimal(3), Decimal("100.2"))
    with database.read() as session:
        assert [row.exec_id for row in Executions(session).for_intent(intent.id)] == ["0001.63.01.02"]
        assert replay(session).mismatches == ()


def test_a_fill_from_before_a_split_that_comes_late_is_split_too(
    database: Database, make_intent: MakeIntent, new_execution: Any, now: datetime
) -> None:
    intent = make_intent()
    later = {"exec_id": "0003.01", "quantity": Decimal(2), "price": Decimal(25), "time": now + timedelta(hours=2)}
    book(database, intent, now, new_execution(price=Decimal(100)), new_execution(**later))
    with database.write() as session:
        made = Reconciliations(session, SOURCE, "DU1").add(Result.AGREE, at=now, made_by="test")
        split = PositionAdjustment(
            kind=AdjustmentKind.SPLIT,
            source=SOURCE,
            account="DU1",
            strategy=intent.strategy,
            con_id=intent.con_id,
            new_shares=Decimal(4),
            old_shares=Decimal(1),
            paid_out=Decimal(0),
            price=Decimal(0),
            currency="USD",
            at=now + timedelta(hours=1),
            made_by="test",
            reason="",
            reconciliation_id=made.id,
        )
        session.add(split)
        row = Positions(session).get(SOURCE, "DU1", intent.strategy, intent.con_id)
        assert row is not None
        after = Positions(session).add_up_again(row, at=now)
        assert (after.quantity, after.average_cost) == (Decimal(18), Decimal(25))
    late = new_execution(exec_id="0002.01", quantity=Decimal(1), price=Decimal(100), time=now + timedelta(minutes=1))
    assert book(database, intent, now, late).quantity == Decimal(22)
    with database.read() as session:
        assert replay(session).mismatches == ()
