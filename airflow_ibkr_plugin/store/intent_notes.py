"""What is to be remembered of an intent besides its states."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.again import IntentNote, NoteKind


class IntentNotes:
    """Notes by intent."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, intent_id: int, kind: NoteKind, text: str, *, at: datetime, by: str = "") -> bool:
        """Add a note, unless the last one of its kind says the same; whether it was added.

        The caller holds the intent's lease. :param by: the person who did it; '' where none did.
        """
        query = select(IntentNote.text).where(IntentNote.intent_id == intent_id, IntentNote.kind == kind)
        if self._session.scalar(query.order_by(IntentNote.id.desc()).limit(1)) == text:
            return False
        self._session.add(IntentNote(intent_id=intent_id, kind=kind, text=text, noted_by=by, at=at))
        self._session.flush()
        return True

    def for_intent(self, intent_id: int) -> list[IntentNote]:
        """Oldest first."""
        query = select(IntentNote).where(IntentNote.intent_id == intent_id)
        return list(self._session.scalars(query.order_by(IntentNote.id)))
