"""Account values: IBKR's keys, each with its value and its currency column.

The list is that of gateways' answers to reqAccountUpdates which users have published (a securities segment `-S` and a
commodities segment `-C`, which holds nothing here), and two keys of our own, `Simulator` and `SimulatedClock`.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from airflow_ibkr_plugin.simulator.account.figures import Figures, Ledger, in_base, ledgers
from airflow_ibkr_plugin.simulator.account.margin import BUYING_POWER
from airflow_ibkr_plugin.simulator.account.money import ZERO, cents, decimals
from airflow_ibkr_plugin.simulator.account.pnl import previous_equity
from airflow_ibkr_plugin.simulator.gateway import Gateway

#: Value of the key `Simulator`: every account of this gateway has it, none of a real one.
SIMULATOR = "airflow-ibkr-plugin"
#: Currency column of what is summed over all currencies.
BASE = "BASE"

Value = tuple[str, str, str]

# Keys of a ledger that only other accounts have anything in: interest and dividends are not simulated, nor are bonds,
# funds, options, futures, crypto.
_EMPTY_LEDGER = (
    "AccruedCash",
    "CorporateBondValue",
    "Cryptocurrency",
    "FundValue",
    "FutureOptionValue",
    "FuturesPNL",
    "FxCashBalance",
    "IssuerOptionValue",
    "MoneyMarketFundValue",
    "MutualFundValue",
    "NetDividend",
    "OptionMarketValue",
    "TBillValue",
    "TBondValue",
    "WarrantValue",
)
_EMPTY_SEGMENT = (
    "AccruedCash",
    "AccruedDividend",
    "Billable",
    "Guarantee",
    "IncentiveCoupons",
    "IndianStockHaircut",
    "PASharesValue",
    "PhysicalCertificateValue",
    "PostExpirationExcess",
    "PostExpirationMargin",
    "TotalDebitCardPendingCharges",
)
_CONSTANTS = {
    "AccountReady": "true",
    "AccountType": "INDIVIDUAL",
    "ColumnPrio-C": "2",
    "ColumnPrio-S": "1",
    "LookAheadNextChange": "0",
    "NLVAndMarginInReview": "false",
    "SegmentTitle-C": "US Commodities",
    "SegmentTitle-S": "US Securities",
    "TradingType-S": "STKNOPT",
    "WhatIfPMEnabled": "true",
} | {f"DayTradesRemaining{days}": "-1" for days in ("", "T+1", "T+2", "T+3", "T+4")}

#: Keys that come once for each currency, and once for all of them with the currency `BASE`.
LEDGER_KEYS = frozenset(
    {
        *_EMPTY_LEDGER,
        "AccountOrGroup",
        "CashBalance",
        "Currency",
        "ExchangeRate",
        "NetLiquidationByCurrency",
        "RealCurrency",
        "RealizedPnL",
        "StockMarketValue",
        "TotalCashBalance",
        "UnrealizedPnL",
    }
)


def account_values(gateway: Gateway, account: str = "") -> list[Value]:
    """Key, value and currency of each account value, sorted as IBKR sends them."""
    books, code = ledgers(gateway, account=account), gateway.code(account)
    now, before = in_base(books), previous_equity(gateway, account)
    by_key = {(key, currency): value for key, value, currency in _values(gateway, code, books, now, before)}
    return [(key, by_key[key, currency], currency) for key, currency in sorted(by_key)]


def ledger_values(gateway: Gateway, account: str = "") -> list[Value]:
    """Only what comes by currency, and the net liquidation value."""
    values = account_values(gateway, account)
    return [value for value in values if value[0] in LEDGER_KEYS or value[0] == "NetLiquidation"]


def summary_values(gateway: Gateway, tags: frozenset[str], account: str = "") -> list[Value]:
    """Account values as accountSummary names them: the asked tags, `$LEDGER` (base currency), `$LEDGER:EUR`,
    `$LEDGER:ALL`. What says that it is a simulation comes with any."""
    ledger = {tag.partition(":")[2] or BASE for tag in tags if tag.startswith("$LEDGER")}
    wanted = tags | {key for key, _, _ in origin(gateway)}
    base = gateway.base_currency
    values = account_values(gateway, account)
    found = {(key, currency): value for key, value, currency in values}
    extra = [("Leverage", found["Leverage-S", ""], ""), ("SettledCash", found["TotalCashValue", base], base)]
    return [
        (key, value, currency)
        for key, value, currency in values + extra
        if (key in LEDGER_KEYS and ("ALL" in ledger or currency in ledger))
        or (key in wanted and (key not in LEDGER_KEYS or currency == base))
    ]


def origin(gateway: Gateway) -> Iterator[Value]:
    """What says that none of this is real: who simulates it, and the simulated time (`false` on a real clock)."""
    yield "Simulator", SIMULATOR, ""
    yield "SimulatedClock", gateway.clock.now().isoformat() if gateway.clock.simulated else "false", ""


def _values(gateway: Gateway, account: str, books: list[Ledger], now: Figures, before: Decimal) -> Iterator[Value]:
    base = gateway.base_currency
    yield "AccountCode", account, ""
    yield from origin(gateway)
    for key, text in _CONSTANTS.items():
        yield key, text, ""
    yield "Cushion", format((_part(now.excess, now.equity)).normalize(), "f"), ""
    yield "Leverage-S", str(cents(_part(now.gross, now.equity))), ""
    for key in _EMPTY_SEGMENT:
        yield from _segments(key, ZERO, base)
    for key, amount in _margins(now).items():
        yield from _segments(key, amount, base)
    for key, amount in {
        "GrossPositionValue": now.gross,
        "PreviousDayEquityWithLoanValue": before,
        "RegTEquity": now.equity,
        "RegTMargin": now.reg_t_margin,
        "SMA": now.equity - now.reg_t_margin,
    }.items():
        yield key, _money(amount), base
        yield f"{key}-S", _money(amount), base
    yield "BuyingPower", _money(max((min(now.equity, before) - now.initial_margin) * BUYING_POWER, ZERO)), base
    yield "NetLiquidationUncertainty", _money(ZERO), base
    for book in books:
        yield from _ledger(account, book)
    total = Ledger(BASE, Decimal(1), now.cash, now.stock_value, now.gross, now.realized, now.unrealized)
    yield from _ledger(account, total)


def _margins(now: Figures) -> dict[str, Decimal]:
    """What has a variant for each segment. Nothing changes overnight here: `Full` and `LookAhead` are as now."""
    margins = {
        "AvailableFunds": now.available,
        "ExcessLiquidity": now.excess,
        "InitMarginReq": now.initial_margin,
        "MaintMarginReq": now.maintenance_margin,
    }
    ahead = {f"{prefix}{key}": amount for prefix in ("Full", "LookAhead") for key, amount in margins.items()}
    worth = {"EquityWithLoanValue": now.equity, "NetLiquidation": now.equity, "TotalCashValue": now.cash}
    return margins | ahead | worth


def _segments(key: str, amount: Decimal, base: str) -> Iterator[Value]:
    yield key, _money(amount), base
    yield f"{key}-C", _money(ZERO), base
    yield f"{key}-S", _money(amount), base


def _ledger(account: str, book: Ledger) -> Iterator[Value]:
    currency = book.currency
    for key in _EMPTY_LEDGER:
        yield key, _money(ZERO), currency
    yield "AccountOrGroup", account, currency
    yield "Currency", currency, currency
    yield "RealCurrency", currency, currency
    yield "ExchangeRate", decimals(book.rate), currency
    for key, amount in {
        "CashBalance": book.cash,
        "TotalCashBalance": book.cash,
        "StockMarketValue": book.stock,
        "NetLiquidationByCurrency": book.cash + book.stock,
        "RealizedPnL": book.realized,
        "UnrealizedPnL": book.unrealized,
    }.items():
        yield key, _money(amount), currency


def _part(amount: Decimal, whole: Decimal) -> Decimal:
    return (amount / whole).quantize(Decimal("0.000001")) if whole else ZERO


def _money(amount: Decimal) -> str:
    return format(cents(amount), "f")
