"""Market data and what was drawn and concluded from it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base, OfTask
from airflow_ibkr_plugin.store.types import FreeText, enum_text
from airflow_ibkr_plugin.trading.signals import Action


class ContractPin(Base):
    """Which IBKR contract an instrument of a workflow was resolved to."""

    __tablename__ = "contract_pins"

    source: Mapped[str] = mapped_column(primary_key=True)
    spec_key: Mapped[str] = mapped_column(primary_key=True)
    con_id: Mapped[int]
    instrument: Mapped[dict[str, Any]]
    pinned_at: Mapped[datetime]


class BarRow(Base):
    """A cached bar; see :class:`airflow_ibkr_plugin.trading.bars.Bar` for the fields."""

    __tablename__ = "bars"
    # The key is the table: no second copy of it in a hidden rowid tree.
    __table_args__ = ({"sqlite_with_rowid": False},)

    source: Mapped[str] = mapped_column(primary_key=True)
    con_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bar_size: Mapped[str] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    use_rth: Mapped[bool] = mapped_column(primary_key=True)
    time: Mapped[datetime] = mapped_column(primary_key=True)
    open: Mapped[float]
    high: Mapped[float]
    low: Mapped[float]
    close: Mapped[float]
    volume: Mapped[float]
    wap: Mapped[float]
    count: Mapped[int]


class Chart(OfTask, Base):
    """A chart in object storage, and how to know it again: its sha256 and size in bytes and pixels."""

    __tablename__ = "charts"
    __table_args__ = (Index(None, "dag_id", "run_id"), Index(None, "dag_id", "symbol"))

    id: Mapped[int] = mapped_column(primary_key=True)
    symbol: Mapped[str]
    con_id: Mapped[int]
    source: Mapped[str]
    url: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    bar_size: Mapped[str]
    first_bar: Mapped[datetime]
    last_bar: Mapped[datetime]
    indicators: Mapped[list[Any]]
    created_at: Mapped[datetime]


class SignalRow(OfTask, Base):
    """A signal with the raw answer that it was read from, and the exact prompt that was asked."""

    __tablename__ = "signals"
    __table_args__ = (Index(None, "dag_id", "run_id"), Index(None, "dag_id", "symbol"))

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    symbol: Mapped[str]
    con_id: Mapped[int]
    source: Mapped[str]
    action: Mapped[Action] = mapped_column(enum_text(Action))
    confidence: Mapped[float]
    entry: Mapped[float | None]
    stop: Mapped[float | None]
    target: Mapped[float | None]
    horizon_days: Mapped[int | None]
    rationale: Mapped[str] = mapped_column(FreeText, default="")
    analyst: Mapped[str]
    model: Mapped[str]
    is_llm: Mapped[bool]
    prompt_name: Mapped[str] = mapped_column(default="")
    prompt_version: Mapped[str] = mapped_column(default="")
    prompt_sha256: Mapped[str] = mapped_column(default="")
    chart_id: Mapped[int | None] = mapped_column(ForeignKey("charts.id"))
    as_of: Mapped[datetime]
    raw: Mapped[str] = mapped_column(FreeText)
    usage: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]


class PacingRequest(Base):
    """A request for history: in line while `sent_at` is None, then on its way until `until`, when it was answered.

    Before the answer `until` is when its owner is taken for dead.
    """

    __tablename__ = "pacing_requests"
    __table_args__ = (Index(None, "gateway", "until"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    gateway: Mapped[str]
    owner: Mapped[str]
    request: Mapped[str]
    series: Mapped[str]
    weight: Mapped[int]
    asked_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    until: Mapped[datetime]


class PacingEvent(Base):
    """IBKR's complaint, with its code, about a request that was sent at `sent_at`."""

    __tablename__ = "pacing_events"
    __table_args__ = (Index(None, "gateway", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    gateway: Mapped[str]
    request: Mapped[str]
    code: Mapped[int]
    message: Mapped[str] = mapped_column(FreeText)
    sent_at: Mapped[datetime]
    at: Mapped[datetime]
