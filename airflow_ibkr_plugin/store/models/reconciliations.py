"""Reconciliations with the broker, and what changes a position without being an execution."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base
from airflow_ibkr_plugin.store.types import FreeText, enum_text
from airflow_ibkr_plugin.trading.reconcile import DifferenceKind, Result


class ReconciliationRow(Base):
    """One comparison of our book of an account with the broker's, by whoever made it.

    `gateway` is the kind of it: several connections (`source`) can lead to one account. `booked` counts the fills that
    it entered in the books. `accepted_by` is the person who accepted its differences, with `reason`; of one that failed
    `reason` is why.
    """

    __tablename__ = "reconciliations"
    __table_args__ = (Index(None, "gateway", "account", "result", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    gateway: Mapped[str]
    source: Mapped[str]
    account: Mapped[str]
    at: Mapped[datetime]
    made_by: Mapped[str]
    result: Mapped[Result] = mapped_column(enum_text(Result))
    booked: Mapped[int]
    accepted_by: Mapped[str]
    reason: Mapped[str] = mapped_column(FreeText)


class ReconciliationDifference(Base):
    """One difference that a reconciliation found; `key` is equal where it is seen again."""

    __tablename__ = "reconciliation_differences"

    id: Mapped[int] = mapped_column(primary_key=True)
    reconciliation_id: Mapped[int] = mapped_column(ForeignKey("reconciliations.id"), index=True)
    kind: Mapped[DifferenceKind] = mapped_column(enum_text(DifferenceKind))
    key: Mapped[str] = mapped_column(FreeText)
    con_id: Mapped[int]
    symbol: Mapped[str]
    strategies: Mapped[list[Any]]
    order_ref: Mapped[str]
    ours: Mapped[str] = mapped_column(FreeText)
    theirs: Mapped[str] = mapped_column(FreeText)
    detail: Mapped[str] = mapped_column(FreeText)
    accepted: Mapped[bool]


class AcceptedDifference(Base):
    """A difference of an account that a person has accepted as the broker has it."""

    __tablename__ = "accepted_differences"

    gateway: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    accepted_by: Mapped[str]
    reason: Mapped[str] = mapped_column(FreeText)
    at: Mapped[datetime]


class UnexplainedPosition(Base):
    """What an account holds of a contract beside the strategies' books, as it was found first or accepted last."""

    __tablename__ = "unexplained_positions"

    gateway: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    con_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    symbol: Mapped[str]
    quantity: Mapped[Decimal]
    set_by: Mapped[str]
    reason: Mapped[str] = mapped_column(FreeText)
    at: Mapped[datetime]


class AdjustmentKind(StrEnum):
    """What a position changes by that is no execution."""

    SPLIT = "split"


class PositionAdjustment(Base):
    """`new_shares` for each `old_shares` that a strategy held `at` that time, for the same cost.

    Of the result `paid_out` shares, a fraction, were paid out in cash at `price`, per new share in `currency`.
    """

    __tablename__ = "position_adjustments"
    __table_args__ = (Index(None, "source", "account", "strategy", "con_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[AdjustmentKind] = mapped_column(enum_text(AdjustmentKind))
    source: Mapped[str]
    account: Mapped[str]
    strategy: Mapped[str]
    con_id: Mapped[int]
    new_shares: Mapped[Decimal]
    old_shares: Mapped[Decimal]
    paid_out: Mapped[Decimal]
    price: Mapped[Decimal]
    currency: Mapped[str]
    at: Mapped[datetime]
    made_by: Mapped[str]
    reason: Mapped[str] = mapped_column(FreeText)
    reconciliation_id: Mapped[int] = mapped_column(ForeignKey("reconciliations.id"), index=True)


class NoticedSplit(Base):
    """A split that the prices of a contract have shown: prices before it are `factor` times those after it."""

    __tablename__ = "noticed_splits"
    __table_args__ = (Index(None, "con_id", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str]
    con_id: Mapped[int]
    factor: Mapped[float]
    at: Mapped[datetime]
