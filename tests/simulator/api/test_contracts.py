"""Unmodified ib_insync looks for contracts, and asks what is fixed about them."""

from __future__ import annotations

from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.simulator.market.catalogue import synthetic
from airflow_ibkr_plugin.simulator.market.rules import increments, market_rule


def codes_of(ib: ibi.IB) -> list[int]:
    seen: list[int] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append(code)
    return seen


def test_contracts(ib: ibi.IB) -> None:
    details = ib.reqContractDetails(ibi.Stock("AAPL", "SMART", "USD"))[0]
    assert details.contract.conId == 265598
    assert details.contract.primaryExchange == "NASDAQ"
    assert details.longName == "SIMULATED Apple Inc"
    assert (details.minTick, details.timeZoneId, details.stockType) == (0.01, "US/Eastern", "COMMON")
    assert (details.minSize, details.sizeIncrement) == (1, 1)
    assert [(item.tag, item.value) for item in details.secIdList] == [("ISIN", "US0378331005")]
    assert details.liquidHours.startswith("20261120:0930-20261120:1600;20261121:CLOSED;20261122:CLOSED;20261123:0930")
    assert details.liquidHours.endswith("20261125:0930-20261125:1600")
    assert details.tradingHours.startswith("20261120:0400-20261120:2000;")
    by_id = ib.reqContractDetails(ibi.Contract(conId=265598))
    assert by_id[0].contract == details.contract


def test_forex_contract(ib: ibi.IB) -> None:
    details = ib.reqContractDetails(ibi.Forex("EURUSD"))[0]
    assert (details.contract.localSymbol, details.contract.exchange) == ("EUR.USD", "IDEALPRO")
    assert details.minTick == 0.00005
    assert details.liquidHours.startswith("20261119:1715-20261120:1700;20261121:CLOSED;20261122:1715-20261123:1700")


def test_unknown_and_ambiguous_symbols(ib: ibi.IB) -> None:
    seen = codes_of(ib)
    assert ib.reqContractDetails(ibi.Stock("NOSUCH", "SMART", "USD")) == []
    assert seen == [200]
    found = ib.reqContractDetails(ibi.Stock("SHOP", "SMART"))
    assert {(item.contract.currency, item.contract.primaryExchange) for item in found} == {
        ("USD", "NYSE"),
        ("CAD", "TSE"),
    }
    assert len(ib.reqContractDetails(ibi.Stock("SHOP", "SMART", "CAD"))) == 1
    assert len(ib.reqContractDetails(ibi.Stock("SHOP", "SMART", primaryExchange="NYSE"))) == 1
    assert not ib.reqHistoricalData(ibi.Stock("SHOP", "SMART"), "", "1 D", "1 day", "TRADES", True)
    assert seen[-1] == 200


def test_hours_follow_the_clock(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    simulator.control("clock", set="2026-11-25T15:00:00+00:00")
    details = ib.reqContractDetails(ibi.Stock("SPY", "SMART", "USD"))[0]
    # Thanksgiving is closed, the day after closes early.
    assert details.liquidHours == (
        "20261125:0930-20261125:1600;20261126:CLOSED;20261127:0930-20261127:1300;20261128:CLOSED;20261129:CLOSED;"
        "20261130:0930-20261130:1600"
    )
    assert "20261127:0400-20261127:1700" in details.tradingHours


def test_other_ways_to_name_a_contract(ib: ibi.IB) -> None:
    def found(**fields: Any) -> list[int]:
        return [item.contract.conId for item in ib.reqContractDetails(ibi.Contract(**fields))]

    assert found(conId=265598) == [265598]
    assert found(conId=265598, exchange="NASDAQ") == [265598]
    assert found(conId=265598, exchange="NYSE") == []
    assert found(secIdType="ISIN", secId="US0378331005", exchange="SMART") == [265598]
    assert found(secIdType="ISIN", secId="US0378331005", currency="CAD") == []
    assert len(found(secIdType="ISIN", secId="CA82509L1076")) == 2
    assert found(secIdType="ISIN", secId="CA82509L1076", currency="CAD") == [195014189]
    assert found(secIdType="SEDOL", secId="2046251") == []
    assert found(localSymbol="AAPL", secType="STK", exchange="SMART") == [265598]
    assert found(symbol="AAPL", secType="STK", exchange="ISLAND", includeExpired=True) == [265598]
    assert found(symbol="aapl", secType="STK", currency="usd", primaryExchange="ISLAND") == [265598]
    assert found(symbol="AAPL", secType="OPT") == []
    assert found(localSymbol="EUR.USD", secType="CASH") == [12087792]


def test_a_search_needs_a_security_type(ib: ibi.IB) -> None:
    seen: list[tuple[int, str]] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((code, text))
    assert not ib.reqContractDetails(ibi.Contract(symbol="AAPL"))
    assert seen == [(321, "Error validating request.-'bP' : cause - Please enter a valid security type")]


def test_matching_symbols(ib: ibi.IB) -> None:
    found = ib.reqMatchingSymbols("S")
    symbols = [item.contract.symbol for item in found]
    assert symbols[:3] == ["SAP", "SHOP", "SHOP"]
    assert "SPY" in symbols
    apple = ib.reqMatchingSymbols("apple")[0].contract
    assert (apple.conId, apple.primaryExchange, apple.description) == (265598, "NASDAQ", "SIMULATED Apple Inc")
    assert ib.reqMatchingSymbols("NOSUCH") == []


def test_market_rules(ib: ibi.IB) -> None:
    details = ib.reqContractDetails(ibi.Stock("AAPL", "SMART", "USD"))[0]
    assert len(details.marketRuleIds.split(",")) == len(details.validExchanges.split(","))
    rule = ib.reqMarketRule(int(details.marketRuleIds.split(",")[0]))
    assert [(step.lowEdge, step.increment) for step in rule] == [(0.0, 0.01)]
    euro = ib.reqContractDetails(ibi.Forex("EURUSD"))[0]
    assert [step.increment for step in ib.reqMarketRule(int(euro.marketRuleIds))] == [euro.minTick]


@pytest.mark.parametrize("instrument", synthetic(2026), ids=lambda item: f"{item.symbol}.{item.currency}")
def test_every_contract_has_a_rule_of_its_own_step(instrument: Any) -> None:
    assert increments(market_rule(instrument.min_tick)) == [(0.0, float(instrument.min_tick))]


def test_exchanges(ib: ibi.IB, until: Any) -> None:
    ticker = ib.reqMktData(ibi.Stock("AAPL", "SMART", "USD"))
    until(lambda: ticker.bboExchange)
    components = ib.reqSmartComponents(ticker.bboExchange)
    assert {"NASDAQ", "ARCA"} <= {item.exchange for item in components}
    assert ib.reqSmartComponents("nowhere") == []
    assert {"NASDAQ", "IDEALPRO"} <= {item.exchange for item in ib.reqMktDepthExchanges()}
