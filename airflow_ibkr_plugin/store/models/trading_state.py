"""Trading states, every change of them, and the commands that are to be carried out at the broker."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base
from airflow_ibkr_plugin.store.types import FreeText, enum_text
from airflow_ibkr_plugin.trading.trading_state import CommandKind, TradingState


class TradingStateRow(Base):
    """The trading state of a strategy, or of the installation (strategy ''). No row means ACTIVE.

    `version` grows with every change.
    """

    __tablename__ = "trading_states"

    strategy: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[TradingState] = mapped_column(enum_text(TradingState))
    version: Mapped[int]
    reason: Mapped[str] = mapped_column(FreeText)
    changed_by: Mapped[str]
    changed_at: Mapped[datetime]


class TradingStateChange(Base):
    """One change of a trading state: who, when, why, from what to what. Rows are only ever added."""

    __tablename__ = "trading_state_changes"

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str] = mapped_column(index=True)
    old_state: Mapped[TradingState] = mapped_column(enum_text(TradingState))
    new_state: Mapped[TradingState] = mapped_column(enum_text(TradingState))
    changed_by: Mapped[str]
    reason: Mapped[str] = mapped_column(FreeText)
    at: Mapped[datetime]


class TradingCommand(Base):
    """A person's order to cancel what works in a scope, and perhaps to close its positions.

    It is about the intents up to `last_intent_id`. `cancelled_at`: the broker has confirmed that nothing of them
    works. `flat_at`: the positions are closed. `ended_at`: the state was loosened since, or a closing was withdrawn; it
    is not carried on. A closing sets no state, `state` is what it was; it is about `symbol` ('': all that the strategy
    holds) and about `quantity` of it (None: all).
    """

    __tablename__ = "trading_commands"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[CommandKind] = mapped_column(enum_text(CommandKind), default=CommandKind.STATE)
    strategy: Mapped[str]
    symbol: Mapped[str] = mapped_column(default="")
    quantity: Mapped[Decimal | None]
    state: Mapped[TradingState] = mapped_column(enum_text(TradingState))
    flatten: Mapped[bool]
    last_intent_id: Mapped[int]
    requested_by: Mapped[str]
    requested_at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(FreeText)
    cancelled_at: Mapped[datetime | None]
    flat_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    last_error: Mapped[str] = mapped_column(FreeText, default="")
