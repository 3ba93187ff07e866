"""Orders as the broker reports them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.orders import ExecutionRow, OrderIntent, OrderRow
from airflow_ibkr_plugin.store.sql import insert_if_absent
from airflow_ibkr_plugin.trading.orders import BrokerOrder

# IBKR's statuses that an order does not leave; a report of another status that comes later is an old one.
FINAL_STATUSES = frozenset({"Filled", "Cancelled", "ApiCancelled"})


class Orders:
    """Orders by permId and by orderRef."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def record(self, source: str, symbol: str, order: BrokerOrder, intent_id: int | None, at: datetime) -> OrderRow:
        """Store what the broker says of an order, in place of what it said before.

        An order is known by its permId. One that has none yet (0), or is not known by the one it has now, is known by
        its client id, order id and orderRef, and gets the permId that the broker tells. What a report does not tell
        (order id 0, no average price) keeps its value, and nothing that has filled is taken back: a report that says
        less of that is an older one.
        """
        row = self._find(source, order) or self._insert(source, symbol, order, intent_id, at)
        late = row.status in FINAL_STATUSES and order.status not in FINAL_STATUSES
        if not late:
            row.status, row.reason = order.status, order.reason
            row.quantity = order.quantity
            row.order_type, row.tif = order.order_type, order.tif
            row.limit_price, row.stop_price = order.limit_price, order.stop_price
            if order.filled >= row.filled:
                row.filled, row.remaining = order.filled, order.remaining
                row.average_price = order.average_price if order.average_price is not None else row.average_price
            else:
                row.remaining = max(order.quantity - row.filled, Decimal(0))
        if order.perm_id:
            row.perm_id = order.perm_id
        if order.order_id:
            row.order_id, row.client_id = order.order_id, order.client_id
        if intent_id is not None:
            row.intent_id = intent_id
        row.updated_at = at
        self._session.flush()
        return row

    def keep_up(self, intent_id: int, fills: Sequence[ExecutionRow], at: datetime, *, taken_back: bool = False) -> None:
        """Bring an intent's one order up to what its fills add up to: its own reports may come late, or never.

        :param fills: all that are booked of the intent and in force.
        :param taken_back: they are fewer than they were, since IBKR took some back: bring it down to them too.
        """
        rows, filled = self.for_intent(intent_id), sum((fill.quantity for fill in fills), Decimal(0))
        if len(rows) != 1:  # of several, nobody can say whose fills they are
            return
        row = rows[0]
        if filled <= row.filled and not taken_back:
            return
        row.filled, row.remaining = filled, max(row.quantity - filled, Decimal(0))
        paid = sum((fill.price * fill.quantity for fill in fills), Decimal(0))
        row.average_price = paid / filled if filled else None
        if not row.remaining:
            row.status = "Filled"
        row.updated_at = at
        self._session.flush()

    def by_order_ref(self, order_ref: str) -> list[OrderRow]:
        """The orders with this orderRef, oldest first. More than one means that an order was placed twice."""
        query = select(OrderRow).where(OrderRow.order_ref == order_ref)
        return list(self._session.scalars(query.order_by(OrderRow.id)))

    def for_intent(self, intent_id: int) -> list[OrderRow]:
        """The orders of an intent, oldest first."""
        return list(self._session.scalars(_FOR_INTENT, {"intent_id": intent_id}))

    def for_run(self, dag_id: str, run_id: str) -> list[OrderRow]:
        """The orders of a run's intents, oldest first."""
        query = self._with_intents().where(OrderIntent.dag_id == dag_id, OrderIntent.run_id == run_id)
        return list(self._session.scalars(query.order_by(OrderRow.id)))

    def latest(self, strategy: str) -> OrderRow | None:
        """The newest order of a strategy."""
        query = self._with_intents().where(OrderIntent.strategy == strategy)
        return self._session.scalar(query.order_by(OrderRow.id.desc()).limit(1))

    def _with_intents(self) -> Select[OrderRow]:
        return select(OrderRow).join(OrderIntent, OrderIntent.id == OrderRow.intent_id)

    def _find(self, source: str, order: BrokerOrder) -> OrderRow | None:
        if order.perm_id:
            known = self._session.scalar(_BY_PERM_ID, {"source": source, "perm_id": order.perm_id})
            if known is not None or not order.order_id:
                return known
        ids = {"client_id": order.client_id, "order_id": order.order_id, "order_ref": order.order_ref}
        return self._session.scalar(_BY_IDS, {"source": source, **ids})

    def _insert(self, source: str, symbol: str, order: BrokerOrder, intent_id: int | None, at: datetime) -> OrderRow:
        values: dict[str, Any] = {
            "intent_id": intent_id,
            "source": source,
            "account": order.account,
            "order_ref": order.order_ref,
            "perm_id": order.perm_id or None,
            "client_id": order.client_id,
            "order_id": order.order_id,
            "con_id": order.con_id,
            "symbol": symbol,
            "side": order.side,
            "quantity": order.quantity,
            "order_type": order.order_type,
            "limit_price": order.limit_price,
            "stop_price": order.stop_price,
            "tif": order.tif,
            "status": order.status,
            "filled": order.filled,
            "remaining": order.remaining,
            "average_price": order.average_price,
            "reason": order.reason,
            "first_seen_at": at,
            "updated_at": at,
        }
        if order.perm_id:
            insert_if_absent(self._session, OrderRow, ("source", "perm_id"), values)
            found = self._find(source, order)
            assert found is not None
            return found
        row = OrderRow(**values)
        self._session.add(row)
        return row


# Made once, as every order asks.
_FOR_INTENT = select(OrderRow).where(OrderRow.intent_id == bindparam("intent_id")).order_by(OrderRow.id)
_OF_SOURCE = select(OrderRow).where(OrderRow.source == bindparam("source")).with_for_update()
_BY_PERM_ID = _OF_SOURCE.where(OrderRow.perm_id == bindparam("perm_id"))
_BY_IDS = _OF_SOURCE.where(
    OrderRow.client_id == bindparam("client_id"),
    OrderRow.order_id == bindparam("order_id"),
    OrderRow.order_ref == bindparam("order_ref"),
)
