"""Limits of accounts, and what is known of an account besides its orders: its bookings' number, its highest values."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, Date, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base
from airflow_ibkr_plugin.store.types import FreeText


class LimitChange(Base):
    """One change of an account's limit: who, when, why, from what to what. Only `live` ever changes in a row.

    `account` is '' for every account. Parameters are None where there is no limit. `until`: when it reverts; None:
    never. `live`: it may be in force now or later. `ended_id`: this row records that the time of that change is over.
    """

    __tablename__ = "limit_changes"
    __table_args__ = (Index(None, "live", "account"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str]
    rule: Mapped[str]
    old_parameters: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    new_parameters: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    until: Mapped[datetime | None]
    changed_by: Mapped[str]
    reason: Mapped[str] = mapped_column(FreeText)
    at: Mapped[datetime]
    live: Mapped[bool]
    ended_id: Mapped[int | None] = mapped_column(ForeignKey("limit_changes.id"))


class AccountBookings(Base):
    """How many fills have been booked in an account. `kind` is that of its gateway: simulator, paper or live."""

    __tablename__ = "account_bookings"

    kind: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    booked: Mapped[int]


class AccountPeak(Base):
    """The highest net liquidation value of an account that was seen on a broker's day, in `currency`."""

    __tablename__ = "account_peaks"

    kind: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Decimal]
    at: Mapped[datetime]
