"""Sessions on the trading database, with its errors in this package's words."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Protocol

from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import SchemaMismatch, StoreError, StoreFull
from airflow_ibkr_plugin.store import schema
from airflow_ibkr_plugin.store.engine import make_engine, parse_url, reading, sqlite_path, writing
from airflow_ibkr_plugin.store.models.base import Meta
from airflow_ibkr_plugin.store.sql import insert_if_absent

SQLITE_FULL = 13  # https://www.sqlite.org/rescode.html#full
POSTGRES_DISK_FULL = "53100"  # https://www.postgresql.org/docs/current/errcodes-appendix.html


class Guard(Protocol):
    """Says whether something may still be done in somebody's name; raises where not."""

    def require(self) -> None:
        """As far as is known without asking the database."""

    def check(self, transaction: Session) -> None:
        """For certain, until the transaction's end."""


class Database:
    """The trading database at one URL. Connects on first use; after a fork the child makes connections of its own.

    Rows stay readable after their session has ended.

    :param check_schema: refuse a schema that this code was not written for.
    :raises ConfigError: the URL is neither SQLite's nor PostgreSQL's.
    """

    def __init__(self, url: str, *, check_schema: bool = True) -> None:
        self.url = parse_url(url)
        self._check = check_schema
        self._engine = make_engine(self.url)
        self._pid = os.getpid()
        self._checked = False
        self._guard: Guard | None = None
        # Connections of the parent process: kept, because to collect them would close them under the parent.
        self._inherited: list[Engine] = []

    @property
    def engine(self) -> Engine:
        """The engine of this process, schema checked.

        :raises SchemaMismatch: there is no schema, or an older or a newer one.
        """
        engine = self._own()
        if self._check and not self._checked:
            self.check_schema()
            self._checked = True
        return engine

    def _own(self) -> Engine:
        if self._pid != os.getpid():
            self._inherited.append(self._engine)
            self._engine, self._pid = make_engine(self.url), os.getpid()
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one snapshot and cannot write.

        :raises StoreError: (or a subclass) the database failed.
        """
        with translated_errors(), Session(reading(self.engine), expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self, *, serialize: str = "") -> Iterator[Session]:
        """A session that commits at the end, or rolls back on any error.

        :param serialize: a name that only one transaction may hold at a time, wherever it runs: what is read under
            it stays true until the commit. SQLite has one writer at a time anyway.
        :raises Exception: what the guard raises; nothing was stored.
        :raises StoreFull: no space is left; nothing of this session was stored, all else is still there.
        :raises StoreError: the database failed, or was locked for too long.
        """
        with translated_errors(), Session(writing(self.engine), expire_on_commit=False) as session, session.begin():
            if serialize:
                lock(session, serialize)
            yield session
            if self._guard is not None:  # last: what it locks is wanted by others
                self._guard.check(session)

    def guarded(self, guard: Guard) -> Database:
        """The same, through which nothing is committed but what the guard lets pass."""
        twin = copy(self)
        twin._guard = guard
        return twin

    def unguarded(self) -> Database:
        """The same without its guard: to give back what was held in its name."""
        twin = copy(self)
        twin._guard = None
        return twin

    def require(self) -> None:
        """Ask before what cannot be taken back. :raises Exception: what the guard raises."""
        if self._guard is not None:
            self._guard.require()

    def dispose(self) -> None:
        """Close this process's idle connections."""
        if self._pid == os.getpid():
            self._engine.dispose()

    def check_schema(self) -> None:
        """Look whether the schema is this code's. On first use that is done by itself, but somebody may migrate later.

        :raises SchemaMismatch: see :attr:`engine`. :raises StoreError: the database failed.
        """
        remedy = f"Run: {schema.MIGRATE_COMMAND}"
        path = sqlite_path(self.url)
        if path is not None and not path.exists():  # connecting would create it, empty
            raise SchemaMismatch(f"There is no trading database at {path}.", remedy=remedy)
        with translated_errors(), reading(self._own()).connect() as connection:
            tables = inspect(connection).has_table(schema.VERSION_TABLE)
            found = connection.scalar(text(f"SELECT version_num FROM {schema.VERSION_TABLE}")) if tables else None  # noqa: S608  a constant
        if found == schema.HEAD:
            return
        where = self.url.render_as_string(hide_password=True)
        if found is None:
            raise SchemaMismatch(f"The trading database {where} has no tables yet.", remedy=remedy)
        if found in schema.REVISIONS:
            raise SchemaMismatch(
                f"The trading database {where} has schema {found}, older than this code's {schema.HEAD}.",
                remedy=remedy,
            )
        raise SchemaMismatch(
            f"The trading database {where} has schema {found}, which this code (schema {schema.HEAD}) does not know.",
            remedy=f"Install the newer airflow-ibkr-plugin that made it; then, if it asks for it, run:"
            f" {schema.MIGRATE_COMMAND}",
        )


_databases: dict[str, Database] = {}


def open_database() -> Database:
    """The trading database of this installation, `[ibkr] sql_alchemy_conn`; one per URL and process.

    :raises ConfigError: the setting cannot be used.
    """
    from airflow_ibkr_plugin import settings

    url = settings.load().sql_alchemy_conn
    return _databases.get(url) or _databases.setdefault(url, Database(url))


def lock(session: Session, name: str, *, shared: bool = False) -> None:
    """Hold `name` until the end of the transaction, alone, or `shared` with all that hold it so.

    SQLite's writers exclude each other already.
    """
    if session.get_bind().dialect.name == "postgresql":
        digest = hashlib.blake2b(f"airflow_ibkr_plugin:{name}".encode(), digest_size=8).digest()
        function = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        session.execute(select(function(int.from_bytes(digest, "big", signed=True))))


def installation_id(session: Session) -> str:
    """The random id of this trading database; part of every orderRef. The migration makes it."""
    query = select(Meta.value).where(Meta.key == "installation_id")
    found = session.scalar(query)
    if found is None:
        insert_if_absent(session, Meta, ("key",), {"key": "installation_id", "value": uuid.uuid4().hex})
        found = session.scalars(query).one()
    return found


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what the database or its driver reports into this package's errors; faults of our SQL pass unchanged."""
    try:
        yield
    except (IntegrityError, DataError, InternalError, NotSupportedError, ProgrammingError):
        raise
    except (DatabaseError, InterfaceError, PoolTimeout) as error:
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)
        if code == POSTGRES_DISK_FULL or getattr(cause, "sqlite_errorcode", None) == SQLITE_FULL:
            raise StoreFull(
                f"The trading database has no space left: {str(cause).strip()}.",
                remedy="Free space on its disk; what was stored before is still there.",
            ) from error
        raise StoreError(
            f"The trading database failed: {str(cause).strip()}.",
            remedy="Check that the database of [ibkr] sql_alchemy_conn is up, reachable and writable.",
        ) from error
