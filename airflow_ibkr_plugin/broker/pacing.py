"""IBKR's limits for historical requests, kept for the whole installation, and the record of when they bit.

Source of the limits: TWS API, "Historical Data Limitations". They count for bars of 30 seconds or less; for larger bars
IBKR has lifted them. Tasks are processes of their own, so what was sent lately is remembered in the trading database.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import PacingViolation
from airflow_ibkr_plugin.store.pacing_events import PacingEvents
from airflow_ibkr_plugin.trading.bars import BAR_SIZES

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.bars import Bar
    from airflow_ibkr_plugin.trading.instruments import Instrument

log = logging.getLogger(__name__)

LIMITED = timedelta(seconds=30)  # bars up to this size are limited
IDENTICAL = timedelta(seconds=15)  # between two identical requests
PER_CONTRACT, CONTRACT_WINDOW = 5, timedelta(seconds=2)  # six of one contract and tick type are one too many
IN_ALL, WINDOW = 60, timedelta(minutes=10)
# What reaches IBKR may lie closer together than what we sent.
_JITTER = timedelta(seconds=0.5)
# A worker slot is held for so long at most; then Airflow retries, after the rest of the wait.
MOST_WAIT = 30.0
# IBKR does not say which limit a violation broke. After this wait all but the long window are free again.
_VIOLATION_WAIT = (IDENTICAL + _JITTER).total_seconds()


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRequest:
    """One request for history as IBKR counts it; `end` None means now."""

    con_id: int
    what: str
    bar_size: str
    duration: str
    end: datetime | None
    use_rth: bool

    @property
    def series(self) -> str:
        """What the limit per contract, exchange and tick type counts by."""
        return f"{self.con_id} {self.what} "

    @property
    def key(self) -> str:
        """Two requests with the same key are identical."""
        hours = "regular" if self.use_rth else "all"
        end = self.end.isoformat() if self.end else "now"
        return f"{self.series}{self.bar_size}, {self.duration} to {end}, {hours} hours"

    @property
    def weight(self) -> int:
        """IBKR counts a BID_ASK request twice."""
        return 2 if self.what == "BID_ASK" else 1


def wait_for(request: HistoryRequest, sent: Iterable[tuple[str, datetime]], now: datetime) -> timedelta:
    """How long to wait before a request may be sent; zero or less: not at all. Pure.

    :param sent: key and time of what was sent in the last ten minutes, oldest first, a request of weight two twice.
    """
    past = list(sent)
    free = [at + IDENTICAL for key, at in past if key == request.key]
    of_series = [at for key, at in past if key.startswith(request.series)]
    for times, most, span in ((of_series, PER_CONTRACT, CONTRACT_WINDOW), ([at for _, at in past], IN_ALL, WINDOW)):
        # With the request itself, no more than `most` may lie in any window.
        over = len(times) - (most - request.weight)
        if over > 0:
            free.append(times[over - 1] + span)
    return max(free) + _JITTER - now if free else timedelta(0)


class Pacing:
    """Sends requests for history no faster than IBKR allows.

    :param source: of the broker session; each has limits of its own.
    :param clock, sleep: UTC now and time.sleep, unless a test brings others. IBKR counts in real time, so this is never
        the broker's clock, which may be simulated.
    :param most_wait: seconds that one request waits at most.
    """

    def __init__(
        self,
        database: Database,
        source: str,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
        most_wait: float = MOST_WAIT,
    ) -> None:
        self._database = database
        self._source = source
        self._clock = clock
        self._sleep = sleep
        self._most_wait = most_wait

    def history(self, session: BrokerSession, instrument: Instrument, request: HistoryRequest) -> list[Bar]:
        """`session.history`, paced. A violation is waited out once, stored, and raised the second time.

        :raises PacingViolation: the broker said so, or the wait would be too long; `retry_after` says when to try.
        """
        while True:
            waited = self._acquire(request)
            try:
                return session.history(
                    instrument,
                    bar_size=request.bar_size,
                    duration=request.duration,
                    end=request.end,
                    what=request.what,
                    use_rth=request.use_rth,
                )
            except PacingViolation as error:
                self._violated(request, error, waited)

    def _violated(self, request: HistoryRequest, error: PacingViolation, waited: float) -> None:
        with self._database.write() as transaction:
            events = PacingEvents(transaction)
            # Whoever asked, in whatever task: the second violation within the window is not waited out.
            lately = events.recent(self._source, self._clock() - WINDOW)
            again = any(event.code is not None for event in lately)
            wait = 0.0 if again else min(_VIOLATION_WAIT, self._most_wait)
            events.add(self._source, request.key, error.code or 0, error.message, waited + wait, self._clock())
        if again:
            log.warning("pacing violation again: %s", request.key)
            raise error
        log.warning("pacing violation, waiting %.1f s: %s", wait, request.key)
        self._sleep(wait)

    def _acquire(self, request: HistoryRequest) -> float:
        """Wait until the request is allowed and note it as sent, before it is; returns the seconds waited."""
        waited = 0.0
        if BAR_SIZES[request.bar_size] > LIMITED:
            return waited
        while True:
            with self._database.write(serialize=f"pacing:{self._source}") as transaction:
                now = self._clock()
                events = PacingEvents(transaction)
                sent = [
                    (event.request, event.at)
                    for event in events.recent(self._source, now - WINDOW - _JITTER)
                    if event.code is None
                ]
                wait = wait_for(request, sent, now).total_seconds()
                if wait <= 0:
                    for _ in range(request.weight):
                        events.add(self._source, request.key, None, "sent", waited, now)
                    return waited
            if waited + wait > self._most_wait:
                raise PacingViolation(
                    f"IBKR's limits for bars of 30 seconds or less leave no room for {request.key} for {wait:.0f} s.",
                    remedy="Ask for less at once, or for larger bars.",
                    retry_after=wait,
                )
            log.info("pacing: waiting %.1f s before %s", wait, request.key)
            self._sleep(wait)
            waited += wait
