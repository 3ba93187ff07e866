"""Order ids: never the same twice for a client, whatever the gateway forgets."""

from __future__ import annotations

from sqlalchemy import case, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.connections import OrderIdRow
from airflow_ibkr_plugin.store.sql import insert


class OrderIds:
    """The next order id by source and client id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def allocate(self, source: str, client_id: int, broker_next: int) -> int:
        """An id that this client has never used: at least `broker_next`, the broker's nextValidId, and above all
        that were given out before. Commit before it is sent.
        """
        statement = insert(self._session, OrderIdRow).values(
            source=source, client_id=client_id, next_id=broker_next + 1
        )
        stored, offered = OrderIdRow.next_id, statement.excluded.next_id
        statement = statement.on_conflict_do_update(
            index_elements=("source", "client_id"),
            set_={"next_id": case((stored >= offered, stored + 1), else_=offered)},
        )
        self._session.execute(statement)
        query = select(OrderIdRow.next_id).where(OrderIdRow.source == source, OrderIdRow.client_id == client_id)
        return self._session.scalars(query).one() - 1
