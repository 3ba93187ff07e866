"""What the broker has otherwise than we sent it: changed by hand in TWS, or gone on under another permId."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.store.intent_notes import IntentNotes
from airflow_ibkr_plugin.store.models.again import NoteKind

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.store.models.orders import OrderIntent
    from airflow_ibkr_plugin.trading.orders import BrokerOrder

AS_SENT = "it is as it was sent again"


def note_changes(transaction: Session, row: OrderIntent, order: BrokerOrder, *, alive: bool, at: datetime) -> None:
    """Store how the broker's only order of an intent differs from it, once for each difference.

    More units than risk let pass are an alert besides: nothing but a person can have asked for them. The exits of a
    bracket are brought back to what is held by the service.

    :param alive: whether the broker says that the order is not over.
    """
    notes = IntentNotes(transaction)
    if row.perm_id and order.perm_id not in (0, row.perm_id):
        notes.add(row.id, NoteKind.PERM_ID, f"permId {row.perm_id} -> {order.perm_id}", at=at)
    if found := differences(row, order, alive=alive):
        notes.add(row.id, NoteKind.CHANGED, f"the broker has {', '.join(found)}", at=at)
    elif alive and any(note.kind is NoteKind.CHANGED for note in notes.for_intent(row.id)):
        notes.add(row.id, NoteKind.CHANGED, AS_SENT, at=at)
    if order.quantity > row.quantity and row.parent_id is None:
        _alert(transaction, row, order, at)


def differences(row: OrderIntent, order: BrokerOrder, *, alive: bool) -> list[str]:
    """Type, prices and quantity, where the broker's are not the intent's. Pure.

    The stop of a trailing order moves by itself, and the quantity of one that has ended may be told as less.
    """
    found = []
    if order.order_type != row.order_type:
        found.append(f"{order.order_type} for {row.order_type}")
    prices = {"limit": (order.limit_price, row.limit_price), "stop": (order.stop_price, row.stop_price)}
    for name, (theirs, ours) in prices.items():
        moves = name == "stop" and "TRAIL" in order.order_type
        if theirs is not None and ours is not None and theirs != ours and not moves:
            found.append(f"{name} {theirs:f} for {ours:f}")
    if order.quantity > row.quantity or (order.quantity != row.quantity and alive):
        found.append(f"quantity {order.quantity:f} for {row.quantity:f}")
    return found


def _alert(transaction: Session, row: OrderIntent, order: BrokerOrder, at: datetime) -> None:
    message = AlertMessage(
        severity=Severity.CRITICAL,
        title=f"[IBKR] {row.strategy}: order {row.symbol} was raised by hand",
        summary=(
            f"{row.order_ref} ({row.side} {row.symbol}, account {row.account}, permId {order.perm_id}) is for"
            f" {order.quantity:f} at the broker; risk let {row.quantity:f} pass."
        ),
        done=["What fills of it is booked for the strategy; no risk rule has seen the difference."],
        next_step=f"Change it back in TWS, or see `airflow ibkr orders show {row.order_ref}` and watch the position.",
    )
    enqueue(
        transaction,
        message,
        dedupe_key=f"raised-by-hand:{row.order_ref}:{order.quantity:f}",
        strategy=row.strategy,
        dag_id=row.dag_id,
        run_id=row.run_id,
        at=at,
    )
