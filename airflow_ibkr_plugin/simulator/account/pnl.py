"""Profit of the broker's day, midnight to midnight in New York, and what the account was worth when it began."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_ibkr_plugin.simulator.account.figures import figures, holding
from airflow_ibkr_plugin.simulator.account.money import ZERO, cents
from airflow_ibkr_plugin.simulator.account.portfolio import Position
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.hours import EASTERN


@dataclass(frozen=True)
class AccountPnL:
    """Of the whole account, in its base currency."""

    daily: Decimal
    unrealized: Decimal
    realized: Decimal


@dataclass(frozen=True)
class PositionPnL:
    """Of one position, in the account's base currency; None: there is nothing that it could be of."""

    quantity: Decimal
    daily: Decimal | None
    unrealized: Decimal | None
    realized: Decimal | None
    value: Decimal


def account_pnl(gateway: Gateway, account: str = "") -> AccountPnL:
    """Profit of all positions that were held today."""
    now, positions = figures(gateway, account=account), gateway.portfolio_of(account).positions
    daily = sum((_daily(gateway, con_id, position) for con_id, position in positions.items()), ZERO)
    return AccountPnL(daily, now.unrealized, now.realized)


def position_pnl(gateway: Gateway, con_id: int, account: str = "") -> PositionPnL:
    """Profit of one position."""
    position = gateway.portfolio_of(account).positions.get(con_id)
    if position is None or not (position.quantity or position.last_traded.day == gateway.today):
        return PositionPnL(ZERO, None, None, None, ZERO)
    held = holding(gateway, con_id, account)
    rate = gateway.rate(held.instrument.currency)
    closed = position.traded(gateway.today).closed
    return PositionPnL(
        held.quantity,
        _daily(gateway, con_id, position),
        cents(held.unrealized * rate),
        cents(held.realized * rate) if closed else None,
        cents(held.value * rate),
    )


def previous_equity(gateway: Gateway, account: str = "") -> Decimal:
    """Equity when the day began, in the base currency: what was held then, at that time's prices and rates."""
    start, day, portfolio = _day_start(gateway), gateway.today, gateway.portfolio_of(account)
    traded = portfolio.day_cash(day)
    worth = {currency: amount - traded.get(currency, ZERO) for currency, amount in portfolio.cash.items()}
    for con_id, position in portfolio.positions.items():
        instrument = gateway.instrument(con_id)
        held = position.quantity - position.traded(day).signed
        if held and not instrument.is_forex:
            value = cents(held * gateway.last_price(instrument, start))
            worth[instrument.currency] = worth.get(instrument.currency, ZERO) + value
    return sum((cents(amount * gateway.rate(currency, start)) for currency, amount in worth.items()), ZERO)


def _daily(gateway: Gateway, con_id: int, position: Position) -> Decimal:
    """Value of what is held, less the value at the day's start of what was held then, less what was paid since."""
    instrument = gateway.instrument(con_id)
    today = position.traded(gateway.today)
    before = cents((position.quantity - today.signed) * gateway.last_price(instrument, _day_start(gateway)))
    profit = cents(position.quantity * gateway.last_price(instrument)) - before - today.paid
    fees = cents(today.fees * gateway.rate(today.fee_currency)) if today.fees else ZERO
    return cents(profit * gateway.rate(instrument.currency)) - fees


def _day_start(gateway: Gateway) -> float:
    day = gateway.today
    return datetime(day.year, day.month, day.day, tzinfo=EASTERN).timestamp()
