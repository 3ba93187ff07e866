from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from airflow_ibkr_plugin.errors import ConfigError, SchemaMismatch, StoreError
from airflow_ibkr_plugin.store import schema
from airflow_ibkr_plugin.store.database import Database, installation_id
from airflow_ibkr_plugin.store.engine import make_engine, parse_url, writing
from airflow_ibkr_plugin.store.migrate import LOCATION, _config, current, head, migrate
from airflow_ibkr_plugin.store.models import Base
from airflow_ibkr_plugin.store.models.limits import AccountPeak
from airflow_ibkr_plugin.store.models.orders import ExecutionRow

NOW = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)


def differences(engine: Engine) -> list[Any]:
    options = {"version_table": schema.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    with engine.connect() as connection:
        found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
        return found


def test_migrations_make_what_the_models_say(empty_url: str) -> None:
    migrate(empty_url)
    engine = writing(make_engine(parse_url(empty_url)))
    assert differences(engine) == []
    with engine.begin() as connection:  # the comparison would see a difference
        connection.execute(text("DROP INDEX ix_intents_dag_id_run_id"))
        connection.execute(text("ALTER TABLE alerts DROP COLUMN last_error"))
    assert [kind[0] for kind in differences(engine)] == ["add_column", "add_index"]
    engine.dispose()


def test_revisions_are_those_of_the_migrations() -> None:
    scripts = ScriptDirectory.from_config(_config())
    assert tuple(reversed([one.revision for one in scripts.walk_revisions()])) == schema.REVISIONS
    assert head() == schema.HEAD
    assert LOCATION.startswith("airflow_ibkr_plugin.store:")


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    assert current(empty_url) is None
    migrate(empty_url)
    database = Database(empty_url)
    with database.read() as session:
        first = installation_id(session)
    migrate(empty_url)
    with database.read() as session:
        assert installation_id(session) == first
    database.dispose()
    assert len(first) == 32
    assert current(empty_url) == head()


def upgrade_to(url: str, revision: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    engine = writing(make_engine(parse_url(url)))
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_a_database_of_the_first_schema_is_upgraded_with_its_rows(empty_url: str) -> None:
    upgrade_to(empty_url, "0001")
    engine = writing(make_engine(parse_url(empty_url)))
    with engine.begin() as connection:
        old = sa.MetaData()
        old.reflect(connection)
        connection.execute(old.tables["intents"].insert(), filled(old.tables["intents"]))
        connection.execute(old.tables["pacing_events"].insert(), filled(old.tables["pacing_events"]))
    migrate(empty_url)
    assert differences(engine) == []
    with engine.connect() as connection:
        assert connection.execute(text("SELECT order_ref FROM intents")).scalars().all() == ["order_ref"]
        assert connection.execute(text("SELECT * FROM pacing_events")).all() == []
    engine.dispose()


def test_a_database_of_the_landed_schema_is_upgraded_with_rows_in_every_table(empty_url: str) -> None:
    upgrade_to(empty_url, "0002")
    engine = writing(make_engine(parse_url(empty_url)))
    old = sa.MetaData()
    with engine.begin() as connection:
        old.reflect(connection)
        names = [table.name for table in old.sorted_tables if table.name not in (schema.VERSION_TABLE, "meta")]
        for name in names:
            model = Base.metadata.tables[name]
            types = {column.name: model.columns[column.name].type for column in old.tables[name].columns}
            table = sa.table(name, *(sa.column(*named) for named in types.items()))
            connection.execute(table.insert(), {named: some(kind, named) for named, kind in types.items()})
        rows = {name: connection.execute(old.tables[name].select()).mappings().one() for name in names}
    migrate(empty_url)
    assert differences(engine) == []
    with engine.connect() as connection:
        for name in names:
            assert connection.execute(old.tables[name].select()).mappings().one() == rows[name], name
    database = Database(empty_url)
    with database.read() as session:
        read = {str(model.local_table): session.query(model).all() for model in Base.registry.mappers}
        assert {name for name in names if len(read[name]) != 1} == set()
        (peak,) = session.query(AccountPeak)
        assert (peak.day, peak.value) == (NOW.date(), Decimal(1))
        (fill,) = session.query(ExecutionRow)
        assert (fill.booking, fill.quantity, fill.taken_back_on) == (None, Decimal(1), None)
    database.dispose()
    engine.dispose()


def some(kind: Any, name: str) -> Any:
    """A value that fits a column of the models."""
    values = {int: 1, bool: False, datetime: NOW, date: NOW.date(), float: 1.0, Decimal: Decimal(1), dict: {}}
    if isinstance(kind, sa.Enum):
        return kind.enums[0]
    return values.get((kind.impl_instance if isinstance(kind, sa.TypeDecorator) else kind).python_type, name)


def filled(table: sa.Table) -> dict[str, Any]:
    """A row with something in each column that wants it."""
    some = {int: 1, bool: False, datetime: NOW, date: NOW.date(), float: 1.0, Decimal: Decimal(1), dict: {}, object: {}}
    wanted = [column for column in table.columns if not column.nullable]
    return {column.name: some.get(column.type.python_type, column.name) for column in wanted}


def test_two_databases_have_two_installation_ids(tmp_path: Path) -> None:
    found = set()
    for name in ("a", "b"):
        migrate(f"sqlite:///{tmp_path}/{name}.db")
        database = Database(f"sqlite:///{tmp_path}/{name}.db")
        with database.read() as session:
            found.add(installation_id(session))
        database.dispose()
    assert len(found) == 2


def test_many_migrate_at_once(empty_url: str) -> None:
    script = f"from airflow_ibkr_plugin.store.migrate import migrate; migrate({empty_url!r})"
    running = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, errors
    assert current(empty_url) == head()


def stamp(url: str, revision: str) -> None:
    engine = writing(make_engine(parse_url(url)))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = :r"), {"r": revision})
    engine.dispose()


def refusal(url: str) -> str:
    database = Database(url)
    try:
        with pytest.raises(SchemaMismatch) as caught, database.read():
            pass
    finally:
        database.dispose()
    return str(caught.value)


def test_no_schema_is_refused(empty_url: str, backend: str, tmp_path: Path) -> None:
    message = refusal(empty_url)
    assert "airflow ibkr db migrate" in message
    assert ("There is no trading database" if backend == "sqlite" else "has no tables yet") in message
    assert not (tmp_path / "empty").exists()  # looking makes no file


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trading.db").touch()
    assert "has no tables yet" in refusal(f"sqlite:///{tmp_path}/trading.db")


def test_a_newer_schema_is_refused(empty_url: str) -> None:
    migrate(empty_url)
    stamp(empty_url, "9999")
    message = refusal(empty_url)
    assert "schema 9999" in message
    assert "newer airflow-ibkr-plugin" in message
    assert "airflow ibkr db migrate" in message
    with pytest.raises(SchemaMismatch, match="newer airflow-ibkr-plugin"):
        migrate(empty_url)
    assert current(empty_url) == "9999"


def test_an_older_schema_is_refused(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(empty_url)
    newest = schema.HEAD
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    monkeypatch.setattr(schema, "HEAD", "9999")
    message = refusal(empty_url)
    assert f"schema {newest}, older than" in message
    assert message.endswith("airflow ibkr db migrate")


def test_a_migration_that_fails_leaves_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_session: object) -> str:
        raise RuntimeError("on purpose")

    monkeypatch.setattr("airflow_ibkr_plugin.store.migrate.installation_id", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        migrate(empty_url)
    assert current(empty_url) is None
    monkeypatch.undo()
    migrate(empty_url)
    assert current(empty_url) == head()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        migrate(f"sqlite:///{tmp_path}/file/ibkr/trading.db")


@pytest.mark.parametrize(
    "url", ["mysql://user:secret@host/x", "sqlite://", "sqlite:///:memory:", "not a url", "user:secret@host"]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="sql_alchemy_conn") as caught:
        Database(url)
    assert "secret" not in str(caught.value)


def test_plain_postgresql_urls_mean_psycopg2(new_postgres: Callable[[], str]) -> None:
    assert parse_url(new_postgres()).drivername == "postgresql+psycopg2"
    assert parse_url("postgres://host/x").drivername == "postgresql+psycopg2"
    assert parse_url("postgresql+psycopg://host/x").drivername == "postgresql+psycopg"


def test_importing_the_store_loads_neither_alembic_nor_airflow() -> None:
    script = (
        "import sys, pkgutil, importlib, airflow_ibkr_plugin.store as store\n"
        "for module in pkgutil.iter_modules(store.__path__):\n"
        "    if module.name not in ('migrate', 'migrations'):\n"
        "        importlib.import_module(f'{store.__name__}.{module.name}')\n"
        "print([name for name in ('alembic', 'airflow', 'pandas', 'psycopg2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
