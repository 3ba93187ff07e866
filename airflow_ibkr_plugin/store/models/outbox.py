"""What waits to be delivered elsewhere: alerts to Apprise, records to MLflow."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base
from airflow_ibkr_plugin.store.types import FreeText


class AlertRow(Base):
    """An alert; undelivered while `delivered_at` is None."""

    __tablename__ = "alerts"
    __table_args__ = (Index(None, "delivered_at", "next_attempt_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    dedupe_key: Mapped[str] = mapped_column(unique=True)
    severity: Mapped[str]
    title: Mapped[str] = mapped_column(FreeText)
    body: Mapped[str] = mapped_column(FreeText)
    strategy: Mapped[str]
    dag_id: Mapped[str]
    run_id: Mapped[str]
    created_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    last_error: Mapped[str] = mapped_column(FreeText, default="")


class TrackingRow(Base):
    """A record for MLflow; unsent while `sent_at` is None. Ids give the order within a run."""

    __tablename__ = "tracking_outbox"
    __table_args__ = (Index(None, "sent_at", "dag_id", "run_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    dag_id: Mapped[str]
    run_id: Mapped[str]
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]
    dedupe_key: Mapped[str | None] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    last_error: Mapped[str] = mapped_column(FreeText, default="")
