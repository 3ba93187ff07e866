"""A split at the simulated broker is noticed by the product's market data: the cache is not mixed with it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from airflow_ibkr_plugin.broker.history import BarsRequest, fetch_bars
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec

NEXT_DAY = datetime(2026, 3, 11, 15, 0, tzinfo=UTC)


def test_a_split_between_two_days_is_fetched_anew(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with BrokerSession.open(own_spec, client_id=10) as session:
        apple = session.resolve(InstrumentSpec.parse("AAPL"))
        before = fetch_bars(session, database, apple, BarsRequest(duration="30 D"))
        own_simulator.control("clock", set=NEXT_DAY.isoformat())
        own_simulator.control("split", symbol="AAPL", ratio=4)
        with caplog.at_level(logging.WARNING):
            after = fetch_bars(session, database, apple, BarsRequest(duration="30 D"))
    assert "4 times the broker's, a split; all bars are fetched again" in caplog.text
    assert (after.fetched, after.cached) == (30, 0)
    old, new = ({bar.time: bar for bar in result.bars} for result in (before, after))
    shared = old.keys() & new.keys()
    assert len(shared) == 29
    assert all(abs(new[at].close - old[at].close / 4) <= 0.0051 for at in shared)
    assert all(abs(new[at].volume - old[at].volume * 4) <= 5 for at in shared)
