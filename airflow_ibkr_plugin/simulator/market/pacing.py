"""IBKR's limits for requests of history, counted for the whole gateway.

Source: TWS API, "Historical Data Limitations". They hold for bars of 30 seconds or less and for ticks; for larger bars
IBKR has lifted them. They are counted in real time, as IBKR does: a simulated clock that stands still or jumps neither
keeps a client waiting for ever nor lets it hurry.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

#: Bars up to so many seconds are limited.
SMALL = 30
#: Two identical requests are so many seconds apart.
IDENTICAL = 15.0
#: Six requests for one contract, exchange and tick type within two seconds are one too many.
OF_ONE_SERIES, SERIES_SECONDS = 6, 2.0
#: No more than so many in ten minutes.
IN_ALL, ALL_SECONDS = 60, 600.0
#: Requests that may be open at once, of any bar size.
OPEN_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was let through.

    :param series: contract, exchange and tick type. :param key: equal for identical requests.
    """

    at: float
    series: Hashable
    key: Hashable
    weight: int


class Pacing:
    """Counts requests of one kind. Those that it refuses are not counted.

    :ivar on: whether it refuses any.
    :ivar counted: weights of those let through since it was switched on; :ivar refused: number of the others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent: deque[Sent] = deque()
        self.on = True
        self.counted = self.refused = 0

    def switch(self, *, on: bool) -> None:
        """Refuse from now on, or no more; what was sent before is forgotten."""
        self.on = on
        self._sent.clear()
        self.counted = self.refused = 0

    def take(self, series: Hashable, key: Hashable, weight: int = 1) -> bool:
        """Count a request; False if it comes too soon.

        :param weight: how often it counts: a BID_ASK request twice.
        """
        if not self.on:
            return True
        if self._may(series, key, weight):
            self.counted += weight
            return True
        self.refused += 1
        return False

    def _may(self, series: Hashable, key: Hashable, weight: int) -> bool:
        now = self._clock()
        while self._sent and now - self._sent[0].at >= ALL_SECONDS:
            self._sent.popleft()
        if sum(sent.weight for sent in self._sent) + weight > IN_ALL:
            return False
        lately = [sent for sent in self._sent if now - sent.at < IDENTICAL]
        if any(sent.key == key for sent in lately):
            return False
        close = sum(sent.weight for sent in lately if sent.series == series and now - sent.at < SERIES_SECONDS)
        if close + weight >= OF_ONE_SERIES:
            return False
        self._sent.append(Sent(now, series, key, weight))
        return True
