"""What SQLite and PostgreSQL share but SQLAlchemy names per dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import CursorResult, Executable, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.base import Base


def insert(session: Session, model: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """INSERT of the session's dialect, which knows ON CONFLICT."""
    return _insert(session.get_bind().dialect.name, model)


def changed(session: Session, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
    """Run an INSERT, UPDATE or DELETE; the number of rows that it touched."""
    result = session.execute(statement, parameters)
    assert isinstance(result, CursorResult)
    return result.rowcount


def insert_if_absent(session: Session, model: type[Base], keys: Sequence[str], values: Mapping[str, Any]) -> bool:
    """Insert a row unless one with these keys is there, also when another transaction inserts it just now.

    :returns: whether this call inserted it.
    """
    session.flush()
    return changed(session, _insert_if_absent(session.get_bind().dialect.name, model, tuple(keys)), values) == 1


def upsert(session: Session, model: type[Base], keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows; where one with the same keys is there, give it the new values."""
    if not rows:
        return
    session.flush()
    dialect, columns = session.get_bind().dialect.name, tuple(name for name in rows[0] if name not in keys)
    session.execute(_upsert(dialect, model, tuple(keys), columns), list(rows))
    session.expire_all()


# Made once: to make a statement with all columns of a table takes longer than to run it.
@cache
def _insert_if_absent(dialect: str, model: type[Base], keys: tuple[str, ...]) -> Executable:
    return _insert(dialect, model.__table__).on_conflict_do_nothing(index_elements=keys)


@cache
def _upsert(dialect: str, model: type[Base], keys: tuple[str, ...], columns: tuple[str, ...]) -> Executable:
    statement = _insert(dialect, model.__table__)
    update = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=keys, set_=update)


def _insert(dialect: str, into: Any) -> postgresql.Insert | sqlite.Insert:
    return sqlite.insert(into) if dialect == "sqlite" else postgresql.insert(into)


def current_time(session: Session) -> datetime:
    """Aware UTC now by one clock for all who use this database, also while a transaction has waited for a lock.

    PostgreSQL's own; the users of an SQLite file are on one machine, and take that one's.
    """
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    now = session.scalars(select(func.clock_timestamp())).one()
    assert isinstance(now, datetime)
    return now.astimezone(UTC)
