"""Bring the trading database to the schema of this code. The only module of the store that loads alembic."""

from __future__ import annotations

import errno

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import SchemaMismatch, StoreError, StoreFull
from airflow_ibkr_plugin.store import schema
from airflow_ibkr_plugin.store.database import installation_id, lock, translated_errors
from airflow_ibkr_plugin.store.engine import make_engine, parse_url, reading, sqlite_path, writing

LOCATION = "airflow_ibkr_plugin.store:migrations"


def migrate(url: str) -> None:
    """Make or upgrade the tables, all of it or nothing; safe to run twice, or from two places at once.

    Makes the folder and the file of an SQLite database; a PostgreSQL database must exist.

    :raises ConfigError: the URL is neither SQLite's nor PostgreSQL's.
    :raises SchemaMismatch: the database is newer than this code.
    :raises StoreError: (or a subclass) the database failed.
    """
    target = parse_url(url)
    _make_folder(target)
    engine = make_engine(target)
    try:
        with translated_errors(), writing(engine).begin() as connection, Session(connection) as session:
            lock(session, "migrate")
            _refuse_newer(connection)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, schema.HEAD)
            installation_id(session)
            session.flush()
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """The revision of the database's schema; None if it has none yet.

    :raises StoreError: the database failed.
    """
    target = parse_url(url)
    path = sqlite_path(target)
    if path is not None and not path.exists():
        return None
    engine = make_engine(target)
    try:
        with translated_errors(), reading(engine).connect() as connection:
            return _revision(connection)
    finally:
        engine.dispose()


def head() -> str:
    """The revision that the migrations lead to."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", LOCATION)
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: Connection) -> str | None:
    options = {"version_table": schema.VERSION_TABLE}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _refuse_newer(connection: Connection) -> None:
    found = _revision(connection)
    if found is not None and found not in schema.REVISIONS:
        raise SchemaMismatch(
            f"The trading database has schema {found}, which this code (schema {schema.HEAD}) does not know.",
            remedy="Install the newer airflow-ibkr-plugin that made it.",
        )


def _make_folder(url: URL) -> None:
    path = sqlite_path(url)
    if path is None:
        return
    folder = path.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        family = StoreFull if error.errno == errno.ENOSPC else StoreError
        raise family(
            f"The folder {folder} of the trading database cannot be made: {error.strerror}.",
            remedy="Make it writable, free space, or set [ibkr] sql_alchemy_conn to another place.",
        ) from error
