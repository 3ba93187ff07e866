"""Where a day's prices come from: a seed, or a recording."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import numpy as np

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument

# Synthetic closes are a mean-reverting walk over calendar days, so that any two dates can be asked for and no price
# drifts away: log(close/level) follows x[n+1] = PULL * x[n] + volatility * noise.
_FIRST_DAY = date(1980, 1, 1).toordinal()
_LAST_DAY = date(2100, 1, 1).toordinal()
_PULL = 0.995
_KEPT_BARS = 5000


@dataclass(frozen=True, slots=True)
class DayBar:
    """A whole session: prices in the instrument's currency, volume in shares."""

    day: date
    open: float
    high: float
    low: float
    close: float
    volume: int

    def split(self, ratio: float, tick: float) -> DayBar:
        """As it is told after a split of `ratio` new shares for one: prices on the grid."""
        prices = (self.open, self.high, self.low, self.close)
        first, high, low, last = (rounded(price / ratio, tick) for price in prices)
        return DayBar(self.day, first, high, low, last, round(self.volume * ratio))


class Days(Protocol):
    """Where a day's bar comes from."""

    def bar(self, day: date) -> DayBar | None:
        """The whole session's bar; None if there is none for that day."""


class RecordedDays:
    """Bars that were recorded."""

    def __init__(self, days: Mapping[date, DayBar]) -> None:
        self._days = days

    def bar(self, day: date) -> DayBar | None:
        return self._days.get(day)


class SyntheticDays:
    """Bars made from the seed."""

    def __init__(self, seed: int, instrument: Instrument) -> None:
        self._key = f"{seed}|{instrument.con_id}"
        self._instrument = instrument
        self._tick = float(instrument.min_tick)
        self._walk: list[float] = []
        self._bars: dict[date, DayBar] = {}

    def bar(self, day: date) -> DayBar | None:
        bar = self._bars.get(day)
        if bar is None and (bar := self._make_bar(day)) is not None:
            if len(self._bars) >= _KEPT_BARS:
                self._bars.clear()
            self._bars[day] = bar
        return bar

    def _make_bar(self, day: date) -> DayBar | None:
        if not self._walk:
            self._walk = self._make_walk()
        at = day.toordinal() - _FIRST_DAY
        if not 0 < at < len(self._walk):
            return None
        noise = np.random.RandomState(hash_of(self._key, day.isoformat())).standard_normal(4)
        level, sigma = self._instrument.level, self._instrument.volatility
        first = level * math.exp(self._walk[at - 1] + 0.2 * sigma * noise[0])
        last = level * math.exp(self._walk[at])
        high = max(first, last) * math.exp(0.4 * sigma * abs(noise[1]))
        low = min(first, last) * math.exp(-0.4 * sigma * abs(noise[2]))
        volume = int(self._instrument.volume * math.exp(0.25 * noise[3]))
        first, high, low, last = (rounded(price, self._tick) for price in (first, high, low, last))
        return DayBar(day, first, high, low, last, volume)

    def _make_walk(self) -> list[float]:
        noise = np.random.RandomState(hash_of(self._key)).standard_normal(_LAST_DAY - _FIRST_DAY)
        walk, x = [], 0.0
        for step in noise * self._instrument.volatility:
            x = _PULL * x + step
            walk.append(x)
        return walk


def rounded(price: float, tick: float) -> float:
    """The next price on the grid."""
    return round(round(price / tick) * tick, 6)


def hash_of(*names: str) -> int:
    """The same number for the same names, in any process."""
    return zlib.crc32("|".join(names).encode())
