"""Engines for the trading database: what SQLite and PostgreSQL must be told to give the same guarantees."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from airflow_ibkr_plugin.errors import ConfigError, StoreError

BUSY_SECONDS = 30
#: A server that is gone without a word (its machine, or the network between) is noticed after about 30 s, not after
#: hours. Source: PostgreSQL, libpq, "Parameter Key Words". What the URL says counts more.
_NOTICE_DEATH = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
_LIBPQ = ("psycopg2", "psycopg")  # drivers that take libpq's parameters
WRITES = "ibkr_writes"  # execution option: the transaction is one that writes


def parse_url(text: str) -> URL:
    """The URL with the driver that this package is tested with.

    :raises ConfigError: not a URL, or of another database than SQLite (a file) and PostgreSQL.
    """
    remedy = "Set [ibkr] sql_alchemy_conn to sqlite:////path/trading.db or postgresql://user:password@host/name."
    try:
        url = make_url(text)
    except ArgumentError:  # its text would show the password
        raise ConfigError("The trading database's URL cannot be read.", remedy=remedy) from None
    if url.drivername in ("postgresql", "postgres"):
        # SQLAlchemy 2.1 takes psycopg for these, SQLAlchemy 2.0 psycopg2.
        return url.set(drivername="postgresql+psycopg2")
    backend = url.get_backend_name()
    if backend == "postgresql" or (backend == "sqlite" and url.database not in (None, "", ":memory:")):
        return url
    raise ConfigError(f"The trading database cannot be {url.render_as_string(hide_password=True)}.", remedy=remedy)


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite URL; None for PostgreSQL."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def make_engine(url: URL) -> Engine:
    """An engine that has not connected yet. JSON columns refuse NaN, which PostgreSQL's JSON has no word for."""
    dumps = partial(json.dumps, allow_nan=False)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, json_serializer=dumps, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        options = _NOTICE_DEATH if url.get_driver_name() in _LIBPQ else {}
        engine = create_engine(
            url,
            json_serializer=dumps,
            pool_pre_ping=True,
            connect_args={name: value for name, value in options.items() if name not in url.query},
        )
        event.listen(engine, "connect", _prepare_postgres)
    return engine


def writing(engine: Engine) -> Engine:
    """The engine for transactions that write; shares the pool."""
    return engine.execution_options(**{WRITES: True})


def reading(engine: Engine) -> Engine:
    """The engine for transactions that see one snapshot and cannot write; shares the pool."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # SQLAlchemy begins the transactions (below), not the driver: its legacy mode begins none before a SELECT.
    connection.isolation_level = None
    cursor = connection.cursor()
    mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(
            f"SQLite cannot keep a write-ahead log for the trading database (journal mode {mode}).",
            remedy="Put the file on a local disk, or use PostgreSQL.",
        )
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: what it then reads cannot change before it writes.
    if connection.get_execution_options().get(WRITES):
        connection.exec_driver_sql("PRAGMA query_only=OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("PRAGMA query_only=ON")
        connection.exec_driver_sql("BEGIN")


def _prepare_postgres(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
    connection.commit()
