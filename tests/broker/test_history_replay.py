"""Market data of a replayed dataset."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airflow_ibkr_plugin.broker.history import BarsRequest, fetch_bars
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.market_hours import is_open


def test_replayed_history_decades_before_the_default_calendars(tmp_path: Path, database: Database) -> None:
    """The real S&P 500 of 1999, closed on holidays, under its fictitious symbol and the exchange REPLAY."""
    from arch.data import sp500

    recorded = sp500.load()[["Open", "High", "Low", "Close", "Volume"]]
    recorded.to_csv(tmp_path / "x.csv", header=["open", "high", "low", "close", "volume"], index_label="date")
    entry = {"symbol": "XSPX", "longName": "Replay", "secType": "STK", "currency": "USD", "exchange": "SMART"}
    entry |= {"primaryExchange": "REPLAY", "tz": "US/Eastern", "calendar": "XNYS", "file": "x.csv"}
    (tmp_path / "catalogue.json").write_text(json.dumps([entry]))
    with (
        start_simulator(replay=tmp_path, clock=datetime(1999, 12, 1, 15, 0, tzinfo=UTC)) as simulator,
        BrokerSession.open(
            GatewaySpec(conn_id="x", host="127.0.0.1", port=simulator.port, client_ids=range(9), account=""),
            client_id=5,
        ) as opened,
    ):
        instrument = opened.resolve(InstrumentSpec.parse("XSPX"))
        result = fetch_bars(opened, database, instrument, BarsRequest(duration="6 M"))
        assert is_open(instrument, opened.now()) is True
    expected = recorded.loc["1999-06-02":"1999-11-30"]
    assert [bar.time.date() for bar in result.bars] == [day.date() for day in expected.index]
    assert [bar.close for bar in result.bars] == pytest.approx(list(expected["Close"]), abs=0.01)
