"""What an account may come to be worth in positions if its open orders fill, in its base currency. Pure.

Nobody knows which open orders will fill; so each figure is the worst that can come of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.portfolio import Position
from airflow_ibkr_plugin.trading.risk import RiskContext
from airflow_ibkr_plugin.trading.risk_facts import OpenOrder, open_quantity
from airflow_ibkr_plugin.trading.sizing import careful_arithmetic, unit_value, usable_price


class UnknownWorth(Exception):
    """A price, a rate or the account's orders are not known, so that nothing can be held against a limit."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """Units of the order's instrument, without the order.

    :param ahead: position in the direction of the order if all open orders of its side fill; below zero on the other
        side.
    :param behind: position on the other side if all open orders of that side fill; below zero in the order's direction.
    """

    ahead: Decimal
    behind: Decimal


def own_units(context: RiskContext) -> Own:
    """What there is of the order's instrument.

    :raises UnknownWorth: the account's other orders are not known.
    """
    orders, con_id, sign = _orders(context), context.instrument.con_id, context.ticket.side.sign
    other = Side.SELL if context.ticket.side is Side.BUY else Side.BUY
    with careful_arithmetic():
        held = context.position * sign
        return Own(
            ahead=held + open_quantity(orders, con_id, side=context.ticket.side) * sign,
            behind=open_quantity(orders, con_id, side=other) * -sign - held,
        )


def closes(context: RiskContext) -> bool:
    """Whether the order only brings its position closer to zero and not beyond, whatever of the open orders fills."""
    try:
        ahead = own_units(context).ahead
    except UnknownWorth:
        return False
    with careful_arithmetic():
        return ahead + context.ticket.quantity <= 0


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Worth of everything but the order's instrument, in the base currency.

    :param gross: long and short positions added up, each as large as open orders can make it.
    :param ahead: long less short in the direction of the order, if all open orders of its side fill and no others.
    """

    gross: Decimal
    ahead: Decimal


def elsewhere(context: RiskContext) -> Elsewhere:
    """What there is of other instruments.

    :raises UnknownWorth: a price or a rate is missing or too old, or the account's other orders are not known.
    """
    orders: dict[int, list[OpenOrder]] = defaultdict(list)
    for order in _orders(context):
        orders[order.instrument.con_id].append(order)
    held = {position.con_id: position for position in context.account.positions if position.quantity}
    gross = ahead = Decimal(0)
    with careful_arithmetic():
        for con_id in sorted((held.keys() | orders.keys()) - {context.instrument.con_id}):
            worth = _position_worth(context, held[con_id]) if con_id in held else Decimal(0)
            long = worth + _orders_worth(context, orders[con_id], Side.BUY)
            short = _orders_worth(context, orders[con_id], Side.SELL) - worth
            gross += max(long, short, Decimal(0))
            ahead += long if context.ticket.side is Side.BUY else short
    return Elsewhere(gross=gross, ahead=ahead)


def open_growth(context: RiskContext, unit: Decimal) -> Decimal:
    """How much larger open orders, without the order itself, can make all positions together, in the base currency.

    :param unit: value of a unit of the order's instrument.
    :raises UnknownWorth: as :func:`elsewhere`, for instruments that have open orders.
    """
    own, working = own_units(context), {order.instrument.con_id for order in _orders(context)}
    account = context.account
    touched = tuple(position for position in account.positions if position.con_id in working)
    busy = replace(context, account=replace(account, positions=touched))
    with careful_arithmetic():
        now = sum((abs(_position_worth(busy, p)) for p in touched if p.con_id != context.instrument.con_id), Decimal(0))
        own_growth = max(own.ahead, own.behind, Decimal(0)) - abs(context.position)
        return elsewhere(busy).gross - now + own_growth * unit


def _orders(context: RiskContext) -> tuple[OpenOrder, ...]:
    if context.open_orders is None:
        raise UnknownWorth("the account's other orders are not known")
    return context.open_orders


def _position_worth(context: RiskContext, position: Position) -> Decimal:
    price, rate = position.market_price, context.account.rate(position.currency, context.now)
    if price is None or not usable_price(price) or not context.account.fresh(context.now):
        raise UnknownWorth(f"no fresh market price of {position.symbol}, which the account holds")
    if rate is None:
        raise UnknownWorth(f"no fresh rate from {position.currency} to {context.account.currency}")
    return position.quantity * price * rate


def _orders_worth(context: RiskContext, orders: Iterable[OpenOrder], side: Side) -> Decimal:
    worth = Decimal(0)
    for order in orders:
        if order.side is not side or not order.remaining:
            continue
        price, value = order.price, None
        if price is not None and usable_price(price):
            value = unit_value(order.instrument, price, context.account, context.now)
        if value is None:
            raise UnknownWorth(f"no price or no fresh rate for the open order in {order.instrument.name}")
        worth += order.remaining * value
    return worth
