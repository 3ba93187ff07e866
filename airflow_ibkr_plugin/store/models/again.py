"""What people decided about orders, and what became of orders without our doing."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from airflow_ibkr_plugin.store.models.base import Base, OfTask
from airflow_ibkr_plugin.store.types import FreeText, enum_text


class GenerationRow(OfTask, Base):
    """A person's leave to trade once more for one instrument of one task of one run. Rows are only ever added.

    The generation without a row is 0; `generation` is the one that the next try of the task uses.
    """

    __tablename__ = "generations"
    __table_args__ = (UniqueConstraint("dag_id", "run_id", "task_id", "con_id", "generation"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    con_id: Mapped[int]
    symbol: Mapped[str]
    generation: Mapped[int]
    raised_by: Mapped[str]
    reason: Mapped[str] = mapped_column(FreeText)
    at: Mapped[datetime]


class NoteKind(StrEnum):
    """What a note about an order is about."""

    CHANGED = "changed"  # the broker has it otherwise than it was sent, as after a change by hand in TWS
    PERM_ID = "perm_id"  # it goes on under another permId
    SETTLED = "settled"  # a person declared what became of it
    TAKEN_BACK = "taken_back"  # IBKR has taken back a fill of it, or given it back


class IntentNote(Base):
    """Something about an intent that is no move from state to state. `noted_by` is '' where no person did it."""

    __tablename__ = "intent_notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    intent_id: Mapped[int] = mapped_column(ForeignKey("intents.id"), index=True)
    kind: Mapped[NoteKind] = mapped_column(enum_text(NoteKind))
    text: Mapped[str] = mapped_column(FreeText)
    noted_by: Mapped[str]
    at: Mapped[datetime]
