"""Synthetic days of currency crosses: what the pairs with USD imply. Within a day each pair goes its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.days import DayBar, Days, SyntheticDays


def synthetic_days(instruments: Sequence[Instrument], seed: int) -> Iterator[tuple[Instrument, Days]]:
    """Each instrument with its days. A pair without USD is made of the two pairs that have it."""
    dollar_pairs = {
        (item.symbol, item.currency): SyntheticDays(seed, item)
        for item in instruments
        if item.is_forex and "USD" in (item.symbol, item.currency)
    }
    for instrument in instruments:
        pair = (instrument.symbol, instrument.currency)
        if not instrument.is_forex:
            yield instrument, SyntheticDays(seed, instrument)
        elif pair in dollar_pairs:
            yield instrument, dollar_pairs[pair]
        else:
            base, quote = dollar_pairs[instrument.symbol, "USD"], instrument.currency
            divides = (quote, "USD") in dollar_pairs
            other = dollar_pairs[(quote, "USD") if divides else ("USD", quote)]
            yield instrument, CrossDays(base, other, instrument.min_tick, divides=divides)


class CrossDays:
    """Bars of a cross.

    :param base: the first currency in USD. :param other: the second one in USD (`divides`), or USD in it.
    """

    def __init__(self, base: Days, other: Days, tick: Decimal, *, divides: bool) -> None:
        self._base, self._other, self._tick, self._divides = base, other, float(tick), divides

    def bar(self, day: date) -> DayBar | None:
        base, other = self._base.bar(day), self._other.bar(day)
        if base is None or other is None:
            return None
        first, last = self._cross(base.open, other.open), self._cross(base.close, other.close)
        # The two do not reach their extremes at once: half of what each strays beyond open and close.
        up, down = _strays(base)
        other_up, other_down = _strays(other)[::-1] if self._divides else _strays(other)
        high, low = max(first, last) * (1 + (up + other_up) / 2), min(first, last) * (1 - (down + other_down) / 2)
        return DayBar(day, self._round(first), self._round(high), self._round(low), self._round(last), 0)

    def _cross(self, base: float, other: float) -> float:
        return base / other if self._divides else base * other

    def _round(self, price: float) -> float:
        return round(round(price / self._tick) * self._tick, 6)


def _strays(bar: DayBar) -> tuple[float, float]:
    """How far above and below its open and close a day went, as parts of them."""
    return bar.high / max(bar.open, bar.close) - 1, 1 - bar.low / min(bar.open, bar.close)
