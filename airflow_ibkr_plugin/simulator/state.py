"""Orders, executions and the clock on disk: SQLite, committed and synced before anything is acknowledged."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.orders.book import Execution, Order

_FORMAT = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (perm_id INTEGER PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS executions (seq INTEGER PRIMARY KEY AUTOINCREMENT, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_NAMES = {cls: [item.name for item in fields(cls)] for cls in (Order, Execution)}
_DECIMALS = {cls: {item.name for item in fields(cls) if "Decimal" in str(item.type)} for cls in (Order, Execution)}


class StateStore:
    """One file, used by one gateway at a time. Writes gather until :meth:`commit`."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        :raises ConfigError: it cannot be opened, is used by another gateway, or is of another format.
        """
        self.path = path
        self._dirty = False
        self._orders: dict[int, Order] = {}
        try:
            self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            found = self.get("format")
        except sqlite3.Error as error:
            raise ConfigError(
                f"The state file {path} cannot be used: {error}.",
                remedy="Give --state a file in a writable folder that no other simulator uses.",
            ) from error
        if found not in (None, _FORMAT):
            raise ConfigError(f"The state file {path} has format {found}, not {_FORMAT}.", remedy="Use a new file.")
        self.put("format", _FORMAT)

    def get(self, key: str) -> Any:
        """A stored setting, None if there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, value: Any) -> None:
        """Store a setting."""
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def save_order(self, order: Order) -> None:
        """Store an order as it is at the next commit."""
        self._orders[order.perm_id] = order

    def add_execution(self, execution: Execution) -> None:
        """Store a fill."""
        self._write("INSERT INTO executions (data) VALUES (?)", (_dump(execution),))

    def orders(self) -> Iterator[Order]:
        """All orders, oldest first."""
        for (data,) in self._db.execute("SELECT data FROM orders ORDER BY perm_id"):
            yield Order(**_load(Order, data))

    def executions(self) -> Iterator[Execution]:
        """All fills, in the order they came."""
        for (data,) in self._db.execute("SELECT data FROM executions ORDER BY seq"):
            values = _load(Execution, data)
            yield Execution(**values | {"day": date.fromisoformat(values["day"])})

    def commit(self) -> None:
        """Put everything written so far on disk.

        :raises sqlite3.Error: it is not there: nothing of it may be acknowledged.
        """
        for order in self._orders.values():
            self._write("INSERT OR REPLACE INTO orders VALUES (?, ?)", (order.perm_id, _dump(order)))
        self._orders.clear()
        if self._dirty:
            self._db.execute("COMMIT")
            self._dirty = False

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._db.close()

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        if not self._dirty:
            self._db.execute("BEGIN IMMEDIATE")
            self._dirty = True
        self._db.execute(statement, values)


def _dump(record: Order | Execution) -> str:
    return json.dumps({name: getattr(record, name) for name in _NAMES[type(record)]}, default=str)


def _load(cls: type[Order | Execution], data: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(data)
    for name in _DECIMALS[cls]:
        if values[name] is not None:
            values[name] = Decimal(values[name])
    return values
