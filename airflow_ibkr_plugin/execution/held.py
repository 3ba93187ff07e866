"""What is held of a bracket, by our books, in shares of today."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.units import Units

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.store.models.orders import OrderIntent


def held_of(transaction: Session, entry: OrderIntent) -> Decimal:
    """What the entry has filled and no exit has closed, as far as its strategy still holds it; never below zero."""
    units = Units(transaction)
    strategy = of_strategy(transaction, entry)
    # What older brackets of the strategy brought is theirs.
    for older in units.of_strategy(entry.source, entry.account, entry.strategy, entry.con_id):
        if older.id < entry.id and older.side is entry.side:
            strategy -= entry.side.sign * max(_left(transaction, older), Decimal(0))
    return min(_left(transaction, entry), max(strategy * entry.side.sign, Decimal(0)))


def of_strategy(transaction: Session, row: OrderIntent) -> Decimal:
    """Signed quantity that the strategy holds of the instrument."""
    booked = Positions(transaction).of_strategies(row.source, row.account, row.con_id)
    return sum((own.quantity for own in booked if own.strategy == row.strategy), Decimal(0))


def _left(transaction: Session, entry: OrderIntent) -> Decimal:
    """What the entry has filled and its own exits have not."""
    return _filled(transaction, [entry]) - _filled(transaction, Units(transaction).exits(entry.id))


def _filled(transaction: Session, rows: list[OrderIntent]) -> Decimal:
    fills, units = Executions(transaction), Units(transaction)
    return sum(
        (fill.quantity * units.shares_since(row, fill.time) for row in rows for fill in fills.for_intent(row.id)),
        Decimal(0),
    )
