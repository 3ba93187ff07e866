"""Profit of the broker's day: what the account is worth now against what it was worth when the day began."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_ibkr_plugin.simulator.account.figures import figures
from airflow_ibkr_plugin.simulator.account.portfolio import ZERO, cents
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.hours import EASTERN


@dataclass(frozen=True)
class DailyPnL:
    """In USD. `realized` and `unrealized` are since the account was opened."""

    daily: Decimal
    unrealized: Decimal
    realized: Decimal


def daily_pnl(gateway: Gateway, con_id: int | None = None) -> DailyPnL:
    """Profit of the day, of one contract or of the whole account.

    For each contract: today's value of what is held, less the value at the day's start of what was held then, less
    what was paid today, and the commissions.
    """
    now = figures(gateway)
    wanted = [con_id] if con_id is not None else list(gateway.portfolio.positions)
    daily = sum((_daily(gateway, contract) for contract in wanted), ZERO)
    return DailyPnL(cents(daily), now.unrealized, now.realized)


def _daily(gateway: Gateway, con_id: int) -> Decimal:
    instrument = gateway.instrument(con_id)
    rate = gateway.rate(instrument.currency)
    midnight = datetime(gateway.today.year, gateway.today.month, gateway.today.day, tzinfo=EASTERN).timestamp()
    before = gateway.market.quote(instrument, midnight)
    today = [execution for execution in gateway.book.executions(gateway.today) if execution.con_id == con_id]
    bought = sum((execution.signed for execution in today), ZERO)
    paid = sum((cents(execution.signed * execution.price) for execution in today), ZERO)
    fees = sum((execution.commission * gateway.rate(execution.commission_currency) for execution in today), ZERO)
    held = gateway.portfolio.positions[con_id].quantity if con_id in gateway.portfolio.positions else ZERO
    start = cents((held - bought) * Decimal(repr(before.last))) if before else ZERO
    return (cents(held * gateway.last_price(instrument)) - start - paid) * rate - fees
