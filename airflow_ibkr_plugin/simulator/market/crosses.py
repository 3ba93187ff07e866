"""Synthetic prices of currency crosses: what the pairs with USD imply, so that no way around makes money."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.days import DayBar, Days, SyntheticDays, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Path = NDArray[np.float64]

# How far a day's extremes go towards those that both pairs' extremes together would make. At 1 a cross would jump there
# for a second; here it is what its pairs imply in about 96 % of all seconds, and cut off in the others.
_REACH = 0.8


def synthetic_days(instruments: Sequence[Instrument], seed: int) -> Iterator[tuple[Instrument, Days]]:
    """Each instrument with its days. A pair without USD is made of the two pairs that have it."""
    dollar_pairs = {
        (item.symbol, item.currency): (item, SyntheticDays(seed, item))
        for item in instruments
        if item.is_forex and "USD" in (item.symbol, item.currency)
    }
    for instrument in instruments:
        pair = (instrument.symbol, instrument.currency)
        if not instrument.is_forex:
            yield instrument, SyntheticDays(seed, instrument)
        elif pair in dollar_pairs:
            yield dollar_pairs[pair]
        else:
            base, quote = dollar_pairs[instrument.symbol, "USD"], instrument.currency
            divides = (quote, "USD") in dollar_pairs
            other = dollar_pairs[(quote, "USD") if divides else ("USD", quote)]
            yield instrument, CrossDays(base, other, instrument.min_tick, divides=divides)


class CrossDays:
    """Bars and paths of a cross.

    :param base: the first currency in USD, and its days. :param other: the second one in USD (`divides`), or USD in it.
    :ivar pairs: those two.
    """

    def __init__(
        self, base: tuple[Instrument, Days], other: tuple[Instrument, Days], tick: Decimal, *, divides: bool
    ) -> None:
        self.pairs = base[0], other[0]
        self._base, self._other, self._tick, self._divides = base[1], other[1], float(tick), divides

    def bar(self, day: date) -> DayBar | None:
        base, other = self._base.bar(day), self._other.bar(day)
        if base is None or other is None:
            return None
        first, last = self._cross(base.open, other.open), self._cross(base.close, other.close)
        # The two seldom reach their extremes at once: most of the way to what that would make.
        most, least = (other.low, other.high) if self._divides else (other.high, other.low)
        high = _between(max(first, last), self._cross(base.high, most))
        low = _between(min(first, last), self._cross(base.low, least))
        first, high, low, last = (rounded(price, self._tick) for price in (first, high, low, last))
        return DayBar(day, first, high, low, last, 0)

    def path(self, bar: DayBar, base: Path, other: Path) -> Path:
        """The cross of the two pairs' prices, second by second; the bar's high and low are where the cross has its own.

        :param bar: of that day.
        """
        exact = base / other if self._divides else base * other
        path = np.clip(np.round(np.round(exact / self._tick) * self._tick, 6), bar.low, bar.high)
        path[1 + int(np.argmax(exact[1:-1]))] = bar.high
        path[1 + int(np.argmin(exact[1:-1]))] = bar.low
        path[0], path[-1] = bar.open, bar.close
        return path

    def _cross(self, base: float, other: float) -> float:
        return base / other if self._divides else base * other


def _between(inner: float, outer: float) -> float:
    return inner + _REACH * (outer - inner)
