from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import pytest

from airflow_ibkr_plugin.simulator.account.commissions import order_commission
from airflow_ibkr_plugin.simulator.account.money import ZERO
from airflow_ibkr_plugin.simulator.account.portfolio import Portfolio
from airflow_ibkr_plugin.simulator.gateway import Gateway, Options
from airflow_ibkr_plugin.simulator.orders.book import Execution

START = {"USD": Decimal(5_000_000), "EUR": Decimal(300_000), "JPY": Decimal(90_000_000)}


class Trade(NamedTuple):
    """An order: the shares of each of its fills, all at one price."""

    con_id: int
    side: str
    fills: Sequence[int]
    price: Decimal

    @property
    def signed(self) -> Decimal:
        """Shares, negative for a sale."""
        return Decimal(sum(self.fills) if self.side == "BOT" else -sum(self.fills))


class Account:
    """A gateway's account, and a way to fill orders of it at any price."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.executions: list[Execution] = []

    def open(self) -> Portfolio:
        """Start anew."""
        self.executions = []
        self.gateway.portfolios[self.gateway.account] = Portfolio(START)
        return self.gateway.portfolio_of("")

    def fill(self, trades: Iterable[Trade]) -> list[Decimal]:
        """Fill orders; returns the profits that fills realized."""
        profits = []
        for trade in trades:
            filled, charged = ZERO, ZERO
            for shares in trade.fills:
                filled += shares
                instrument = self.gateway.instrument(trade.con_id)
                fee, currency = order_commission(self.gateway, instrument, filled, trade.price, charged)
                charged += fee
                number = len(self.executions)
                execution = Execution(
                    exec_id=str(number), perm_id=number, client_id=1, order_id=number, con_id=trade.con_id,
                    side=trade.side, shares=Decimal(shares), price=trade.price, time=0, order_ref="",
                    cumulative=filled, avg_price=trade.price, commission=fee, commission_currency=currency,
                    day=self.gateway.today,
                )  # fmt: skip
                self.executions.append(execution)
                profit = self.gateway.portfolio_of("").apply(execution, instrument)
                if profit is not None:
                    profits.append(profit)
        return profits

    def con_id(self, symbol: str, currency: str) -> int:
        """The contract of that name."""
        return next(i.con_id for i in self.gateway.catalogue if (i.symbol, i.currency) == (symbol, currency))


@pytest.fixture(scope="session")
def euro_account() -> Account:
    """An account with the base currency EUR, at a moment that stands still; :meth:`Account.open` it first."""
    gateway = Gateway(Options(clock=datetime(2026, 11, 20, 16, 0, tzinfo=UTC), cash=START, base_currency="EUR"))
    gateway.clock.freeze()
    return Account(gateway)
