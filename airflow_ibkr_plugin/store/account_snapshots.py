"""Accounts at moments in time."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.portfolio import AccountSnapshotRow
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Position


class AccountSnapshots:
    """Snapshots by account and by run."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self, source: str, snapshot: AccountSnapshot, dag_id: str, run_id: str, task_id: str, *, created_at: datetime
    ) -> AccountSnapshotRow:
        """Store a snapshot with its positions."""
        row = AccountSnapshotRow(
            source=source,
            account=snapshot.account,
            dag_id=dag_id,
            run_id=run_id,
            task_id=task_id,
            at=snapshot.at,
            currency=snapshot.currency,
            net_liquidation=snapshot.net_liquidation,
            cash=snapshot.cash,
            buying_power=snapshot.buying_power,
            values=dict(snapshot.values),
            positions=[_plain(position) for position in snapshot.positions],
            simulated=snapshot.simulated,
            created_at=created_at,
        )
        self._session.add(row)
        self._session.flush()
        return row

    def latest(self, source: str, account: str) -> AccountSnapshotRow | None:
        """The newest snapshot of the account, by when it was asked for."""
        query = select(AccountSnapshotRow).where(
            AccountSnapshotRow.source == source, AccountSnapshotRow.account == account
        )
        newest_first = query.order_by(AccountSnapshotRow.created_at.desc(), AccountSnapshotRow.id.desc())
        return self._session.scalar(newest_first.limit(1))

    def for_run(self, dag_id: str, run_id: str) -> list[AccountSnapshotRow]:
        """The snapshots of a run, oldest first."""
        query = select(AccountSnapshotRow).where(
            AccountSnapshotRow.dag_id == dag_id, AccountSnapshotRow.run_id == run_id
        )
        return list(self._session.scalars(query.order_by(AccountSnapshotRow.id)))


def _plain(position: Position) -> dict[str, Any]:
    return {name: f"{v:f}" if isinstance(v, Decimal) else v for name, v in asdict(position).items()}
