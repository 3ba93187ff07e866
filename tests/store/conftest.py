"""Every test of the store runs on SQLite and on a real PostgreSQL server, each test on empty tables."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.migrate import migrate
from airflow_ibkr_plugin.store.models import Base, OrderIntent
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import (
    Execution,
    IntentKey,
    OrderType,
    Side,
    TimeInForce,
)

NOW = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
SOURCE = "simulator:ibkr_default"
_numbers = itertools.count(1)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def new_postgres(postgres_server: str) -> Callable[[], str]:
    """Make an empty database; returns its URL."""

    def make() -> str:
        name = f"store_{next(_numbers)}"
        url = make_url(postgres_server).set(drivername="postgresql+psycopg2")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A place for a trading database, without any table."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path}/empty/trading.db"
    url: str = request.getfixturevalue("new_postgres")()
    return url


@pytest.fixture(scope="module")
def module_postgres(new_postgres: Callable[[], str]) -> str:
    url = new_postgres()
    migrate(url)
    return url


@pytest.fixture
def url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A migrated trading database with empty tables."""
    if backend == "sqlite":
        path = tmp_path / "trading.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("module_postgres")
    database = Database(url)
    with database.write() as session:
        tables = ", ".join(name for name in Base.metadata.tables if name != "meta")
        session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
    database.dispose()
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.dispose()


Work = Callable[[Database, int], Any]


@pytest.fixture
def in_threads(database: Database) -> Callable[[Work, int], list[Any]]:
    """Run `work(database, number)` in so many threads that start together; returns their answers."""

    def run(work: Work, count: int) -> list[Any]:
        barrier = threading.Barrier(count)

        def one(number: int) -> Any:
            barrier.wait(30)
            return work(database, number)

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))

    return run


@pytest.fixture
def in_processes(url: str) -> Callable[[Work, int], list[Any]]:
    """Like `in_threads`, in processes, each with connections of its own."""

    def run(work: Work, count: int) -> list[Any]:
        context = multiprocessing.get_context("fork")
        barrier, answers = context.Barrier(count), context.Queue()

        def one(number: int) -> None:
            database = Database(url)
            barrier.wait(30)
            try:
                answers.put((number, work(database, number)))
            except BaseException as error:
                answers.put((number, repr(error)))
                raise
            finally:
                database.dispose()

        processes = [context.Process(target=one, args=(number,)) for number in range(count)]
        for process in processes:
            process.start()
        found = dict(answers.get(timeout=60) for _ in processes)
        for process in processes:
            process.join(30)
            assert process.exitcode == 0, found
        return [found[number] for number in range(count)]

    return run


@pytest.fixture(params=["threads", "processes"])
def race(request: pytest.FixtureRequest) -> Callable[[Work, int], list[Any]]:
    """Run the work at the same time in threads, and in another test in processes."""
    fixture: Callable[[Work, int], list[Any]] = request.getfixturevalue(f"in_{request.param}")
    return fixture


def intent_key(**changes: Any) -> IntentKey:
    fields: dict[str, Any] = {
        "installation": "i",
        "dag_id": "momentum",
        "run_id": "run-1",
        "task_id": "order",
        "con_id": 756733,
    }
    return IntentKey(**(fields | changes))


def intent_fields(**changes: Any) -> dict[str, Any]:
    """Columns of an intent that its key does not give."""
    return {
        "strategy": "momentum",
        "source": SOURCE,
        "account": "DU1",
        "mode": "paper",
        "symbol": "SPY",
        "instrument": Instrument(symbol="SPY", con_id=756733, min_tick=Decimal("0.01")).to_dict(),
        "side": Side.BUY,
        "quantity": Decimal(10),
        "requested_quantity": Decimal(12),
        "order_type": OrderType.MARKET,
        "tif": TimeInForce.DAY,
        "currency": "USD",
        "created_at": NOW,
    } | changes


MakeIntent = Callable[..., OrderIntent]


@pytest.fixture
def make_intent(database: Database) -> MakeIntent:
    """Store an intent; `key` and further columns as given."""

    def make(key: IntentKey | None = None, **changes: Any) -> OrderIntent:
        with database.write() as session:
            return Intents(session).get_or_create(key or intent_key(), **intent_fields(**changes))[0]

    return make


@pytest.fixture
def today() -> date:
    return NOW.date()


def execution(**changes: Any) -> Execution:
    """A fill of 4 SPY at 100.10."""
    fields: dict[str, Any] = {
        "exec_id": "0001.01",
        "order_ref": "aip-1",
        "account": "DU1",
        "con_id": 756733,
        "symbol": "SPY",
        "side": Side.BUY,
        "quantity": Decimal(4),
        "price": Decimal("100.10"),
        "time": NOW,
        "perm_id": 99,
        "order_id": 7,
        "client_id": 3,
        "exchange": "SMART",
    }
    return Execution(**(fields | changes))


@pytest.fixture
def new_execution() -> Callable[..., Execution]:
    return execution


@pytest.fixture
def new_intent() -> Callable[..., tuple[IntentKey, dict[str, Any]]]:
    """A key and the fields for `Intents.get_or_create`, not stored."""

    def make(key: IntentKey | None = None, **changes: Any) -> tuple[IntentKey, dict[str, Any]]:
        return key or intent_key(), intent_fields(**changes)

    return make


@pytest.fixture
def new_key() -> Callable[..., IntentKey]:
    return intent_key
