"""The stored intent as the order path works with it, and the one way to move it on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import AmbiguousOrder, StoreError
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import IntentState, OrderTicket

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.execution.lease import IntentLease
    from airflow_ibkr_plugin.execution.request import OrderRequest
    from airflow_ibkr_plugin.store.database import Database


def load_row(transaction: Session, intent_id: int) -> OrderIntent:
    """The row of an intent that must be there.

    :raises StoreError: it is not.
    """
    row = Intents(transaction).get(intent_id)
    if row is None:
        raise StoreError(
            f"Order intent {intent_id} is gone from the trading database.",
            remedy="Restore the trading database from its backup before trading goes on.",
        )
    return row


def ticket_of(row: OrderIntent) -> OrderTicket:
    """The order that an intent is for, with the quantity that risk let pass so far."""
    return OrderTicket(
        side=row.side,
        quantity=row.quantity,
        order_type=row.order_type,
        limit_price=row.limit_price,
        stop_price=row.stop_price,
        trail_amount=row.trail_amount,
        trail_percent=row.trail_percent,
        tif=row.tif,
        outside_rth=row.outside_rth,
    )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt of one worker at one intent, under its lease. Values of the row are read anew where they count."""

    session: BrokerSession
    database: Database
    request: OrderRequest
    lease: IntentLease
    intent_id: int

    def load(self) -> OrderIntent:
        """The intent as it is stored now, readable outside of the transaction."""
        with self.database.read() as transaction:
            return load_row(transaction, self.intent_id)

    def move(self, state: IntentState, reason: str, **changes: Any) -> OrderIntent:
        """Commit a move of the intent, if the lease is still held.

        :raises IntentBusy: it is not.
        """
        with self.database.write() as transaction:
            self.lease.renew(transaction)
            row = load_row(transaction, self.intent_id)
            return Intents(transaction).transition(row, state, at=datetime.now(UTC), reason=reason, **changes)

    def renew(self) -> None:
        """Hold the lease longer."""
        with self.database.write() as transaction:
            self.lease.renew(transaction)

    def ambiguous(self, reason: str) -> AmbiguousOrder:
        """Store that it is not known what became of the order, and return the error to raise."""
        row = self.load()
        if row.state is not IntentState.AMBIGUOUS:
            row = self.move(IntentState.AMBIGUOUS, reason)
        return AmbiguousOrder(
            f"Order {row.order_ref} ({row.side} {row.quantity:f} {row.symbol}): {reason}",
            remedy="Look for its orderRef in TWS or in the account's statement. It is not sent again by itself.",
        )

    @property
    def instrument(self) -> Instrument:
        """The instrument of the request, routed as it was resolved."""
        return self.request.instrument
