"""When and at what price a working order fills: its terms against the prices of each second."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import Session, sessions_from
from airflow_ibkr_plugin.simulator.market.prices import Market
from airflow_ibkr_plugin.simulator.orders.book import (
    LIMIT_ORDER,
    MARKET_ORDER,
    STOP_LIMIT_ORDER,
    STOP_ORDER,
    Order,
)

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.market.prices import Path

_LIMITED = (LIMIT_ORDER, STOP_LIMIT_ORDER)
_STOPPED = (STOP_ORDER, STOP_LIMIT_ORDER)


@dataclass(frozen=True, slots=True)
class Match:
    """What becomes of an order: the second it is triggered, and the second and price of its fill, where they come."""

    triggered: int | None = None
    filled: int | None = None
    price: Decimal | None = None


def trades_extended(order: Order) -> bool:
    """Whether it trades outside regular hours: only limit prices do, and only where the order allows it."""
    return order.outside_hours and order.order_type in _LIMITED


def match(market: Market, instrument: Instrument, order: Order, until: int) -> Match:
    """What happens to the order in the seconds `order.checked < s <= until`, and not after it expires."""
    triggered: int | None = None
    waiting = order.order_type in _STOPPED and not order.triggered
    if order.expires is not None:
        until = min(until, order.expires - 1)
    for session in sessions_from(instrument.hours, order.checked + 1):
        start, end = session.bounds(regular=not trades_extended(order))
        start = max(start, order.checked + 1)
        if session.pre > until:
            break
        end = min(end, until + 1)
        if start >= end:
            continue
        path = market.path(instrument, session, start, end)
        first = 0
        if waiting:
            first = _first(_reaches_stop(order, path))
            if first < 0:
                continue
            waiting, triggered = False, start + first
        at, price = _fill(market, instrument, order, session, path[first:])
        if at >= 0:
            return Match(triggered, start + first + at, price)
    return Match(triggered)


def _reaches_stop(order: Order, path: Path) -> np.ndarray:
    stop = float(order.stop_price or 0)
    return path >= stop if order.is_buy else path <= stop


def _fill(market: Market, instrument: Instrument, order: Order, session: Session, path: Path) -> tuple[int, Decimal]:
    """The offset of the fill (-1: none) and its price: the side of the quote that the order takes."""
    bid, ask = market.spread(instrument, session.day, path)
    side = ask if order.is_buy else bid
    if order.order_type in (MARKET_ORDER, STOP_ORDER):
        at = 0 if len(side) else -1
    else:
        limit = float(order.limit_price or 0)
        at = _first(side <= limit if order.is_buy else side >= limit)
    return at, Decimal(repr(float(side[at]))) if at >= 0 else Decimal(0)


def _first(hits: np.ndarray) -> int:
    at = int(np.argmax(hits)) if len(hits) else 0
    return at if len(hits) and bool(hits[at]) else -1
