"""What the market does to a working order next: its terms against the prices of each second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import Session, sessions_from
from airflow_ibkr_plugin.simulator.market.prices import Market
from airflow_ibkr_plugin.simulator.orders import trailing
from airflow_ibkr_plugin.simulator.orders.book import LIMITED, TRAILING, Order
from airflow_ibkr_plugin.simulator.orders.liquidity import offered

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.market.prices import Path


class Kind(Enum):
    """What happens."""

    TRIGGERED = auto()
    FILLED = auto()
    EXPIRED = auto()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to an order at a second.

    :param price, shares: of a fill: at most that much, at that price.
    """

    kind: Kind
    second: int
    price: Decimal = Decimal(0)
    shares: Decimal = Decimal(0)


def trades_extended(order: Order) -> bool:
    """Whether it trades outside regular hours: only limit prices do, and only where the order allows it."""
    return order.outside_hours and order.order_type in LIMITED


def next_event(market: Market, instrument: Instrument, order: Order, until: int) -> Event | None:
    """What happens to the order first in the seconds `order.checked < s <= until`.

    Moves `order.checked`, and a trailing stop, to just before that, or to `until`.
    """
    last = until if order.expires is None else min(until, order.expires - 1)
    event = None if order.held else _market_event(market, instrument, order, last)
    if event is not None:
        order.checked = event.second - 1
        return event
    order.checked = max(order.checked, until)
    if order.expires is not None and until >= order.expires:
        return Event(Kind.EXPIRED, order.expires)
    return None


def _market_event(market: Market, instrument: Instrument, order: Order, last: int) -> Event | None:
    for session, start, end in _stretches(instrument, order, last):
        path = market.path(instrument, session, start, end)
        if order.waits_for_stop:
            at = _first(_reaches_stop(order, path))
            if order.order_type in TRAILING:
                trailing.follow(order, instrument, path if at < 0 else path[: at + 1])
            if at >= 0:
                return Event(Kind.TRIGGERED, start + at)
        elif (fill := _fill(market, instrument, order, session, start, path)) is not None:
            return fill
    return None


def _stretches(instrument: Instrument, order: Order, last: int) -> Iterator[tuple[Session, int, int]]:
    """When the order meets the market: sessions, with the first second and the one behind the last."""
    first = order.checked + 1
    for session in sessions_from(instrument.hours, first):
        if session.pre > last:
            return
        for start, end in session.spans(regular=not trades_extended(order)):
            start, end = max(start, first), min(end, last + 1)
            if start < end:
                yield session, start, end


def _reaches_stop(order: Order, path: Path) -> np.ndarray:
    stop = trailing.stops(order, path) if order.order_type in TRAILING else float(order.stop_price or 0)
    return path >= stop if order.is_buy else path <= stop


def _fill(
    market: Market, instrument: Instrument, order: Order, session: Session, start: int, path: Path
) -> Event | None:
    """The first fill: at the side of the quote that the order takes, as much as the second offers."""
    bid, ask = market.spread(instrument, session.day, path) if len(path) else (path, path)
    side = ask if order.is_buy else bid
    if order.order_type in LIMITED:
        limit = float(order.limit_price or 0)
        at = _first(side <= limit if order.is_buy else side >= limit)
    else:
        at = 0 if len(side) else -1
    bar = market.day_bar(instrument, session.day)
    if at < 0 or bar is None:
        return None
    second = start + at
    return Event(Kind.FILLED, second, Decimal(repr(float(side[at]))), offered(instrument, bar, session, second))


def _first(hits: np.ndarray) -> int:
    at = int(np.argmax(hits)) if len(hits) else 0
    return at if len(hits) and bool(hits[at]) else -1
