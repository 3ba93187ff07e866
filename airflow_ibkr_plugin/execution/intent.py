"""The stored intent as the order path works with it, and the one way to move it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import AmbiguousOrder, StoreError
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.store.units import Units
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


def exit_fields(entry: OrderIntent, ticket: OrderTicket, at: datetime) -> dict[str, object]:
    """The columns of an exit's intent, but for those of its key."""
    return {
        "strategy": entry.strategy,
        "source": entry.source,
        "account": entry.account,
        "mode": entry.mode,
        "symbol": entry.symbol,
        "instrument": entry.instrument,
        "signal_id": entry.signal_id,
        "parent_id": entry.id,
        "currency": entry.currency,
        "state": IntentState.DECIDED,
        "created_at": at,
        **ticket_fields(ticket),
    }


def ticket_fields(ticket: OrderTicket) -> dict[str, object]:
    """The columns that say what is ordered."""
    return {
        "side": ticket.side,
        "quantity": ticket.quantity,
        "requested_quantity": ticket.quantity,
        "order_type": ticket.order_type,
        "limit_price": ticket.limit_price,
        "stop_price": ticket.stop_price,
        "trail_amount": ticket.trail_amount,
        "trail_percent": ticket.trail_percent,
        "tif": ticket.tif,
        "outside_rth": ticket.outside_rth,
    }


def move_unit(
    transaction: Session,
    row: OrderIntent,
    state: IntentState,
    *,
    at: datetime,
    reason: str,
    order_ids: Mapping[int, int] | None = None,
    **changes: Any,
) -> OrderIntent:
    """Move an intent, and with it the exits of its bracket that stand where it stands. Returns the intent.

    :param order_ids: by intent id, for the exits. :param changes: columns of all of them.
    """
    intents, seen = Intents(transaction), row.state
    for one in Units(transaction).exits_of(row):
        if one.state is seen:
            own = {"order_id": order_ids[one.id]} if order_ids else {}
            intents.transition(one, state, at=at, reason=reason, **changes | own)
    return intents.transition(row, state, at=at, reason=reason, **changes)


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

    def move_unit(self, state: IntentState, reason: str, **changes: Any) -> OrderIntent:
        """The same, with the exits of its bracket that stand where it stands."""
        with self.database.write() as transaction:
            self.lease.renew(transaction)
            row = load_row(transaction, self.intent_id)
            return move_unit(transaction, row, state, at=datetime.now(UTC), reason=reason, **changes)

    def exits(self) -> list[OrderIntent]:
        """The exits of the intent's bracket as they are stored now, oldest first."""
        with self.database.read() as transaction:
            return Units(transaction).exits(self.intent_id)

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
