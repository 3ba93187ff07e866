"""The contracts that the gateway knows, and which of them a request means."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.simulator.market.hours import ExchangeHours, ForexHours, Hours

STOCK = "STK"
FOREX = "CASH"

_TRADING_CLASSES = {"NASDAQ": "NMS", "IBIS": "XETRA"}
#: What can be placed, as contract details list it.
ORDER_TYPES = "ACTIVETIM,ADJUST,DAY,GTC,IOC,LMT,MKT,OCA,STP,STPLMT,TRAIL,TRAILLMT,WHATIF"


@dataclass(frozen=True, eq=False)
class Instrument:
    """One contract and what prices it.

    :param level: price around which synthetic prices move. :param volatility: daily standard deviation of log returns.
    :param volume: synthetic shares per day.
    :param recorded: whether its days are recorded ones.
    """

    con_id: int
    symbol: str
    sec_type: str
    currency: str
    exchange: str
    primary_exchange: str
    local_symbol: str
    trading_class: str
    long_name: str
    hours: Hours
    min_tick: Decimal
    stock_type: str = ""
    isin: str = ""
    industry: str = ""
    level: float = 100.0
    volatility: float = 0.012
    volume: int = 10_000_000
    recorded: bool = False
    exchanges: tuple[str, ...] = field(default=())

    @property
    def is_forex(self) -> bool:
        """Whether it is a currency pair: `symbol` is bought with `currency`."""
        return self.sec_type == FOREX

    def wire(self) -> dict[str, Any]:
        """Its contract fields as server messages name them."""
        return {
            "conId": self.con_id,
            "symbol": self.symbol,
            "secType": self.sec_type,
            "exchange": self.exchange,
            "currency": self.currency,
            "localSymbol": self.local_symbol,
            "tradingClass": self.trading_class,
        }


class Catalogue:
    """All contracts by conId."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._by_id = {instrument.con_id: instrument for instrument in instruments}

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._by_id.values())

    def get(self, con_id: int) -> Instrument | None:
        """The contract with that conId."""
        return self._by_id.get(con_id)

    def find(self, asked: dict[str, Any]) -> list[Instrument]:
        """The contracts that the contract fields of a request (tws names) match; empty fields match all."""
        if asked["conId"]:
            known = self._by_id.get(asked["conId"])
            return [known] if known is not None and _exchange_matches(known, asked["exchange"]) else []
        return [instrument for instrument in self if _matches(instrument, asked)]

    def matching(self, pattern: str) -> list[Instrument]:
        """The contracts whose symbol begins with a pattern, or a word of whose name does; the same symbol first."""
        wanted = pattern.strip().upper()
        if not wanted:
            return []
        named = [
            item
            for item in self
            if item.symbol.startswith(wanted) or any(word.startswith(wanted) for word in item.long_name.upper().split())
        ]
        return sorted(named, key=lambda item: (item.symbol != wanted, not item.symbol.startswith(wanted), item.symbol))

    def pair(self, base: str, quote: str) -> Instrument | None:
        """The currency pair that prices `base` in `quote`."""
        wanted = (FOREX, base, quote)
        return next((item for item in self if (item.sec_type, item.symbol, item.currency) == wanted), None)


def _matches(instrument: Instrument, asked: dict[str, Any]) -> bool:
    symbol, local, sec_id = asked["symbol"].upper(), asked["localSymbol"].upper(), asked.get("secId", "")
    if sec_id:
        if asked["secIdType"].upper() != "ISIN" or instrument.isin != sec_id.upper():
            return False
    elif not symbol and not local:
        return False
    return (
        asked["secType"] in (instrument.sec_type, "")
        and symbol in (instrument.symbol, "")
        and local in (instrument.local_symbol, "")
        and asked["currency"].upper() in (instrument.currency, "")
        and _canonical(asked["primaryExchange"]) in (instrument.primary_exchange, "")
        and asked["tradingClass"] in (instrument.trading_class, "")
        and _exchange_matches(instrument, asked["exchange"])
    )


def _exchange_matches(instrument: Instrument, exchange: str) -> bool:
    return not exchange or _canonical(exchange) in instrument.exchanges


def _canonical(exchange: str) -> str:
    """IBKR calls NASDAQ by its older name too."""
    return "NASDAQ" if exchange.upper() == "ISLAND" else exchange.upper()


def stock(
    con_id: int,
    symbol: str,
    name: str,
    primary: str,
    hours: Hours,
    *,
    isin: str = "",
    stock_type: str = "COMMON",
    currency: str = "USD",
    tick: str = "0.01",
    **details: Any,
) -> Instrument:
    """A stock or ETF with IBKR's usual names."""
    return Instrument(
        con_id=con_id,
        symbol=symbol,
        sec_type=STOCK,
        currency=currency,
        exchange="SMART",
        primary_exchange=primary,
        local_symbol=symbol,
        trading_class=_TRADING_CLASSES.get(primary, symbol),
        long_name=name,
        hours=hours,
        min_tick=Decimal(tick),
        isin=isin,
        stock_type=stock_type,
        exchanges=("SMART", primary),
        **details,
    )


def stable_con_id(*names: str) -> int:
    """A conId in a range that no synthetic contract uses, the same wherever the names are."""
    return 900_000_000 + zlib.crc32("|".join(names).encode()) % 90_000_000


def _forex(con_id: int, base: str, quote: str, level: float, tick: str) -> Instrument:
    return Instrument(
        con_id=con_id,
        symbol=base,
        sec_type=FOREX,
        currency=quote,
        exchange="IDEALPRO",
        primary_exchange="",
        local_symbol=f"{base}.{quote}",
        trading_class=f"{base}.{quote}",
        long_name=f"SIMULATED {base}.{quote} currency pair",
        hours=ForexHours(),
        min_tick=Decimal(tick),
        level=level,
        volatility=0.004,
        volume=0,
        exchanges=("IDEALPRO",),
    )


def synthetic(last_year: int) -> list[Instrument]:
    """The built-in contracts; their conIds, tickers and ISINs are the real ones, their prices are not.

    The conIds of NESN and 7203 are our own. `SHOP` is ambiguous without a currency or a primary exchange.
    """
    ExchangeHours.load(("XNYS", "XTSE", "XETR", "XLON", "XSWX", "XTKS"), last_year)
    new_york = ExchangeHours("XNYS", "US/Eastern", last_year)
    toronto = ExchangeHours("XTSE", "US/Eastern", last_year)
    etf = {"stock_type": "ETF"}
    return [
        stock(756733, "SPY", "SIMULATED SPDR S&P 500 ETF Trust", "ARCA", new_york, isin="US78462F1030", level=580.0,
              volatility=0.008, volume=60_000_000, **etf),
        stock(320227571, "QQQ", "SIMULATED Invesco QQQ Trust", "NASDAQ", new_york, isin="US46090E1038", level=490.0,
              volatility=0.010, volume=40_000_000, **etf),
        stock(9579970, "IWM", "SIMULATED iShares Russell 2000 ETF", "ARCA", new_york, isin="US4642876555", level=220.0,
              volatility=0.011, volume=30_000_000, **etf),
        stock(265598, "AAPL", "SIMULATED Apple Inc", "NASDAQ", new_york, isin="US0378331005", level=225.0,
              volume=55_000_000, industry="Technology"),
        stock(272093, "MSFT", "SIMULATED Microsoft Corp", "NASDAQ", new_york, isin="US5949181045", level=420.0,
              volume=22_000_000, industry="Technology"),
        stock(4815747, "NVDA", "SIMULATED NVIDIA Corp", "NASDAQ", new_york, isin="US67066G1040", level=135.0,
              volatility=0.025, volume=200_000_000, industry="Technology"),
        stock(8314, "IBM", "SIMULATED International Business Machines Corp", "NYSE", new_york, isin="US4592001014",
              level=230.0, volume=4_000_000, industry="Technology"),
        stock(8894, "KO", "SIMULATED Coca-Cola Co", "NYSE", new_york, isin="US1912161007", level=64.0,
              volatility=0.007, volume=14_000_000, industry="Consumer, Non-cyclical"),
        stock(76792991, "TSLA", "SIMULATED Tesla Inc", "NASDAQ", new_york, isin="US88160R1014", level=300.0,
              volatility=0.03, volume=90_000_000, industry="Consumer, Cyclical"),
        stock(195014116, "SHOP", "SIMULATED Shopify Inc", "NYSE", new_york, isin="CA82509L1076", level=80.0,
              volatility=0.02, volume=8_000_000, industry="Technology"),
        stock(195014189, "SHOP", "SIMULATED Shopify Inc (Toronto)", "TSE", toronto, isin="CA82509L1076", level=110.0,
              volatility=0.02, volume=3_000_000, industry="Technology", currency="CAD"),
        stock(14204, "SAP", "SIMULATED SAP SE", "IBIS", ExchangeHours("XETR", "MET", last_year), isin="DE0007164600",
              level=220.0, volume=2_000_000, industry="Technology", currency="EUR", tick="0.02"),
        stock(307127671, "GLAB", "SIMULATED SPDR Bloomberg Global Aggregate Bond UCITS ETF", "LSEETF",
              ExchangeHours("XLON", "GB-Eire", last_year), isin="IE00BF1QPJ56", level=27.0, volatility=0.003,
              volume=200_000, currency="GBP", tick="0.005", **etf),
        stock(stable_con_id("NESN", "EBS", "CHF"), "NESN", "SIMULATED Nestle SA", "EBS",
              ExchangeHours("XSWX", "MET", last_year), isin="CH0038863350", level=85.0, volatility=0.009,
              volume=4_000_000, industry="Consumer, Non-cyclical", currency="CHF", tick="0.02"),
        stock(stable_con_id("7203", "TSEJ", "JPY"), "7203", "SIMULATED Toyota Motor Corp", "TSEJ",
              ExchangeHours("XTKS", "Japan", last_year), isin="JP3633400001", level=2500.0, volume=25_000_000,
              industry="Consumer, Cyclical", currency="JPY", tick="0.5"),
        _forex(12087792, "EUR", "USD", 1.08, "0.00005"),
        _forex(12087797, "GBP", "USD", 1.27, "0.00005"),
        _forex(15016059, "USD", "JPY", 150.0, "0.005"),
        _forex(15016062, "USD", "CAD", 1.37, "0.00005"),
        _forex(12087820, "USD", "CHF", 0.88, "0.00005"),
        _forex(12087807, "EUR", "GBP", 0.85, "0.00005"),
        _forex(12087817, "EUR", "CHF", 0.95, "0.00005"),
        _forex(14321016, "EUR", "JPY", 162.0, "0.005"),
    ]  # fmt: skip
