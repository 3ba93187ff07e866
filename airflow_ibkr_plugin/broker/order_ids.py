"""Order ids that are never used twice.

When a connection is lost before the gateway took an order, the gateway offers the same order id again; were the first
message still under way, a second order under its id would change the first. So the ids used are kept in the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.store.order_ids import OrderIds

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database


def allocate_order_id(session: BrokerSession, database: Database) -> int:
    """An order id for the session's client id: above the gateway's offer and above all allocated before.

    Kept by the gateway's address, not by connection: order ids belong to (gateway, client id).

    :raises StoreError: it could not be made durable; then it must not be used.
    """
    offered = session.next_order_id()
    with database.write() as transaction:
        return OrderIds(transaction).allocate(session.spec.address, session.client_id, offered)
