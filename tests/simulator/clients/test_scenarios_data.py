"""What a client asks: time, contracts, prices, history, account."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from driver import Driver


def test_a_client_connects_and_knows_its_account(client: Driver) -> None:
    assert client.connected
    assert client.server_version in (157, 176)
    assert client.accounts() == ["DU1234567"]
    notices = client.until(lambda: {code for _, code, _ in client.errors})
    assert notices <= {2104, 2106, 2158}


def test_the_server_tells_its_time(client: Driver) -> None:
    assert datetime.fromtimestamp(client.server_time(), UTC) == datetime(2026, 11, 20, 16, tzinfo=UTC)


def test_a_stock_has_details(client: Driver) -> None:
    [apple] = client.details("AAPL")
    assert (apple.con_id, apple.symbol, apple.primary_exchange, apple.currency) == (265598, "AAPL", "NASDAQ", "USD")
    assert apple.min_tick == 0.01
    assert apple.ids["ISIN"] == "US0378331005"
    assert apple.time_zone == "US/Eastern"
    assert apple.liquid_hours.startswith("20261120:0930-20261120:1600;20261121:CLOSED")


def test_a_contract_that_nobody_knows_is_an_error_200(client: Driver) -> None:
    assert client.details("NOSUCH") == []
    assert client.until(lambda: [text for _, code, text in client.errors if code == 200]) == [
        "No security definition has been found for the request"
    ]


def test_daily_bars(client: Driver) -> None:
    bars = client.daily_bars("SPY", "10 D")
    assert [bar.day for bar in bars] == sorted(bar.day for bar in bars)
    assert len(bars) == 10
    assert all(bar.low <= bar.open <= bar.high and bar.low <= bar.close <= bar.high for bar in bars)
    assert bars[-1].day == "20261120"


def test_a_snapshot_of_quotes(client: Driver) -> None:
    prices = client.snapshot("MSFT")
    assert 0 < prices["bid"] < prices["ask"]
    assert prices["last"] > 0
    assert prices["close"] > 0


def test_a_stream_of_quotes(client: Driver, gateway: Any) -> None:
    stream = client.open_stream("NVDA")
    before = client.until(lambda: prices if len(prices := client.stream_prices(stream)) == 4 else None)
    gateway.control("clock", advance=60)
    client.until(lambda: client.stream_prices(stream)["last"] != before["last"])
    client.close_stream(stream)


def test_the_account(client: Driver) -> None:
    values = client.account_values()
    assert values["Simulator"] == "airflow-ibkr-plugin"
    assert values["AccountCode"] == "DU1234567"
    summary = client.account_summary("NetLiquidation", "TotalCashValue", "BuyingPower")
    assert summary.keys() == {"NetLiquidation", "TotalCashValue", "BuyingPower"}
    assert float(summary["NetLiquidation"]) == float(values["NetLiquidation"])
    assert float(summary["BuyingPower"]) > 0
