"""A trading database of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.migrate import migrate


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/trading.db"
    migrate(url)
    database = Database(url)
    yield database
    database.dispose()
