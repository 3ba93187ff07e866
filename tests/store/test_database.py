from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import Family, StoreError, StoreFull
from airflow_ibkr_plugin.store import engine as engine_module
from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database, open_database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.migrate import migrate
from airflow_ibkr_plugin.store.models import AlertRow, Meta
from airflow_ibkr_plugin.trading.orders import IntentState
from airflow_ibkr_plugin.trading.risk_facts import open_quantity

Race = Callable[[Callable[[Database, int], Any], int], list[Any]]


def put(database: Database, key: str, value: str = "") -> None:
    with database.write() as session:
        session.merge(Meta(key=key, value=value))


def keys(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(Meta.key))) - {"installation_id"}


@pytest.fixture(autouse=True)
def _empty_meta(database: Database) -> None:
    with database.write() as session:
        session.execute(text("DELETE FROM meta WHERE key <> 'installation_id'"))


def test_an_error_rolls_all_back(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            session.add(Meta(key="a", value=""))
            session.flush()
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert keys(database) == set()


def test_rows_stay_readable(database: Database) -> None:
    with database.write() as session:
        row = Meta(key="a", value="1")
        session.add(row)
    assert row.value == "1"
    with database.read() as session:
        row = session.get_one(Meta, "a")
    assert row.value == "1"


def test_reading_cannot_write(database: Database, backend: str) -> None:
    message = "readonly database" if backend == "sqlite" else "read-only transaction"

    def write() -> None:
        with database.read() as session:
            session.execute(text("UPDATE meta SET value = ''"))

    with pytest.raises((StoreError, DBAPIError), match=message):
        write()
    put(database, "b")  # the same connection writes again
    assert keys(database) == {"b"}


def test_reading_sees_one_snapshot(database: Database) -> None:
    put(database, "a")
    with database.read() as session:
        before = session.scalar(select(func.count()).select_from(Meta))
        put(database, "b")
        assert session.scalar(select(func.count()).select_from(Meta)) == before
    assert keys(database) == {"a", "b"}


def test_sqlite_is_safe(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path}/t.db")
    database = Database(f"sqlite:///{tmp_path}/t.db")
    with database.write() as session:
        pragma = {p: session.scalar(text(f"PRAGMA {p}")) for p in ("journal_mode", "synchronous", "foreign_keys")}
        pragma["busy_timeout"] = session.scalar(text("PRAGMA busy_timeout"))
    database.dispose()
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_foreign_keys_hold(database: Database, new_intent: Any, now: datetime) -> None:
    key, fields = new_intent(signal_id=4711)
    with pytest.raises(IntegrityError), database.write() as session:
        Intents(session).get_or_create(key, **fields)


def test_nan_in_json_is_refused(database: Database, new_intent: Any) -> None:
    key, fields = new_intent(instrument={"min_tick": float("nan")})
    with pytest.raises(StatementError, match="not JSON compliant"), database.write() as session:
        Intents(session).get_or_create(key, **fields)


def test_check_then_reserve_never_exceeds_the_limit(
    database: Database, race: Race, new_key: Any, new_intent: Any, now: datetime
) -> None:
    """Eight racers each reserve 10 where 30 fit: the check stays true until its own commit."""

    def reserve(database: Database, number: int) -> bool:
        key, fields = new_intent(new_key(task_id=f"t{number}"))
        with database.write(serialize="account:DU1") as session:
            intents = Intents(session)
            row, _ = intents.get_or_create(key, **fields)
            orders = AccountOrders(session, row.source, row.account)
            if open_quantity(orders.open(), row.con_id) + row.quantity > 30:
                return False
            intents.transition(row, IntentState.RESERVED, at=now, reason="fits")
            return True

    assert sum(race(reserve, 8)) == 3
    with database.read() as session:
        orders = AccountOrders(session, "simulator:ibkr_default", "DU1")
        assert open_quantity(orders.open(), 756733) == Decimal(30)


def test_what_a_writer_read_is_still_true_when_it_writes(database: Database, race: Race) -> None:
    put(database, "count", "0")

    def increase(database: Database, number: int) -> None:
        for _ in range(5):
            with database.write(serialize="count") as session:
                row = session.get_one(Meta, "count")
                row.value = str(int(row.value) + 1)

    assert race(increase, 4) == [None] * 4
    with database.read() as session:
        assert session.get_one(Meta, "count").value == "20"


@pytest.mark.parametrize("backend", ["postgresql"])  # SQLite has one writer, whatever the name
def test_other_names_do_not_wait(database: Database) -> None:
    with database.write(serialize="a"), database.write(serialize="b") as session:
        session.add(Meta(key="b", value=""))
    assert keys(database) == {"b"}


def test_a_lock_that_does_not_come(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "BUSY_SECONDS", 0.2)
    database = Database(url)
    with database.write(serialize="a") as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(StoreError) as caught, database.write(serialize="a") as other:
            other.execute(text("SELECT 1"))
    database.dispose()
    assert caught.value.family is Family.RETRY
    assert "lock" in str(caught.value)


def test_a_database_that_is_gone(new_postgres: Callable[[], str], tmp_path: Path) -> None:
    url = new_postgres().replace("store_", "no_such_store_")
    with pytest.raises(StoreError, match="does not exist") as caught, Database(url).read():
        pass
    assert caught.value.remedy
    (tmp_path / "trading.db").write_bytes(b"this is not a database, " * 100)
    with pytest.raises(StoreError, match="not a database"), Database(f"sqlite:///{tmp_path}/trading.db").read():
        pass


@pytest.mark.parametrize("backend", ["postgresql"])  # SQLite has no connection that could break
def test_a_broken_connection_is_replaced(url: str, database: Database) -> None:
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    killer = Database(url)

    def interrupted() -> None:
        with database.write() as session:
            session.add(Meta(key="lost", value=""))
            session.flush()
            with killer.write() as other:
                other.execute(text(kill + " AND pid <> pg_backend_pid()"))
            session.add(Meta(key="lost too", value=""))

    with pytest.raises(StoreError):
        interrupted()
    put(database, "b")
    killer.dispose()
    assert keys(database) == {"b"}


def test_a_full_disk_loses_nothing_stored(database: Database, backend: str, now: datetime) -> None:
    with database.write() as session:
        Alerts(session).enqueue("first", "info", "t", "b", "", "", "", now)

    def fill() -> None:
        with database.write() as session:
            if backend == "sqlite":  # a real limit of the file's size
                pages = session.scalar(text("PRAGMA page_count"))
                session.execute(text(f"PRAGMA max_page_count={pages + 5}"))
                for number in range(1000):
                    Alerts(session).enqueue(f"n{number}", "info", "t", "x" * 1000, "", "", "", now)
            else:  # the server's own error, by its code
                Alerts(session).enqueue("second", "info", "t", "b", "", "", "", now)
                session.execute(text("DO $$ BEGIN RAISE disk_full USING MESSAGE = 'could not extend file'; END $$"))

    with pytest.raises(StoreFull, match="no space left") as caught:
        fill()
    assert caught.value.family is Family.NEEDS_HUMAN
    with database.read() as session:
        assert list(session.scalars(select(AlertRow.dedupe_key))) == ["first"]
    if backend == "sqlite":
        with database.write() as session:
            session.execute(text("PRAGMA max_page_count=1073741823"))
    with database.write() as session:  # and it goes on once there is space
        Alerts(session).enqueue("later", "info", "t", "b", "", "", "", now)


def raw(session: Session) -> int:
    """Identity of the driver's connection, also across a fork."""
    return id(session.connection().connection.dbapi_connection)


def test_a_forked_child_makes_its_own_connections(database: Database) -> None:
    put(database, "parent")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def child() -> None:
        put(database, "child")
        with database.read() as session:
            answers.put(raw(session))
        database.dispose()

    with database.read() as busy, database.read() as session:
        idle, used = raw(session), raw(busy)
        session.close()  # a connection that the child could take from the pool by mistake
        process = context.Process(target=child)
        process.start()
        theirs = answers.get(timeout=60)
        process.join(30)
        assert busy.scalar(text("SELECT 1")) == 1
    assert process.exitcode == 0
    assert theirs not in (idle, used)
    put(database, "parent again")
    assert keys(database) == {"parent", "child", "parent again"}


def test_threads_share_a_database(database: Database, in_threads: Race) -> None:
    def work(database: Database, number: int) -> int:
        put(database, f"k{number}")
        return threading.get_ident()

    in_threads(work, 12)
    assert len(keys(database)) == 12


def test_open_database_is_one_per_url(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW__IBKR__SQL_ALCHEMY_CONN", url)
    first = open_database()
    assert open_database() is first
    put(first, "a")
    other = f"sqlite:///{tmp_path}/other.db"
    migrate(other)
    monkeypatch.setenv("AIRFLOW__IBKR__SQL_ALCHEMY_CONN", other)
    second = open_database()
    assert second is not first
    assert keys(second) == set()
    first.dispose()
    second.dispose()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_server_that_is_gone_without_a_word_is_noticed(database: Database) -> None:
    def parameters(url: URL) -> dict[str, str]:
        engine = engine_module.make_engine(url)
        with engine.connect() as connection:
            found: dict[str, str] = connection.connection.dbapi_connection.get_dsn_parameters()  # type: ignore[union-attr]
        engine.dispose()
        return found

    asked = {"connect_timeout": "10", "keepalives_idle": "10", "keepalives_count": "4", "tcp_user_timeout": "30000"}
    assert asked.items() <= parameters(database.url).items()
    patient = parameters(database.url.update_query_dict({"tcp_user_timeout": "90000"}))
    assert (patient["tcp_user_timeout"], patient["connect_timeout"]) == ("90000", "10")
