"""Orders that belong together: a bracket's entry with its exits, under the entry's lease."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, func, or_, select
from sqlalchemy.orm import Session, aliased

from airflow_ibkr_plugin.store.models.orders import RESERVING, OrderIntent
from airflow_ibkr_plugin.store.splits import Splits
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, BracketState, IntentState


def unheld(now: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """Whether no worker holds an intent at `now`, aware UTC. An exit is held with its entry."""
    head = aliased(OrderIntent)
    return (
        select(head.id)
        .where(
            head.id == func.coalesce(OrderIntent.parent_id, OrderIntent.id),
            or_(head.lease_owner.is_(None), head.lease_until <= now),
        )
        .exists()
    )


def in_states(states: Collection[IntentState]) -> ColumnElement[bool]:
    """Whether an intent is in one of these states, by the index of those that are not over.

    :param states: out of `RESERVING`.
    """
    # In the very words of the index, without which SQLite does not see that it serves.
    indexed = OrderIntent.state.in_(bindparam(None, sorted(RESERVING), expanding=True, literal_execute=True))
    return and_(indexed, OrderIntent.state.in_(states))


# Made once, as every order asks.
_PARENT = select(OrderIntent.parent_id).where(OrderIntent.id == bindparam("intent_id"))
_EXITS = select(OrderIntent).where(OrderIntent.parent_id == bindparam("entry_id")).order_by(OrderIntent.id)


class Units:
    """Entries and their exits."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def exits(self, entry_id: int) -> list[OrderIntent]:
        """The exits of an entry, oldest first; none of an order that has no bracket."""
        return list(self._session.scalars(_EXITS, {"entry_id": entry_id}))

    def exits_of(self, intent: OrderIntent) -> list[OrderIntent]:
        """The same, without asking where the intent is no bracket's entry."""
        return [] if intent.bracket is None else self.exits(intent.id)

    def head_id(self, intent_id: int) -> int:
        """Id of the intent whose lease counts: an exit's entry, any other's own."""
        parent = self._session.scalar(_PARENT, {"intent_id": intent_id})
        return intent_id if parent is None else parent

    def open_entries(self, source: str | None = None, *, now: datetime) -> list[OrderIntent]:
        """Entries of brackets that are not over, that were sent, and that no worker holds; oldest first."""
        query = select(OrderIntent).where(
            OrderIntent.bracket == BracketState.OPEN, OrderIntent.sent_at.is_not(None), unheld(now)
        )
        if source is not None:
            query = query.where(OrderIntent.source == source)
        return list(self._session.scalars(query.order_by(OrderIntent.id)))

    def of_strategy(self, source: str, account: str, strategy: str, con_id: int) -> list[OrderIntent]:
        """Entries of the strategy's brackets in an instrument that are not over, oldest first."""
        query = select(OrderIntent).where(
            OrderIntent.bracket == BracketState.OPEN,
            OrderIntent.source == source,
            OrderIntent.account == account,
            OrderIntent.strategy == strategy,
            OrderIntent.con_id == con_id,
        )
        return list(self._session.scalars(query.order_by(OrderIntent.id)))

    def shares_since(self, intent: OrderIntent, since: datetime) -> Decimal:
        """How many shares one that the intent's strategy held then is by now; 1 where there was no split.

        :param since: by the broker's clock, aware UTC.
        """
        place = (intent.source, intent.account, intent.strategy, intent.con_id)
        return Splits(self._session, place).shares_since(since)

    def closing(
        self, source: str, account: str, strategy: str, con_id: int, *, legs: frozenset[str], now: datetime
    ) -> bool:
        """Whether an order of these legs is at work on what the strategy holds of an instrument, or may be."""
        query = select(OrderIntent.id).where(
            OrderIntent.source == source,
            OrderIntent.account == account,
            OrderIntent.strategy == strategy,
            OrderIntent.con_id == con_id,
            OrderIntent.leg.in_(legs),
            or_(
                OrderIntent.state.in_(MAYBE_AT_BROKER),
                and_(OrderIntent.state.in_((IntentState.DECIDED, IntentState.RESERVED)), ~unheld(now)),
            ),
        )
        return self._session.scalar(query.limit(1)) is not None
