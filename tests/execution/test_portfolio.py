"""Snapshots, with the broker in memory (see conftest)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import StoreError
from airflow_ibkr_plugin.execution.portfolio import snapshot
from airflow_ibkr_plugin.store.account_peaks import AccountPeaks
from airflow_ibkr_plugin.store.account_snapshots import AccountSnapshots
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.positions import Positions

RUN = {"dag_id": "demo", "run_id": "run-1", "task_id": "portfolio"}


def test_account_and_positions_are_stored_together(session: Any, broker: Any, database: Database) -> None:
    broker.held_elsewhere = Decimal(7)
    taken = snapshot(session, database, **RUN)
    with database.read() as transaction:
        (stored,) = AccountSnapshots(transaction).for_run("demo", "run-1")
        (held,) = Positions(transaction).list(source=session.source, strategy="")
        (peak,) = AccountPeaks(transaction).since(session.source, taken.account, broker.now.date())
    assert (stored.net_liquidation, stored.at, stored.simulated) == (taken.net_liquidation, broker.now, True)
    assert held.quantity == 7
    assert peak.value == taken.net_liquidation


def test_a_snapshot_that_fails_half_way_stores_nothing(
    session: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(Positions, "replace_account", fail)
    with pytest.raises(StoreError):
        snapshot(session, database, **RUN)
    with database.read() as transaction:
        assert not AccountSnapshots(transaction).for_run("demo", "run-1")


def test_an_answer_that_was_asked_for_earlier_does_not_undo_a_later_one(
    session: Any, broker: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_answer = session.account_snapshot

    def overtaken() -> Any:
        """While the first task waits for its answer, a second asks, is answered and stores."""
        answer = first_answer()
        monkeypatch.setattr(session, "account_snapshot", first_answer)
        broker.held_elsewhere = Decimal(9)
        snapshot(session, database, **RUN)
        return answer

    broker.held_elsewhere = Decimal(7)
    monkeypatch.setattr(session, "account_snapshot", overtaken)
    snapshot(session, database, **RUN)
    with database.read() as transaction:
        (held,) = Positions(transaction).list(source=session.source, strategy="")
        assert len(AccountSnapshots(transaction).for_run("demo", "run-1")) == 2
    assert held.quantity == 9
