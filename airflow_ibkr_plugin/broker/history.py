"""Market data: what is cached is not asked for again, what comes is checked before anyone sees it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.pacing import Pacer, record_violation
from airflow_ibkr_plugin.errors import NoMarketData, PacingViolation
from airflow_ibkr_plugin.store.bars import Bars
from airflow_ibkr_plugin.trading.bar_checks import BarReport, check_bars, completed, require_good, split_ratio
from airflow_ibkr_plugin.trading.bars import BAR_SIZES, Bar, is_intraday
from airflow_ibkr_plugin.trading.durations import covering, earliest_day, first_session
from airflow_ibkr_plugin.trading.market_hours import Session, default_calendar, sessions

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.instruments import Instrument

log = logging.getLogger(__name__)

# Bars that are asked for again beside what is missing, so that a split shows.
_OVERLAP = 2


@dataclass(frozen=True, kw_only=True)
class BarsRequest:
    """Which bars are wanted; the words are IBKR's.

    :param end: aware; None for the broker's now. Only bars that are over by then are returned.
    """

    bar_size: str = "1 day"
    duration: str = "1 Y"
    what: str = "TRADES"
    use_rth: bool = True
    end: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class BarsResult:
    """Checked bars, oldest first, at least one; how many came from the broker just now and how many from the cache.

    :param source: where they come from, such as `simulator:ibkr_default`.
    """

    bars: list[Bar] = field(repr=False)
    fetched: int
    cached: int
    report: BarReport
    source: str
    first: datetime
    last: datetime


def fetch_bars(session: BrokerSession, database: Database, instrument: Instrument, request: BarsRequest) -> BarsResult:
    """The requested bars: cached ones from the trading database, missing ones from the broker, all of them checked.

    :raises NoMarketData: the broker has none.
    :raises BadBars: gaps, duplicates, impossible prices, or a series that ends too early; nothing of it is cached.
    :raises PacingViolation: the broker says we ask too much; stored as an event.
    """
    return _Fetch(session, database, instrument, request).run()


class _Fetch:
    def __init__(
        self, session: BrokerSession, database: Database, instrument: Instrument, request: BarsRequest
    ) -> None:
        self.session = session
        self.database = database
        self.instrument = instrument
        self.request = request
        self.series = (session.source, instrument.con_id, request.bar_size, request.what, request.use_rth)
        self.now = session.now()
        self.end = min(request.end or self.now, self.now)
        self.calendar = default_calendar(instrument)
        self.sessions = self._sessions()
        opening = first_session(request.duration, self.end, self.sessions)
        self.start = self._bar_time(opening) if opening else _midnight(earliest_day(request.duration, self.end))

    def run(self) -> BarsResult:
        with self.database.read() as transaction:
            cached = Bars(transaction).load(*self.series, self.start, self.end)
        fetched = self._missing(cached)
        if fetched and (ratio := split_ratio(cached, fetched)):
            log.warning("%s: cached bars are off by %.4f (a split): all are fetched again", self._name, ratio)
            cached, fetched = [], self._ask(self.request.duration, self.request.end)
        merged = {bar.time: bar for bar in cached} | {bar.time: bar for bar in fetched}
        bars = [merged[at] for at in sorted(merged) if self.start <= at <= self.end]
        if not bars:
            raise NoMarketData(
                f"{self._name}: the broker has no complete {self.request.bar_size} bar in {self.request.duration}.",
                remedy="Check the symbol, the market data subscription, and `duration` and `bar_size`.",
            )
        report = check_bars(
            bars, bar_size=self.request.bar_size, sessions=self.sessions, calendar=self.calendar, now=self.end
        )
        require_good(report, self._name)
        self._save(fetched, replace=not cached)
        known = {bar.time for bar in cached}
        return BarsResult(
            bars=bars,
            fetched=len([bar for bar in fetched if bar.time not in known]),
            cached=len(cached),
            report=report,
            source=self.session.source,
            first=bars[0].time,
            last=bars[-1].time,
        )

    @property
    def _name(self) -> str:
        return self.instrument.name

    def _sessions(self) -> list[Session]:
        """Sessions from the earliest day of the duration to the end; none where the market's calendar is unknown."""
        if not self.calendar:
            log.warning("%s: no calendar for %s: gaps cannot be seen", self._name, self.instrument.primary_exchange)
            return []
        first = earliest_day(self.request.duration, self.end)
        return [s for s in sessions(first, self.end.date() + timedelta(days=2), self.calendar) if s.open < self.end]

    def _bar_time(self, session: Session) -> datetime:
        return session.open if is_intraday(self.request.bar_size) else _midnight(session.date)

    def _missing(self, cached: Sequence[Bar]) -> list[Bar]:
        """Ask the broker for what the cache lacks at its head and at its tail."""
        if not cached or BAR_SIZES[self.request.bar_size] > timedelta(days=1):
            return self._ask(self.request.duration, self.request.end)
        fetched: list[Bar] = []
        size = BAR_SIZES[self.request.bar_size]
        if cached[0].time > self.start:
            overlap = cached[min(_OVERLAP, len(cached)) - 1].time + size
            fetched += self._ask(covering(self.start, overlap), overlap)
        if self._due_after(cached[-1].time):
            overlap = cached[-min(_OVERLAP, len(cached))].time
            fetched += self._ask(covering(overlap, self.end), self.request.end)
        return fetched

    def _due_after(self, last: datetime) -> bool:
        """Whether a further bar is complete by now."""
        size = BAR_SIZES[self.request.bar_size]
        if not self.sessions:
            return last + 2 * size <= self.end
        if is_intraday(self.request.bar_size):
            return any(
                max(s.open, last + size) + size <= min(s.close, self.end)
                for s in self.sessions
                if s.close > last + size
            )
        return any(s.date > last.date() and s.close <= self.end for s in self.sessions)

    def _ask(self, duration: str, end: datetime | None) -> list[Bar]:
        request = self.request
        waited = _pacer(self.session.source).acquire(
            con_id=self.instrument.con_id, what=request.what, bar_size=request.bar_size, duration=duration, end=end
        )
        try:
            answer = self.session.history(
                self.instrument,
                bar_size=request.bar_size,
                duration=duration,
                end=end,
                what=request.what,
                use_rth=request.use_rth,
            )
        except PacingViolation as error:
            asked = f"{self._name} {request.bar_size} {duration} {request.what}"
            record_violation(self.database, self.session.source, asked, error, waited, datetime.now(UTC))
            raise
        # What the broker sends twice or out of order is a fault of its answer, and must not vanish in the merge.
        over = completed(answer, bar_size=request.bar_size, sessions=self.sessions, now=self.end)
        report = check_bars(over, bar_size=request.bar_size, sessions=(), calendar=self.calendar, now=self.end)
        if over:
            require_good(report, self._name)
        return over

    def _save(self, bars: Sequence[Bar], *, replace: bool) -> None:
        if not bars:
            return
        with self.database.write() as transaction:
            if replace:
                Bars(transaction).delete(*self.series)
            Bars(transaction).save(*self.series, bars)


@cache
def _pacer(source: str) -> Pacer:
    return Pacer()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), UTC)
