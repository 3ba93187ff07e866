"""What clients are told of the account, through ib_insync."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ib_insync
import pytest
from ib_insync import Forex, MarketOrder, Stock

from airflow_ibkr_plugin.simulator.wire.fields import UNSET_DOUBLE

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

Start = Callable[..., "SimulatorHandle"]
Connect = Callable[..., ib_insync.IB]
Until = Callable[[Callable[[], Any]], Any]

CASH = {"EUR": Decimal(500_000), "USD": Decimal(100_000)}
SAP = Stock("SAP", "SMART", "EUR")

#: Keys that gateways' users have published: without currency, with the base currency, by currency.
PLAIN = [
    "AccountCode",
    "AccountReady",
    "AccountType",
    "ColumnPrio-C",
    "ColumnPrio-S",
    "Cushion",
    "DayTradesRemaining",
    "DayTradesRemainingT+1",
    "DayTradesRemainingT+2",
    "DayTradesRemainingT+3",
    "DayTradesRemainingT+4",
    "Leverage-S",
    "LookAheadNextChange",
    "NLVAndMarginInReview",
    "SegmentTitle-C",
    "SegmentTitle-S",
    "TradingType-S",
    "WhatIfPMEnabled",
]
SEGMENTS = [
    "AccruedCash",
    "AccruedDividend",
    "AvailableFunds",
    "Billable",
    "EquityWithLoanValue",
    "ExcessLiquidity",
    "FullAvailableFunds",
    "FullExcessLiquidity",
    "FullInitMarginReq",
    "FullMaintMarginReq",
    "Guarantee",
    "IncentiveCoupons",
    "IndianStockHaircut",
    "InitMarginReq",
    "LookAheadAvailableFunds",
    "LookAheadExcessLiquidity",
    "LookAheadInitMarginReq",
    "LookAheadMaintMarginReq",
    "MaintMarginReq",
    "NetLiquidation",
    "PASharesValue",
    "PhysicalCertificateValue",
    "PostExpirationExcess",
    "PostExpirationMargin",
    "TotalCashValue",
    "TotalDebitCardPendingCharges",
]
SECURITIES = ["GrossPositionValue", "PreviousDayEquityWithLoanValue", "RegTEquity", "RegTMargin", "SMA"]
LEDGER = [
    "AccountOrGroup",
    "AccruedCash",
    "CashBalance",
    "CorporateBondValue",
    "Cryptocurrency",
    "Currency",
    "ExchangeRate",
    "FundValue",
    "FutureOptionValue",
    "FuturesPNL",
    "FxCashBalance",
    "IssuerOptionValue",
    "MoneyMarketFundValue",
    "MutualFundValue",
    "NetDividend",
    "NetLiquidationByCurrency",
    "OptionMarketValue",
    "RealCurrency",
    "RealizedPnL",
    "StockMarketValue",
    "TBillValue",
    "TBondValue",
    "TotalCashBalance",
    "UnrealizedPnL",
    "WarrantValue",
]


def values(ib: ib_insync.IB) -> dict[tuple[str, str], str]:
    return {(item.tag, item.currency): item.value for item in ib.accountValues()}


@pytest.fixture
def gateway(start: Start) -> SimulatorHandle:
    """In euro, with dollars."""
    return start(cash=CASH, base_currency="EUR")


@pytest.fixture
def euro(gateway: SimulatorHandle, connect: Connect) -> ib_insync.IB:
    return connect(gateway)


def buy(ib: ib_insync.IB, until: Until, contract: ib_insync.Contract, shares: int) -> ib_insync.Fill:
    """Trade at the market (a sale if negative); returns the fill with its commission."""
    order = MarketOrder("BUY" if shares > 0 else "SELL", abs(shares), tif="DAY")
    trade = ib.placeOrder(contract, order)
    until(lambda: trade.fills and trade.fills[-1].commissionReport.execId)
    assert trade.orderStatus.status == "Filled"
    return trade.fills[-1]


def test_all_keys_come_with_their_currency(euro: ib_insync.IB) -> None:
    expected = {(key, "") for key in [*PLAIN, "Simulator", "SimulatedClock"]}
    expected |= {(f"{key}{segment}", "EUR") for key in SEGMENTS for segment in ("", "-C", "-S")}
    expected |= {(f"{key}{segment}", "EUR") for key in SECURITIES for segment in ("", "-S")}
    expected |= {("BuyingPower", "EUR"), ("NetLiquidationUncertainty", "EUR")}
    expected |= {(key, currency) for key in LEDGER for currency in ("BASE", "EUR", "USD")}
    told = values(euro)
    assert told.keys() == expected
    assert told["Currency", "BASE"] == told["RealCurrency", "BASE"] == "BASE"
    assert told["AccountOrGroup", "USD"] == told["AccountCode", ""] == "DU1234567"
    assert (told["ExchangeRate", "BASE"], told["ExchangeRate", "EUR"]) == ("1.00", "1.00")
    assert (told["CashBalance", "EUR"], told["CashBalance", "USD"]) == ("500000.00", "100000.00")
    rate = Decimal(told["ExchangeRate", "USD"])
    assert 0 < rate < 1
    assert Decimal(told["NetLiquidation", "EUR"]) == 500_000 + round(100_000 * rate, 2)
    assert Decimal(told["BuyingPower", "EUR"]) == 4 * min(
        Decimal(told[key, "EUR"]) for key in ("NetLiquidation", "PreviousDayEquityWithLoanValue")
    )


def test_a_foreign_stock_is_paid_in_its_currency(euro: ib_insync.IB, until: Until) -> None:
    fill = buy(euro, until, Stock("NESN", "SMART", "CHF"), 100)
    assert (fill.commissionReport.commission, fill.commissionReport.currency) == (5.0, "CHF")
    told = until(lambda: ("CashBalance", "CHF") in (found := values(euro)) and found)
    cost = round(100 * Decimal(str(fill.execution.price)), 2)
    assert Decimal(told["CashBalance", "CHF"]) == -cost - 5
    held = euro.portfolio()[0]
    assert (held.contract.symbol, held.contract.currency, held.position) == ("NESN", "CHF", 100)
    assert Decimal(str(held.averageCost)) == (cost + 5) / 100
    stock = Decimal(told["StockMarketValue", "CHF"])
    assert stock == Decimal(str(held.marketValue))
    assert Decimal(told["UnrealizedPnL", "CHF"]) == stock - cost - 5
    in_euro = round(stock * Decimal(told["ExchangeRate", "CHF"]), 2)
    assert Decimal(told["GrossPositionValue", "EUR"]) == Decimal(told["StockMarketValue", "BASE"]) == in_euro
    assert Decimal(told["RegTMargin", "EUR"]) == round(round(stock / 2, 2) * Decimal(told["ExchangeRate", "CHF"]), 2)


def test_a_pair_changes_the_cash_of_both_currencies(euro: ib_insync.IB, until: Until) -> None:
    fill = buy(euro, until, Forex("EURGBP"), 50_000)
    assert fill.commissionReport.currency == "EUR"
    fee = Decimal(str(fill.commissionReport.commission))
    told = until(lambda: ("CashBalance", "GBP") in (found := values(euro)) and found)
    assert Decimal(told["CashBalance", "EUR"]) == 550_000 - fee
    assert Decimal(told["CashBalance", "GBP"]) == -round(50_000 * Decimal(str(fill.execution.price)), 2)
    assert Decimal(told["StockMarketValue", "BASE"]) == 0
    # The debt in pounds is margined at the rate of the euros that cover it.
    debt = round(-Decimal(told["CashBalance", "GBP"]) * Decimal(told["ExchangeRate", "GBP"]), 2)
    assert Decimal(told["InitMarginReq", "EUR"]) == pytest.approx(debt * Decimal("0.025"), abs=Decimal("0.01"))


def test_a_summary_honours_its_tags(euro: ib_insync.IB) -> None:
    def summary(tags: str) -> set[tuple[str, str]]:
        request = euro.client.getReqId()
        results = euro.wrapper.startReq(request)
        euro.client.reqAccountSummary(request, "All", tags)
        euro._run(results)
        found = {(item.tag, item.currency) for item in euro.wrapper.acctSummary.values()}
        euro.wrapper.acctSummary.clear()
        euro.client.cancelAccountSummary(request)
        return found - {("Simulator", ""), ("SimulatedClock", "")}

    assert summary("NetLiquidation,Leverage,SettledCash,AccountType") == {
        ("NetLiquidation", "EUR"), ("Leverage", ""), ("SettledCash", "EUR"), ("AccountType", ""),
    }  # fmt: skip
    assert summary("$LEDGER") == {(key, "BASE") for key in LEDGER}
    assert summary("$LEDGER:USD") == {(key, "USD") for key in LEDGER}
    assert summary("Cushion,$LEDGER:ALL") == {(key, c) for key in LEDGER for c in ("BASE", "EUR", "USD")} | {
        ("Cushion", "")
    }


def test_a_third_summary_is_refused_until_one_is_cancelled(gateway: SimulatorHandle, raw: Callable[..., Any]) -> None:
    client = raw(gateway, 1)
    for request in (1, 2):
        client.send(62, 1, request, "All", "NetLiquidation")
        client.until(64)
    client.send(62, 1, 3, "All", "NetLiquidation")
    while (refused := client.until(4))[2] == "-1":
        pass
    assert refused[2:4] == ["3", "322"]
    assert "Maximum number of account summary requests exceeded" in refused[4]
    client.send(63, 1, 1)
    client.send(62, 1, 3, "All", "NetLiquidation")
    assert client.until(64)[2] == "3"
    client.send(62, 1, 4, "Friends", "NetLiquidation")
    assert client.until(4)[2:4] == ["4", "321"]


def test_a_summary_comes_anew_every_three_minutes(
    gateway: SimulatorHandle, euro: ib_insync.IB, connect: Connect, until: Until
) -> None:
    euro.accountSummary()
    told: list[str] = []
    euro.accountSummaryEvent += lambda value: told.append(value.tag)
    other = connect(gateway, client_id=2)
    buy(other, until, SAP, 10)
    until(lambda: euro.portfolio())
    assert "GrossPositionValue" not in told
    gateway.control("clock", advance=181)
    until(lambda: "GrossPositionValue" in told and "SimulatedClock" in told)
    assert "AccountType" not in told


def test_positions_are_valued_anew_every_three_minutes(
    gateway: SimulatorHandle, euro: ib_insync.IB, until: Until
) -> None:
    buy(euro, until, SAP, 10)
    until(lambda: Decimal(values(euro)["GrossPositionValue", "EUR"]) > 0)
    items: list[ib_insync.PortfolioItem] = []
    euro.updatePortfolioEvent += items.append
    gateway.control("clock", advance=170)
    ticker = euro.reqTickers(SAP)[0]
    assert items == []
    gateway.control("clock", advance=600)
    until(lambda: items)
    assert items[0].marketPrice != ticker.last
    until(lambda: values(euro)["SimulatedClock", ""].startswith("2026-11-20T16:12:50"))


def test_updates_multi_can_be_the_ledgers_alone(gateway: SimulatorHandle, raw: Callable[..., Any]) -> None:
    def keys(client: Any, request: int, ledger: int) -> set[str]:
        client.send(76, 1, request, "", "", ledger)
        found = set()
        while (message := client.read())[0] != "74":
            if message[0] == "73":
                found.add(message[5])
        return found

    client = raw(gateway, 1)
    assert keys(client, 1, 1) == {*LEDGER, "NetLiquidation"}
    assert {"Cushion", "BuyingPower", *LEDGER} <= keys(client, 2, 0)
    client.send(76, 1, 3, "DU999", "", 0)
    assert client.until(4)[2:4] == ["3", "321"]


def test_profit_of_the_day(gateway: SimulatorHandle, euro: ib_insync.IB, until: Until) -> None:
    con_id = euro.qualifyContracts(SAP)[0].conId
    account = euro.reqPnL("DU1234567")
    single = euro.reqPnLSingle("DU1234567", "", con_id)
    until(lambda: single.dailyPnL == single.dailyPnL)
    unknown = float(UNSET_DOUBLE)
    assert (single.position, single.value) == (0, 0)
    assert single.dailyPnL == single.unrealizedPnL == single.realizedPnL == unknown
    bought = buy(euro, until, SAP, 100)
    until(lambda: single.position == 100)
    # Bought today: the day's profit is that of the position, its commission among its cost.
    assert single.dailyPnL == single.unrealizedPnL == account.dailyPnL == account.unrealizedPnL
    assert single.realizedPnL == unknown
    assert single.value - single.unrealizedPnL == pytest.approx(
        100 * bought.execution.price + bought.commissionReport.commission, abs=0.001
    )
    sold = buy(euro, until, SAP, -40)
    until(lambda: single.position == 60)
    assert single.realizedPnL == account.realizedPnL == sold.commissionReport.realizedPNL
    assert single.dailyPnL == pytest.approx(single.realizedPnL + single.unrealizedPnL, abs=0.001)
    until(lambda: values(euro)["RealizedPnL", "BASE"] == f"{single.realizedPnL:.2f}")
    # On the next day it is that of the price alone, and nothing is realized yet.
    gateway.control("clock", advance=timedelta(days=3).total_seconds())
    until(lambda: account.realizedPnL == 0)
    assert single.realizedPnL == unknown
    until(lambda: values(euro)["RealizedPnL", "BASE"] == "0.00")
    price = single.value / 60
    session_before = euro.reqHistoricalData(SAP, "", "2 D", "1 day", "TRADES", useRTH=True)[0]
    assert single.dailyPnL == pytest.approx(60 * (price - session_before.close), abs=0.01)


def test_what_the_funds_do_not_carry_is_refused(euro: ib_insync.IB, until: Until) -> None:
    errors: list[tuple[int, str]] = []
    euro.errorEvent += lambda request, code, text, contract: errors.append((code, text))
    funds = float(values(euro)["AvailableFunds", "EUR"])
    price = euro.reqTickers(SAP)[0].last
    trade = euro.placeOrder(SAP, MarketOrder("BUY", int(funds * 4.2 / price)))
    until(lambda: trade.isDone())
    assert [code for code, _ in errors if code == 201] == [201]
    assert "EUR]" in next(text for code, text in errors if code == 201)
    state = euro.whatIfOrder(SAP, MarketOrder("BUY", int(funds * 3.8 / price)))
    assert float(state.initMarginAfter) < float(state.equityWithLoanAfter)
    assert state.commissionCurrency == "EUR"


def test_a_split_keeps_cost_and_value(gateway: SimulatorHandle, euro: ib_insync.IB, until: Until) -> None:
    buy(euro, until, SAP, 30)
    before = until(euro.portfolio)[0]
    gateway.control("split", symbol="SAP", currency="EUR", ratio=4)
    after = until(lambda: euro.portfolio()[0].position == 120 and euro.portfolio()[0])
    assert after.averageCost * 120 == pytest.approx(before.averageCost * 30)
    assert after.marketPrice == pytest.approx(before.marketPrice / 4, abs=0.02)
    for symbol, currency, ratio in (("EUR", "USD", 2), ("SAP", "USD", 2), ("SAP", "EUR", 0)):
        with pytest.raises(ValueError, match=r"cannot be split|0 contracts|split: ratio"):
            gateway.control("split", symbol=symbol, currency=currency, ratio=ratio)


def test_a_restart_finds_the_same_books(start: Start, connect: Connect, until: Until, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cash": CASH, "base_currency": "EUR", "state": tmp_path / "state"}
    first = start(**options)
    ib = connect(first)
    for contract, shares in ((SAP, 101), (Forex("EURUSD"), 30_000), (Stock("AAPL", "SMART", "USD"), -7), (SAP, -20)):
        buy(ib, until, contract, shares)
    held = ib.qualifyContracts(SAP)[0].conId
    first.control("split", symbol="SAP", currency="EUR", ratio=0.5)
    until(lambda: any(item.position == 40 for item in ib.portfolio()))
    buy(ib, until, SAP, 5)
    until(lambda: any(item.position == 45 for item in ib.portfolio()))
    ib.disconnect()
    ib = connect(first)
    before, positions = values(ib), {item.contract.conId: item for item in ib.portfolio()}
    assert positions[held].position == 45
    ib.disconnect()
    first.stop()
    again = connect(start(**options))
    assert values(again) == before
    assert {item.contract.conId: item for item in again.portfolio()} == positions
