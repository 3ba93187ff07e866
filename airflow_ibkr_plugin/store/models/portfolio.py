"""What is held and what it is worth."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base, OfTask


class PositionRow(Base):
    """A holding. With a strategy, derived from its executions; with strategy '', the account as the broker reports it.

    `quantity` is negative when short; `average_cost` is per unit in `currency`; `realized_pnl` is the sum since the
    first execution for a strategy, and what the broker says (None where it says nothing) for the account.
    """

    __tablename__ = "positions"

    source: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    strategy: Mapped[str] = mapped_column(primary_key=True)
    con_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    symbol: Mapped[str]
    sec_type: Mapped[str]
    currency: Mapped[str]
    quantity: Mapped[Decimal]
    average_cost: Mapped[Decimal]
    realized_pnl: Mapped[Decimal | None]
    updated_at: Mapped[datetime]


class AccountSnapshotRow(OfTask, Base):
    """An account at one moment `at` of the broker's clock. Decimals inside `positions` are text."""

    __tablename__ = "account_snapshots"
    __table_args__ = (Index(None, "source", "account"), Index(None, "dag_id", "run_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str]
    account: Mapped[str]
    at: Mapped[datetime]
    currency: Mapped[str]
    net_liquidation: Mapped[Decimal]
    cash: Mapped[Decimal]
    buying_power: Mapped[Decimal]
    values: Mapped[dict[str, Any]]
    positions: Mapped[list[Any]]
    simulated: Mapped[bool]
    created_at: Mapped[datetime]
