"""Runs, the overrides they started with, and what failed in them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base, OfTask
from airflow_ibkr_plugin.store.types import FreeText, enum_text


class RunState(StrEnum):
    """How a run stands; everything but RUNNING is an end."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


class Run(Base):
    """One DAG run with the effective configuration it started with, and the one MLflow run that belongs to it."""

    __tablename__ = "runs"
    __table_args__ = (UniqueConstraint("dag_id", "run_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    dag_id: Mapped[str]
    run_id: Mapped[str]
    strategy: Mapped[str]
    mode: Mapped[str]
    source: Mapped[str] = mapped_column(default="")
    account: Mapped[str] = mapped_column(default="")
    config: Mapped[dict[str, Any]]
    config_hash: Mapped[str]
    simulated_clock: Mapped[bool] = mapped_column(default=False)
    state: Mapped[RunState] = mapped_column(enum_text(RunState), default=RunState.RUNNING)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    mlflow_experiment: Mapped[str | None]
    mlflow_experiment_id: Mapped[str | None]
    mlflow_run_id: Mapped[str | None]
    claim_owner: Mapped[str | None]
    claim_until: Mapped[datetime | None]
    created_at: Mapped[datetime]


class Override(Base):
    """Parameters that a person set over a workflow's own; at most one version per strategy is active."""

    __tablename__ = "overrides"
    __table_args__ = (UniqueConstraint("strategy", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    version: Mapped[int]
    parameters: Mapped[dict[str, Any]]
    author: Mapped[str]
    reason: Mapped[str] = mapped_column(FreeText)
    created_at: Mapped[datetime]
    active: Mapped[bool]


class Failure(OfTask, Base):
    """A failed try of a task; `task_id` is '' for the run as a whole, `map_index` -1 for a task that is not mapped."""

    __tablename__ = "failures"
    __table_args__ = (UniqueConstraint("dag_id", "run_id", "task_id", "map_index", "try_number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    map_index: Mapped[int]
    try_number: Mapped[int]
    family: Mapped[str]
    error_type: Mapped[str]
    message: Mapped[str] = mapped_column(FreeText)
    traceback: Mapped[str] = mapped_column(FreeText)
    log_url: Mapped[str]
    created_at: Mapped[datetime]
