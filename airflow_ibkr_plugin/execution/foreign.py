"""What the account did without us, stored beside our own: orders by hand in TWS, fills without our reference."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.models.orders import ExecutionRow
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.sources import same_kind

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.account_book import Look


def store_foreign(transaction: Session, source: str, seen: Look, at: datetime) -> None:
    """Store fills and orders of the account that belong to no intent of ours; each once."""
    fills = {fill.exec_id: fill for fill in seen.broker.executions if fill.order_ref not in seen.book.orders}
    query = select(ExecutionRow.exec_id).where(same_kind(ExecutionRow.source, source), ExecutionRow.exec_id.in_(fills))
    known = set(transaction.scalars(query))
    for exec_id, fill in fills.items():
        if exec_id not in known:
            Executions(transaction).record(source, fill, None, at)
    names = {fill.con_id: fill.symbol for fill in seen.broker.executions}
    names |= {position.con_id: position.symbol for position in seen.broker.positions}
    ours = {order.perm_id for order in seen.book.orders.values()}
    for order in seen.orders:
        if order.order_ref not in seen.book.orders and order.perm_id and order.perm_id not in ours:
            Orders(transaction).record(source, names.get(order.con_id, f"conId {order.con_id}"), order, None, at)
