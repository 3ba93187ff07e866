"""What an account holds and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

#: How old exchange rates and market prices of an account may be. IBKR sends those that have changed every three
#: minutes, and with each change of a position. Source: TWS API, "Account Updates".
MAX_VALUES_AGE = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Position:
    """A holding. Quantity is negative when short; average cost per unit, as IBKR reports it (commissions in)."""

    account: str
    con_id: int
    symbol: str
    quantity: Decimal
    average_cost: Decimal
    currency: str = "USD"
    sec_type: str = "STK"
    market_price: Decimal | None = None
    market_value: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None


@dataclass(frozen=True, kw_only=True)
class AccountSnapshot:
    """An account at one moment.

    :param at: broker's clock, aware UTC.
    :param values: IBKR's account values in the base currency by their tag, such as NetLiquidation.
    :param simulated: the numbers come from a simulated gateway.
    :param rates: units of the base currency for one of a currency, for those that the account holds.
    :param values_at: when the broker last sent values, rates or market prices, by its clock, aware UTC.
    """

    account: str
    at: datetime
    currency: str
    net_liquidation: Decimal
    cash: Decimal
    buying_power: Decimal
    positions: tuple[Position, ...] = ()
    values: dict[str, str] = field(default_factory=dict)
    simulated: bool = False
    rates: Mapping[str, Decimal] = field(default_factory=dict)
    values_at: datetime | None = None

    def fresh(self, now: datetime) -> bool:
        """Whether rates and market prices are young enough to decide by; `now` by the broker's clock."""
        return self.values_at is not None and abs(now - self.values_at) <= MAX_VALUES_AGE

    def rate(self, currency: str, now: datetime) -> Decimal | None:
        """Units of the base currency for one of this currency; None where that is unknown or too old."""
        if currency == self.currency:
            return Decimal(1)
        rate = self.rates.get(currency)
        return rate if rate is not None and rate.is_finite() and rate > 0 and self.fresh(now) else None


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A price that may back an order.

    :param delayed: the market data are delayed or frozen: never good enough for an order.
    :param at: broker's clock, aware UTC.
    """

    con_id: int
    at: datetime
    bid: Decimal | None = None
    ask: Decimal | None = None
    last: Decimal | None = None
    close: Decimal | None = None
    delayed: bool = False

    @property
    def reference(self) -> Decimal | None:
        """Mid of bid and ask where both are there, else last. None where there is neither: no stale close."""
        if self.bid is not None and self.ask is not None:
            return (self.bid + self.ask) / 2
        return self.last
