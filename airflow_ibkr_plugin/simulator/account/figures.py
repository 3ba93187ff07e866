"""What the account is worth, in IBKR's keys. Every figure derives from cash, positions and last prices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.simulator.account.portfolio import ZERO, Position, cents
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument

# Reg T: half of a stock's value to open it, a quarter to keep it; forex by IBKR's rate for the major pairs.
_STOCK_INITIAL = Decimal("0.50")
_STOCK_MAINTENANCE = Decimal("0.25")
_FOREX_MARGIN = Decimal("0.03")

#: Value of the key `Simulator`: every account of this gateway has it, none of a real one.
SIMULATOR = "airflow-ibkr-plugin"


@dataclass(frozen=True)
class Holding:
    """A position valued at the last price, in the instrument's currency; average cost as IBKR states it."""

    instrument: Instrument
    quantity: Decimal
    price: Decimal
    value: Decimal
    average_cost: Decimal
    unrealized: Decimal
    realized: Decimal

    def wire(self, account: str) -> dict[str, Any]:
        """Fields of a portfolioValue message."""
        return self.instrument.wire() | {
            "primaryExchange": self.instrument.primary_exchange or self.instrument.exchange,
            "position": self.quantity,
            "marketPrice": self.price,
            "marketValue": self.value,
            "averageCost": self.average_cost,
            "unrealizedPNL": self.unrealized,
            "realizedPNL": self.realized,
            "account": account,
        }


@dataclass(frozen=True)
class Figures:
    """The account in its base currency, USD."""

    cash: Decimal
    stock_value: Decimal
    gross: Decimal
    initial_margin: Decimal
    maintenance_margin: Decimal
    realized: Decimal
    unrealized: Decimal

    @property
    def equity(self) -> Decimal:
        """Net liquidation value."""
        return self.cash + self.stock_value

    @property
    def available(self) -> Decimal:
        """What is left of the equity after the initial margin."""
        return self.equity - self.initial_margin


def holding(gateway: Gateway, con_id: int) -> Holding:
    """One position, valued."""
    instrument = gateway.instrument(con_id)
    position = gateway.portfolio.positions.get(con_id, Position())
    price = gateway.last_price(instrument)
    value = cents(position.quantity * price)
    average = position.average_cost.quantize(Decimal("0.00000001"))
    return Holding(instrument, position.quantity, price, value, average, value - position.cost, position.realized)


def holdings(gateway: Gateway) -> list[Holding]:
    """All positions, those that were closed too."""
    return [holding(gateway, con_id) for con_id in gateway.portfolio.positions]


def figures(gateway: Gateway, changed: dict[int, Decimal] | None = None) -> Figures:
    """The account now; with `changed` (conId to signed shares) as if those had been bought at the last price."""
    changes = changed or {}
    rates = {currency: gateway.rate(currency) for currency in gateway.portfolio.cash}
    cash = sum((amount * rates[currency] for currency, amount in gateway.portfolio.cash.items()), ZERO)
    stock = gross = initial = maintenance = realized = unrealized = ZERO
    for con_id in {*gateway.portfolio.positions, *changes}:
        held = holding(gateway, con_id)
        rate = gateway.rate(held.instrument.currency)
        realized += held.realized * rate
        unrealized += held.unrealized * rate
        moved = held.value + cents(changes.get(con_id, ZERO) * held.price)
        size = abs(moved * rate)
        if held.instrument.is_forex:
            initial += size * _FOREX_MARGIN
            maintenance += size * _FOREX_MARGIN
            continue
        cash -= (moved - held.value) * rate
        stock += moved * rate
        gross += size
        initial += size * _STOCK_INITIAL
        maintenance += size * _STOCK_MAINTENANCE
    realized -= gateway.portfolio.forex_commissions
    return Figures(*map(cents, (cash, stock, gross, initial, maintenance, realized, unrealized)))


def account_values(gateway: Gateway) -> Iterator[tuple[str, str, str]]:
    """Key, value and currency of each account value."""
    yield "AccountCode", gateway.account, ""
    yield "AccountReady", "true", ""
    yield "AccountType", "INDIVIDUAL", ""
    yield from origin(gateway)
    now = figures(gateway)
    margins = {
        "NetLiquidation": now.equity,
        "EquityWithLoanValue": now.equity,
        "TotalCashValue": now.cash,
        "SettledCash": now.cash,
        "AccruedCash": ZERO,
        "GrossPositionValue": now.gross,
        "InitMarginReq": now.initial_margin,
        "MaintMarginReq": now.maintenance_margin,
        "FullInitMarginReq": now.initial_margin,
        "FullMaintMarginReq": now.maintenance_margin,
        "AvailableFunds": now.available,
        "FullAvailableFunds": now.available,
        "ExcessLiquidity": now.equity - now.maintenance_margin,
        "FullExcessLiquidity": now.equity - now.maintenance_margin,
        "BuyingPower": max(now.available / _STOCK_INITIAL, ZERO),
    }
    for key, amount in margins.items():
        yield key, _money(amount), "USD"
    cushion = (now.equity - now.maintenance_margin) / now.equity if now.equity else ZERO
    yield "Cushion", str(cushion.quantize(Decimal("0.0001"))), ""
    yield "DayTradesRemaining", "-1", ""
    yield from _ledger(gateway, now)


def origin(gateway: Gateway) -> Iterator[tuple[str, str, str]]:
    """What says that none of this is real: who simulates it, and the simulated time (`false` on a real clock)."""
    yield "Simulator", SIMULATOR, ""
    yield "SimulatedClock", gateway.clock.now().isoformat() if gateway.clock.simulated else "false", ""


def _ledger(gateway: Gateway, now: Figures) -> Iterator[tuple[str, str, str]]:
    """Cash and stock by currency, and the same in base currency."""
    held = [item for item in holdings(gateway) if not item.instrument.is_forex]
    for currency, amount in sorted(gateway.portfolio.cash.items()):
        own = [item for item in held if item.instrument.currency == currency]
        stock = sum((item.value for item in own), ZERO)
        yield from _ledger_values(
            currency,
            cents(amount),
            stock,
            sum((item.realized for item in own), ZERO),
            sum((item.unrealized for item in own), ZERO),
            gateway.rate(currency),
        )
    yield from _ledger_values("BASE", now.cash, now.stock_value, now.realized, now.unrealized, Decimal(1))


def _ledger_values(
    currency: str, cash: Decimal, stock: Decimal, realized: Decimal, unrealized: Decimal, rate: Decimal
) -> Iterator[tuple[str, str, str]]:
    yield "Currency", currency, currency
    for key, amount in {
        "CashBalance": cash,
        "TotalCashBalance": cash,
        "StockMarketValue": stock,
        "NetLiquidationByCurrency": cash + stock,
        "RealizedPnL": realized,
        "UnrealizedPnL": unrealized,
    }.items():
        yield key, _money(amount), currency
    yield "ExchangeRate", str(rate.quantize(Decimal("0.00000001")).normalize()), currency


def _money(amount: Decimal) -> str:
    return format(cents(amount), "f")
