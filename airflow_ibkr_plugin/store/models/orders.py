"""From the decision to the fill: intents, risk decisions, orders, executions."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Date, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base, OfTask
from airflow_ibkr_plugin.store.types import FreeText, enum_text
from airflow_ibkr_plugin.trading.orders import (
    MAYBE_AT_BROKER,
    BracketState,
    IntentState,
    OrderType,
    Side,
    TimeInForce,
)
from airflow_ibkr_plugin.trading.risk import Outcome

#: Reserved, or perhaps at the broker: exposure counts from the reservation until the broker has confirmed an end.
RESERVING = frozenset({IntentState.RESERVED}) | MAYBE_AT_BROKER
# An index of these alone: of a million intents they are a handful, and one that has ended costs nothing there.
_RESERVING = text("state IN ({})".format(", ".join(f"'{state}'" for state in sorted(RESERVING))))
_UNPAID = text("commission IS NULL")


class OrderIntent(OfTask, Base):
    """What we decided to do, stored before anything is sent. Its `order_ref` is what the broker knows it by.

    `requested_quantity` is what was asked for, `quantity` what risk let pass. `sent_at` is the first send.
    `broker_day` is the broker's calendar day of the reservation, or of the first send once there was one.

    The exits of a bracket have the id of its entry as `parent_id`, and the entry's lease. `bracket` is on the entry
    alone. (No foreign key: SQLite cannot add one to a table that is there.)
    """

    __tablename__ = "intents"
    __table_args__ = (
        Index(None, "dag_id", "run_id"),
        Index(None, "account", "state"),
        Index(None, "account", "sent_at"),
        Index(None, "strategy", "broker_day"),
        Index(None, "account", "broker_day"),
        Index(None, "state", sqlite_where=_RESERVING, postgresql_where=_RESERVING),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    order_ref: Mapped[str] = mapped_column(unique=True)
    installation: Mapped[str]
    strategy: Mapped[str]
    source: Mapped[str]
    account: Mapped[str]
    mode: Mapped[str]
    symbol: Mapped[str]
    con_id: Mapped[int]
    instrument: Mapped[dict[str, Any]]
    leg: Mapped[str]
    parent_id: Mapped[int | None] = mapped_column(index=True)
    bracket: Mapped[BracketState | None] = mapped_column(enum_text(BracketState), index=True)
    generation: Mapped[int]
    signal_id: Mapped[int | None] = mapped_column(ForeignKey("signals.id"))
    side: Mapped[Side] = mapped_column(enum_text(Side))
    quantity: Mapped[Decimal]
    requested_quantity: Mapped[Decimal]
    order_type: Mapped[OrderType] = mapped_column(enum_text(OrderType))
    limit_price: Mapped[Decimal | None]
    stop_price: Mapped[Decimal | None]
    trail_amount: Mapped[Decimal | None]
    trail_percent: Mapped[Decimal | None]
    tif: Mapped[TimeInForce] = mapped_column(enum_text(TimeInForce))
    outside_rth: Mapped[bool] = mapped_column(default=False)
    state: Mapped[IntentState] = mapped_column(enum_text(IntentState), default=IntentState.DECIDED)
    reason: Mapped[str] = mapped_column(FreeText, default="")
    reference_price: Mapped[Decimal | None]
    currency: Mapped[str]
    broker_day: Mapped[date | None] = mapped_column(Date)
    client_id: Mapped[int | None]
    order_id: Mapped[int | None]
    perm_id: Mapped[int | None]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class IntentTransition(Base):
    """One move of an intent from state to state."""

    __tablename__ = "intent_transitions"

    id: Mapped[int] = mapped_column(primary_key=True)
    intent_id: Mapped[int] = mapped_column(ForeignKey("intents.id"), index=True)
    from_state: Mapped[IntentState] = mapped_column(enum_text(IntentState))
    to_state: Mapped[IntentState] = mapped_column(enum_text(IntentState))
    at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(FreeText)


class RiskDecisionRow(Base):
    """What one risk rule said of an intent; `quantity` is what a clamp allowed."""

    __tablename__ = "risk_decisions"

    id: Mapped[int] = mapped_column(primary_key=True)
    intent_id: Mapped[int] = mapped_column(ForeignKey("intents.id"), index=True)
    rule: Mapped[str]
    outcome: Mapped[Outcome] = mapped_column(enum_text(Outcome))
    reason: Mapped[str] = mapped_column(FreeText)
    limit_value: Mapped[str] = mapped_column(FreeText)
    observed: Mapped[str] = mapped_column(FreeText)
    quantity: Mapped[Decimal | None]
    created_at: Mapped[datetime]


class OrderRow(Base):
    """An order as the broker last reported it. `intent_id` is None for orders that are not ours."""

    __tablename__ = "orders"
    __table_args__ = (UniqueConstraint("source", "perm_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    intent_id: Mapped[int | None] = mapped_column(ForeignKey("intents.id"), index=True)
    source: Mapped[str]
    account: Mapped[str]
    order_ref: Mapped[str] = mapped_column(index=True)
    perm_id: Mapped[int | None]
    client_id: Mapped[int]
    order_id: Mapped[int]
    con_id: Mapped[int]
    symbol: Mapped[str]
    side: Mapped[Side] = mapped_column(enum_text(Side))
    quantity: Mapped[Decimal]
    order_type: Mapped[str]
    limit_price: Mapped[Decimal | None]
    stop_price: Mapped[Decimal | None]
    tif: Mapped[str]
    status: Mapped[str]
    filled: Mapped[Decimal]
    remaining: Mapped[Decimal]
    average_price: Mapped[Decimal | None]
    reason: Mapped[str] = mapped_column(FreeText)
    first_seen_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ExecutionRow(Base):
    """One fill, kept once per `exec_id`. `strategy` is '' where the fill belongs to no intent of ours.

    `booking` is its number among the account's bookings, in the order of their commits; None for those of old versions.
    One that IBKR has taken back counts nowhere; `taken_back_on` is the last day of the statement that said so.
    """

    __tablename__ = "executions"
    __table_args__ = (
        Index(None, "source", "account", "strategy", "con_id"),
        Index(None, "account", "strategy", "time"),
        Index(None, "account", "booking"),
        Index(None, "booked_at", sqlite_where=_UNPAID, postgresql_where=_UNPAID),
    )

    source: Mapped[str] = mapped_column(primary_key=True)
    exec_id: Mapped[str] = mapped_column(primary_key=True)
    intent_id: Mapped[int | None] = mapped_column(ForeignKey("intents.id"), index=True)
    order_ref: Mapped[str]
    perm_id: Mapped[int]
    order_id: Mapped[int]
    client_id: Mapped[int]
    account: Mapped[str]
    con_id: Mapped[int]
    symbol: Mapped[str]
    strategy: Mapped[str]
    side: Mapped[Side] = mapped_column(enum_text(Side))
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]
    exchange: Mapped[str]
    time: Mapped[datetime]
    commission: Mapped[Decimal | None]
    commission_currency: Mapped[str]
    realized_pnl: Mapped[Decimal | None]
    booked_at: Mapped[datetime]
    booking: Mapped[int | None]
    taken_back_on: Mapped[date | None] = mapped_column(Date)
