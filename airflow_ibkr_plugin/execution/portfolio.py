"""What the account holds and is worth, stored as one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.store.account_peaks import AccountPeaks
from airflow_ibkr_plugin.store.account_snapshots import AccountSnapshots
from airflow_ibkr_plugin.store.positions import Positions

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot


def snapshot(session: BrokerSession, database: Database, *, dag_id: str, run_id: str, task_id: str) -> AccountSnapshot:
    """Ask the broker for the account and its positions, and store both in one transaction.

    The account's positions stay those of whoever asked last, in whatever order the answers are stored.

    :raises BrokerError: the gateway did not say; nothing is stored.
    """
    asked_at = datetime.now(UTC)
    taken = session.account_snapshot()
    source, account = session.source, session.account
    with database.write(serialize=f"positions:{source}:{account}") as transaction:
        snapshots = AccountSnapshots(transaction)
        newest = snapshots.latest(source, account)
        AccountPeaks(transaction).record(source, taken, at=asked_at)
        snapshots.add(source, taken, dag_id, run_id, task_id, created_at=asked_at)
        if newest is None or newest.created_at <= asked_at:
            Positions(transaction).replace_account(source, account, taken.positions, asked_at)
    return taken
