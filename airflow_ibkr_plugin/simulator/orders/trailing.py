"""Trailing stops: the stop price follows the best price seen since the order began to work, and never goes back.

It is a function of the prices alone, so that a jump of the clock or a restart finds the same stop as watching would.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

import numpy as np

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.orders.book import TRAIL_LIMIT_ORDER, Order

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.market.prices import Path


def stops(order: Order, path: Path) -> Path:
    """The stop price at each second of a path that goes on from where the order was last followed to."""
    seen = path if order.trail_extreme is None else np.concatenate(([float(order.trail_extreme)], path))
    best = np.minimum.accumulate(seen) if order.is_buy else np.maximum.accumulate(seen)
    best = best[len(seen) - len(path) :]
    if order.trail_percent is not None:
        away = best * (float(order.trail_percent) / 100)
    else:
        away = np.full_like(best, float(order.trail_amount or 0))
    following = best + away if order.is_buy else best - away
    if order.stop_price is None:
        return following
    first = float(order.stop_price)
    return np.minimum(following, first) if order.is_buy else np.maximum(following, first)


def follow(order: Order, instrument: Instrument, path: Path) -> None:
    """Move the order's stop price, and a TRAIL LIMIT's limit price with it, to the end of the path."""
    if not len(path):
        return
    last = float(stops(order, path)[-1])
    prices = path if order.trail_extreme is None else np.append(path, float(order.trail_extreme))
    order.trail_extreme = Decimal(repr(float(prices.min() if order.is_buy else prices.max())))
    order.stop_price = _away_from_market(order, instrument, last)
    if order.order_type == TRAIL_LIMIT_ORDER and order.limit_offset is not None:
        order.limit_price = order.stop_price + (order.limit_offset if order.is_buy else -order.limit_offset)


def _away_from_market(order: Order, instrument: Instrument, price: float) -> Decimal:
    """On the price grid, on the side that triggers later."""
    ticks = (Decimal(repr(round(price, 8))) / instrument.min_tick).to_integral_value(
        ROUND_CEILING if order.is_buy else ROUND_FLOOR
    )
    return (ticks * instrument.min_tick).quantize(instrument.min_tick)
