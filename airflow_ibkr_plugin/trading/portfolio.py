"""What an account holds and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal


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
