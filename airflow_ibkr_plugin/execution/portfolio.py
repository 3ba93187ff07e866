"""What the account holds and is worth, stored as one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.store.account_snapshots import AccountSnapshots
from airflow_ibkr_plugin.store.positions import Positions

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot


def snapshot(session: BrokerSession, database: Database, *, dag_id: str, run_id: str, task_id: str) -> AccountSnapshot:
    """Ask the broker for the account and its positions, and store both in one transaction.

    :raises BrokerError: the gateway did not say; nothing is stored.
    """
    taken = session.account_snapshot()
    at = datetime.now(UTC)
    with database.write() as transaction:
        AccountSnapshots(transaction).add(session.source, taken, dag_id, run_id, task_id, created_at=at)
        Positions(transaction).replace_account(session.source, session.account, taken.positions, at)
    return taken
