"""Intents that no worker is at work on, while something about them is still to be done."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, union
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.orders import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.units import in_states, unheld
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, IntentState


class UnheldIntents:
    """Intents without a lease that runs at `now`, aware UTC."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session = session
        self._now = now

    def reserved(self) -> list[tuple[str, str]]:
        """(source, account) wherever a reservation is among them: what `Intents.release_unheld` can release."""
        query = select(OrderIntent.source, OrderIntent.account).where(
            in_states({IntentState.RESERVED}), unheld(self._now)
        )
        return [(source, account) for source, account in self._session.execute(query.distinct())]

    def to_follow(self, *, since: datetime, source: str | None = None) -> list[OrderIntent]:
        """Those of which the broker may have news: they have no known end, or a fill without a commission.

        :param since: a commission that is missing since before is not waited for.
        :param source: only of this one.
        :returns: oldest first.
        """
        without_commission = select(ExecutionRow.intent_id).where(
            ExecutionRow.commission.is_(None), ExecutionRow.booked_at > since, ExecutionRow.intent_id.is_not(None)
        )
        # Each by its index: a database reads all intents for an OR of both.
        at_broker = select(OrderIntent.id).where(in_states(MAYBE_AT_BROKER))
        query = select(OrderIntent).where(OrderIntent.id.in_(union(at_broker, without_commission)), unheld(self._now))
        if source is not None:
            query = query.where(OrderIntent.source == source)
        return list(self._session.scalars(query.order_by(OrderIntent.id)))
