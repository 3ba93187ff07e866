"""Prices as a pure function of (seed, contract, time): the day's bar, and the path that is walked within it.

Synthetic and replayed instruments differ only in where a day's bar comes from. Within a session the price of each
second is a deterministic path that starts at the open, ends at the close, and touches high and low.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.crosses import CrossDays
from airflow_ibkr_plugin.simulator.market.days import DayBar, Days, hash_of
from airflow_ibkr_plugin.simulator.market.hours import Session, sessions_back

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Path = NDArray[np.float64]

# Paths kept: a day of seconds is 0.2 to 0.7 MB.
_KEPT_PATHS = 48
# How far a path strays between its anchors, as a part of the day's range.
_WANDER = 0.25


@dataclass(frozen=True, slots=True)
class Quote:
    """What the market shows at a second; bid and ask are on the price grid and within the day's range.

    :param day: the session the prices are of. :param size: shares of the last trade.
    :param previous_close: the close of the session before it.
    :param open, high, low, volume: of the session so far.
    """

    time: int
    day: date
    bid: float
    ask: float
    last: float
    size: int
    open: float
    high: float
    low: float
    volume: int
    previous_close: float | None


class Market:
    """The prices of all instruments. History is cut from them in another thread than fills are."""

    def __init__(self) -> None:
        self._days: dict[int, Days] = {}
        self._ratios: dict[int, float] = {}
        self._paths: OrderedDict[tuple[int, date, str, float], Path] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, instrument: Instrument, days: Days) -> None:
        """Price an instrument by those days."""
        self._days[instrument.con_id] = days

    def day_bar(self, instrument: Instrument, day: date) -> DayBar | None:
        """The whole session's bar. The caller sees to it that the session is over."""
        bar = self._days[instrument.con_id].bar(day)
        ratio = self._ratios.get(instrument.con_id, 1.0)
        return bar if bar is None or ratio == 1.0 else bar.split(ratio, float(instrument.min_tick))

    def split(self, instrument: Instrument, ratio: float) -> None:
        """From now on tell all prices, past ones too, as after a split of `ratio` new shares for one."""
        self._ratios[instrument.con_id] = self._ratios.get(instrument.con_id, 1.0) * ratio

    def path(self, instrument: Instrument, session: Session, start: int, end: int) -> Path:
        """Prices of the seconds start <= s < end, all within the (extended) session."""
        parts = []
        for part, first, last in (
            ("pre", session.pre, session.open),
            ("regular", session.open, session.close),
            ("post", session.close, session.post),
        ):
            low, high = max(start, first), min(end, last)
            if low < high:
                parts.append(self._part(instrument, session, part)[low - first : high - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0)

    def spread(self, instrument: Instrument, day: date, prices: Path) -> tuple[Path, Path]:
        """Bid and ask for prices of that day."""
        bar = self.day_bar(instrument, day)
        assert bar is not None
        return quote_sides(instrument, bar, prices)

    def last(self, instrument: Instrument, moment: float) -> float | None:
        """The last price of :meth:`quote` alone, which is much less work."""
        session = next(sessions_back(instrument.hours, moment, regular=False), None)
        if session is None:
            return None
        second = min(int(moment), session.post - 1)
        seen = self.path(instrument, session, second, second + 1)
        return float(seen[-1]) if len(seen) else None

    def quote(self, instrument: Instrument, moment: float) -> Quote | None:
        """What the market shows at that moment, or showed last before it; None before its first session."""
        begun = sessions_back(instrument.hours, moment, regular=False)
        session = next(begun, None)
        bar = self.day_bar(instrument, session.day) if session else None
        if session is None or bar is None:
            return None
        second = min(int(moment), session.post - 1)
        seen = self.path(instrument, session, session.pre, second + 1)
        bid, ask = quote_sides(instrument, bar, seen[-1:])
        before = next(begun, None)
        earlier = self.day_bar(instrument, before.day) if before else None
        return Quote(
            time=second,
            day=session.day,
            bid=float(bid[0]),
            ask=float(ask[0]),
            last=float(seen[-1]),
            size=trade_size(instrument, second),
            open=float(seen[0]),
            high=float(seen.max()),
            low=float(seen.min()),
            volume=volume_until(bar, session, second + 1),
            previous_close=earlier.close if earlier else None,
        )

    def _part(self, instrument: Instrument, session: Session, part: str) -> Path:
        ratio, tick = self._ratios.get(instrument.con_id, 1.0), float(instrument.min_tick)
        key = (instrument.con_id, session.day, part, ratio)
        with self._lock:
            if key in self._paths:
                self._paths.move_to_end(key)
                return self._paths[key]
        # A split changes the scale of a path and nothing else.
        days = self._days[instrument.con_id]
        bar = days.bar(session.day)
        if bar is None:
            return np.empty(0)
        random = np.random.RandomState(hash_of(str(instrument.con_id), session.day.isoformat(), part, repr(bar)))
        if isinstance(days, CrossDays):
            path = days.path(bar, *(self._part(pair, session, part) for pair in days.pairs))
        elif part == "regular":
            path = _walk_within(bar, session.traded, tick, random)
            if session.pause is not None:
                # Nothing trades in the break: the price before it stands still.
                at, seconds = session.pause[0] - session.open, session.pause[1] - session.pause[0]
                path = np.concatenate((path[:at], np.full(seconds, path[at - 1]), path[at:]))
        else:
            # Extended trading hovers around the open before it and the close after it.
            length, price = (
                (session.open - session.pre, bar.open) if part == "pre" else (session.post - session.close, bar.close)
            )
            path = _bridge(price, price, length, 0.1 * (bar.high - bar.low), random)
            path = _on_grid(path, bar, tick)
        if ratio != 1.0:
            path = np.round(np.round(path / ratio / tick) * tick, 6)
        with self._lock:
            self._paths[key] = path
            if len(self._paths) > _KEPT_PATHS:
                self._paths.popitem(last=False)
        return path


def quote_sides(instrument: Instrument, bar: DayBar, prices: Path) -> tuple[Path, Path]:
    """Bid and ask one tick off the price, on the grid, never outside the day's range."""
    tick = float(instrument.min_tick)
    low, high = _inner(bar, tick)
    grid = np.round(prices / tick)
    return (
        np.clip(np.round((grid - 1) * tick, 6), low, high),
        np.clip(np.round((grid + 1) * tick, 6), low, high),
    )


def trade_size(instrument: Instrument, second: int) -> int:
    """Shares of that second's trade, in round lots; also those of the bid."""
    return 100 * (1 + hash_of(str(instrument.con_id), str(second)) % 12)


def ask_size(instrument: Instrument, second: int) -> int:
    """Shares at the ask."""
    return 1300 - trade_size(instrument, second)


def volume_until(bar: DayBar, session: Session, moment: int) -> int:
    """Shares traded from the start of the extended session until before that second.

    The regular session trades the bar's volume, more at its ends than at noon; extended trading adds 1 % on each side.
    """
    past = min(max(moment, session.open), session.close) - session.open
    if session.pause is not None:
        past -= min(max(moment, session.pause[0]), session.pause[1]) - session.pause[0]
    regular = past / session.traded
    share = regular + math.sin(2 * math.pi * regular) / (4 * math.pi)
    extra = 0.0
    if session.pre < session.open:
        extra += (min(max(moment, session.pre), session.open) - session.pre) / (session.open - session.pre)
    if session.close < session.post:
        extra += (min(max(moment, session.close), session.post) - session.close) / (session.post - session.close)
    # The whole session must come out exact, not a share short by a rounding error of the sine.
    return round(bar.volume * share) + int(bar.volume * 0.01 * extra)


def _walk_within(bar: DayBar, length: int, tick: float, random: np.random.RandomState) -> Path:
    first = int(random.randint(1, length - 2))
    second = int(random.randint(first + 1, length - 1))
    high_first = bool(random.randint(2))
    anchors = [
        (0, bar.open),
        (first, bar.high if high_first else bar.low),
        (second, bar.low if high_first else bar.high),
        (length - 1, bar.close),
    ]
    path = np.empty(length)
    width = _WANDER * (bar.high - bar.low)
    for (start, from_price), (end, to_price) in itertools.pairwise(anchors):
        part = math.sqrt((end - start) / length)
        path[start : end + 1] = _bridge(from_price, to_price, end - start + 1, width * part, random)
    path = _on_grid(path, bar, tick)
    for at, price in anchors:
        path[at] = price
    return path


def _bridge(start: float, end: float, length: int, width: float, random: np.random.RandomState) -> Path:
    """A random path from start to end whose middle strays by about `width`."""
    steps: Path = np.cumsum(random.standard_normal(length))
    line: Path = np.linspace(0.0, 1.0, length)
    loose: Path = steps - steps[0] - line * (steps[-1] - steps[0])
    path: Path = start + line * (end - start) + loose * (2 * width / math.sqrt(length))
    return path


def _on_grid(path: Path, bar: DayBar, tick: float) -> Path:
    low, high = _inner(bar, tick)
    # Reflect what leaves the day's range once, cut what then still does.
    path = np.where(path > bar.high, 2 * bar.high - path, path)
    path = np.where(path < bar.low, 2 * bar.low - path, path)
    return np.clip(np.round(np.round(path / tick) * tick, 6), low, high)


def _inner(bar: DayBar, tick: float) -> tuple[float, float]:
    """The lowest and highest price on the grid within the day's range; the range itself where none is."""
    low = round(math.ceil(round(bar.low / tick, 6)) * tick, 6)
    high = round(math.floor(round(bar.high / tick, 6)) * tick, 6)
    return (low, high) if low <= high else (bar.low, bar.high)
