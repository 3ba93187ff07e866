"""IBKR's documented limits for historical requests, kept by this process, and the record of when they bit.

Source: TWS API, "Historical Data Limitations": no identical request within 15 seconds, fewer than 6 for one contract,
exchange and tick type within 2 seconds, at most 60 in 10 minutes for bars of 30 seconds or less, BID_ASK counted twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.trading.bars import BAR_SIZES

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_ibkr_plugin.errors import PacingViolation
    from airflow_ibkr_plugin.store.database import Database

log = logging.getLogger(__name__)

IDENTICAL_SECONDS = 15.0
CONTRACT_REQUESTS, CONTRACT_SECONDS = 5, 2.0
SMALL_REQUESTS, SMALL_SECONDS = 60, 600.0
SMALL_BARS = timedelta(seconds=30)


class _Window:
    """At most `limit` within `seconds`."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._times: deque[float] = deque()

    def wait(self, now: float) -> float:
        """Seconds until one more is allowed."""
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        return 0.0 if len(self._times) < self._limit else self._times[0] + self._seconds - now

    def take(self, now: float) -> None:
        self._times.append(now)


class Pacer:
    """Keeps the limits of one gateway connection. Thread-safe.

    :param clock, sleep: of the monotonic kind; a test brings its own.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._identical: dict[Hashable, _Window] = {}
        self._contract: dict[Hashable, _Window] = {}
        self._small = _Window(SMALL_REQUESTS, SMALL_SECONDS)

    def acquire(self, *, con_id: int, what: str, bar_size: str, duration: str, end: datetime | None) -> float:
        """Wait until the request is allowed, and count it. Returns the seconds that were waited, at most 600."""
        windows = [
            self._identical.setdefault((con_id, what, bar_size, duration, end), _Window(1, IDENTICAL_SECONDS)),
            self._contract.setdefault((con_id, what), _Window(CONTRACT_REQUESTS, CONTRACT_SECONDS)),
        ]
        if BAR_SIZES[bar_size] <= SMALL_BARS:
            windows.append(self._small)
        waited = 0.0
        while True:
            with self._lock:
                now = self._clock()
                wait = max(window.wait(now) for window in windows)
                if wait <= 0:
                    for window in windows:
                        window.take(now)
                    return waited
            self._sleep(wait)
            waited += wait


def record_violation(
    database: Database, source: str, request: str, error: PacingViolation, waited: float, at: datetime
) -> None:
    """Store and log that the broker said we ask too much."""
    from airflow_ibkr_plugin.store.pacing_events import PacingEvents

    log.warning("%s: %s", request, error)
    with database.write() as session:
        PacingEvents(session).add(source, request, error.code, error.message, waited, at)
