from __future__ import annotations

import pytest

from airflow_ibkr_plugin.store.database import Database


@pytest.fixture
def database(trading_database: Database) -> Database:
    """The installation's trading database."""
    return trading_database
