"""What is stored of reconciliations, on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import ReconciliationRow
from airflow_ibkr_plugin.store.reconciliations import NoticedSplits, Reconciliations, places
from airflow_ibkr_plugin.trading.reconcile import Difference, DifferenceKind, Result

SOURCE, ACCOUNT = "simulator:ibkr_default", "DU1"
ONE = Difference(
    kind=DifferenceKind.POSITION,
    subject="1",
    con_id=1,
    symbol="SPY",
    ours="10",
    theirs="17",
    strategies=("a", "b"),
    detail="why",
)


def test_the_last_one_and_the_last_that_was_made(database: Database, now: datetime) -> None:
    with database.write() as session:
        mine = Reconciliations(session, SOURCE, ACCOUNT)
        assert (mine.last(), mine.last_made()) == (None, None)
        agree = mine.add(Result.AGREE, at=now, made_by="a")
        differ = mine.add(Result.DISAGREE, [ONE], at=now + timedelta(minutes=1), made_by="a", booked=2)
        failed = mine.add(Result.FAILED, at=now + timedelta(minutes=2), made_by="a", reason="no answer")
        other = Reconciliations(session, "paper:ibkr_default", ACCOUNT)
        assert other.last() is None  # another kind of gateway, another account
        by_another_connection = Reconciliations(session, "simulator:second", ACCOUNT)
        assert by_another_connection.last() is failed
        assert mine.last_made() is differ
        assert mine.last_made(Result.AGREE) is agree
        (found,) = mine.differences(differ.id)
        assert (found.key, found.strategies, found.accepted) == (ONE.key, ["a", "b"], False)
        assert mine.differences(differ.id, con_id=2) == []


def test_what_is_accepted_is_kept_with_who_and_why(database: Database, now: datetime) -> None:
    with database.write() as session:
        mine = Reconciliations(session, SOURCE, ACCOUNT)
        mine.accept([ONE.key], by="ann", reason="r", at=now)
        mine.accept([ONE.key], by="bob", reason="again", at=now)
        mine.set_unexplained({1: ("SPY", Decimal(7))}, by="ann", reason="r", at=now)
        mine.set_unexplained({1: ("SPY", Decimal(5))}, by="bob", reason="sold", at=now)
    with database.read() as session:
        mine = Reconciliations(session, SOURCE, ACCOUNT)
        assert mine.accepted() == {ONE.key}
        (row,) = mine.unexplained().values()
        assert (row.quantity, row.set_by, row.reason) == (Decimal(5), "bob", "sold")
        assert Reconciliations(session, SOURCE, "DU2").accepted() == frozenset()


def test_splits_that_prices_have_shown_since(database: Database, now: datetime) -> None:
    with database.write() as session:
        NoticedSplits(session).add(SOURCE, 1, 4.0, now)
        NoticedSplits(session).add("simulator:second", 1, 2.0, now + timedelta(minutes=2))
        NoticedSplits(session).add("paper:x", 1, 3.0, now)
        assert NoticedSplits(session).since(SOURCE, 1, None) == [2.0, 4.0]
        assert NoticedSplits(session).since(SOURCE, 1, now) == [2.0]
        assert NoticedSplits(session).since(SOURCE, 2, None) == []
        assert places(session) == []


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_every_order_asks_and_the_index_answers(database: Database, now: datetime) -> None:
    with database.write() as session:
        Reconciliations(session, SOURCE, ACCOUNT).add(Result.AGREE, at=now, made_by="a")
        columns = "gateway = 'simulator' AND account = 'DU1' AND result = 'agree'"
        query = f"SELECT * FROM {ReconciliationRow.__tablename__} WHERE {columns} ORDER BY at DESC, id DESC LIMIT 1"
        plan = " ".join(row.detail for row in session.execute(text(f"EXPLAIN QUERY PLAN {query}")))
    assert "USING INDEX ix_reconciliations_gateway_account_result_at" in plan
    assert "B-TREE" not in plan
