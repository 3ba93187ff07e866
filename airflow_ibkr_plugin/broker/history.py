"""Market data: what is cached is not asked for again, and nobody sees a bar that was not checked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.pacing import Pacing
from airflow_ibkr_plugin.errors import BrokerError, ConfigError, NoMarketData
from airflow_ibkr_plugin.store.bars import Bars
from airflow_ibkr_plugin.store.reconciliations import NoticedSplits
from airflow_ibkr_plugin.store.sql import current_time
from airflow_ibkr_plugin.trading.bar_checks import (
    BarReport,
    check_bars,
    complete,
    contradicts,
    drop_repeats,
    require_good,
    split_ratio,
)
from airflow_ibkr_plugin.trading.bars import BAR_SIZES, Bar, is_intraday
from airflow_ibkr_plugin.trading.calendars import FOREX
from airflow_ibkr_plugin.trading.durations import Duration, period, periods, requests, window
from airflow_ibkr_plugin.trading.market_hours import default_calendar
from airflow_ibkr_plugin.trading.pacing import HistoryRequest

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.instruments import Instrument

log = logging.getLogger(__name__)

# Cached bars that are asked for again beside what is missing, so that a split shows; and how far off they may lie.
_OVERLAP = 3
_NEAR = {"1 week": timedelta(days=35), "1 month": timedelta(days=130)}
_NEAR_OTHERS = timedelta(days=10)
# Pairs of currencies, and any bars of seconds, may lack bars in which nothing was quoted or traded.
_QUIET = timedelta(minutes=15)
# A bar that has ended just now may not be there yet.
_DELIVERY = timedelta(seconds=30)
_MOST_REQUESTS = 60
# Extended trading goes on that long after the close (US stocks: 16:00 to 20:00); a day's bar is complete behind it.
_AFTER_HOURS = timedelta(hours=4)


@dataclass(frozen=True, kw_only=True)
class BarsRequest:
    """Which bars are wanted, in IBKR's words.

    :param duration: whole bars only; days count complete sessions, see docs/market-data.md.
    :param end: aware; None for the broker's now. Only bars that are complete by then are returned.
    :param calendar: exchange calendar for an instrument whose exchange has none that is known here.
    """

    bar_size: str = "1 day"
    duration: str = "1 Y"
    what: str = "TRADES"
    use_rth: bool = True
    end: datetime | None = None
    calendar: str = ""


@dataclass(frozen=True, kw_only=True)
class BarsResult:
    """Checked, complete bars, oldest first, at least one.

    :param fetched: how many of them came from the broker just now; :param cached: how many did not.
    :param source: where they come from, such as `simulator:ibkr_default`.
    :param first, last: start of the first and of the last bar.
    """

    bars: list[Bar] = field(repr=False)
    fetched: int
    cached: int
    report: BarReport
    source: str
    first: datetime
    last: datetime


def fetch_bars(
    session: BrokerSession,
    database: Database,
    instrument: Instrument,
    request: BarsRequest,
    *,
    pacing: Pacing | None = None,
) -> BarsResult:
    """The requested bars: from the trading database, what is missing there from the broker, all of them checked.

    :raises NoMarketData: the broker has none.
    :raises BadBars: gaps, duplicates, impossible prices or a series that ends too early; nothing of it is cached.
    :raises PacingViolation: the limits for historical requests are reached; `retry_after` says when to try again.
    :raises BrokerError: the broker could not be asked. As with PacingViolation, what has come by then is cached, so
        that the next try goes on from there.
    :raises ConfigError: bar size, duration or calendar cannot be used.
    """
    pacing = pacing or Pacing(database, session.spec.address)
    return _Fetch(session, database, instrument, request, pacing).run()


class _Fetch:
    def __init__(
        self,
        session: BrokerSession,
        database: Database,
        instrument: Instrument,
        request: BarsRequest,
        pacing: Pacing,
    ) -> None:
        if request.bar_size not in BAR_SIZES:
            raise ConfigError(
                f"{request.bar_size!r} is no bar size of IBKR.", remedy=f"Use one of: {', '.join(BAR_SIZES)}."
            )
        self.duration = Duration.parse(request.duration)
        self.calendar = default_calendar(instrument) or request.calendar
        if not self.calendar:
            exchange = instrument.primary_exchange or instrument.exchange
            raise ConfigError(
                f"no exchange calendar is known for {exchange}, so the bars of {instrument.name} could not be checked.",
                remedy="Name one as `calendar` of the workflow, such as XNYS.",
            )
        self.session, self.database, self.instrument, self.pacing = session, database, instrument, pacing
        self.request, self.size = request, request.bar_size
        self.name = f"{instrument.name} ({self.size}, {request.what})"
        self.series = (session.source, instrument.con_id, self.size, request.what, request.use_rth)
        self.quiet = _QUIET if self.calendar == FOREX or BAR_SIZES[self.size] < timedelta(minutes=1) else timedelta(0)
        now = session.now()
        self.until = min(request.end or now, now)
        if not request.use_rth and not is_intraday(self.size) and self.calendar != FOREX:
            self.until -= _AFTER_HOURS
        self.start, self.expected = window(self.duration, self.until, self.calendar, self.size)
        near = _NEAR.get(self.size, _NEAR_OTHERS)
        self.span = (self.start - near, min(self.until + near, now))
        #: The periods of the window and of its neighbourhood: requests reach into it, to overlap what is cached.
        self.around = [
            p
            for p in periods(self.span[0].date(), self.span[1].date() + timedelta(days=1), self.calendar, self.size)
            if p.open < self.span[1]
        ]
        self.by_date = {p.date: p for p in self.around}

    def run(self) -> BarsResult:
        with self.database.read() as transaction:
            stored = Bars(transaction).load(*self.series, self.span[0], self.span[1] + timedelta(days=1))
        # A simulated clock may have been set back since.
        known = [bar for bar in stored if self._bounds(bar)[1] <= self.span[1]]
        fetched, reason = self._fetch(known)
        split = split_ratio(known, fetched) if reason else None
        known = [] if reason else known
        merged = {bar.time: bar for bar in known} | {bar.time: bar for bar in fetched}
        bars = [merged[at] for at in sorted(merged) if self._inside(merged[at])]
        if not bars:
            raise NoMarketData(
                f"{self.name}: the broker has no complete bar in the {self.duration} before {self.until}.",
                remedy="Check the symbol, the account's market data subscriptions, and the duration.",
            )
        report = self._check(bars, now=self.until - _DELIVERY if is_intraday(self.size) else self.until)
        require_good(report, self.name)
        for warning in report.warnings:
            log.warning("%s: %s", self.name, warning)
        self._save(fetched, replace=bool(reason), split=split)
        new = {bar.time for bar in fetched}
        count = sum(bar.time in new for bar in bars)
        return BarsResult(
            bars=bars,
            fetched=count,
            cached=len(bars) - count,
            report=report,
            source=self.session.source,
            first=bars[0].time,
            last=bars[-1].time,
        )

    def _fetch(self, known: Sequence[Bar]) -> tuple[list[Bar], str]:
        """What the broker has of what is missing, oldest first; with a reason if it takes the place of all known."""
        found: dict[datetime, Bar] = {}
        reason = ""
        try:
            for start, end in self._missing(known):
                self._ask(start, end, found, has_some=bool(known))
            if reason := self._inconsistent(known, _in_order(found)):
                log.warning("%s: %s; all bars are fetched again", self.name, reason)
                known = []
                found.clear()
                self._ask(self.start, self.until, found, has_some=False)
        except BrokerError:  # it has cost its share of IBKR's budget
            self._keep(known, _in_order(found), replaces=bool(reason))
            raise
        return _in_order(found), reason

    def _keep(self, known: Sequence[Bar], found: Sequence[Bar], *, replaces: bool) -> None:
        """Cache what has come before the rest must wait, or the connection was lost.

        What is missing between will be asked for next time.
        """
        inside = [bar for bar in found if self._inside(bar)]
        if not inside:
            return
        report = self._check(inside, now=self.until)
        require_good(replace(report, gaps=(), stale=None), self.name)
        inconsistent = replaces or bool(self._inconsistent(known, found))
        self._save(found, replace=inconsistent, split=split_ratio(known, found) if inconsistent else None)

    # --- what is missing ----------------------------------------------------------------------------------

    def _missing(self, known: Sequence[Bar]) -> Iterator[tuple[datetime, datetime]]:
        """Stretches to ask for, each reaching over some cached bars beside it."""
        inside = [bar for bar in known if self._inside(bar)]
        if not inside:
            yield self._widened(self.start, self.until, known)
            return
        report = self._check(inside, now=self.until)
        # However quiet the market may be, ask for what may be there by now.
        stale = self._check(inside, now=self.until, quiet=timedelta(0)).stale
        if report.gaps:
            # A hole in the cache lies between two windows that were asked for at different times.
            yield self._widened(
                self.start if report.late_start else report.gaps[0].start,
                self.until if stale else report.gaps[-1].end,
                known,
            )
            return
        if report.late_start:
            yield self._widened(self.start, report.late_start.end, known)
        if stale:
            yield self._widened(stale.start, self.until, known)

    def _widened(self, start: datetime, end: datetime, known: Sequence[Bar]) -> tuple[datetime, datetime]:
        before = [bar for bar in known if self._bounds(bar)[1] <= start][-_OVERLAP:]
        after = [bar for bar in known if self._bounds(bar)[0] >= end][:_OVERLAP]
        return (
            self._bounds(before[0])[0] if before else start,
            self._bounds(after[-1])[1] if after else end,
        )

    def _bounds(self, bar: Bar) -> tuple[datetime, datetime]:
        """When a bar begins and ends: its period, where it is a day or longer."""
        if is_intraday(self.size):
            return bar.time, bar.time + BAR_SIZES[self.size]
        found = self.by_date.get(period(bar.time.date(), self.size)[0])
        return (found.open, found.close) if found else (bar.time, bar.time + timedelta(days=1))

    def _inside(self, bar: Bar) -> bool:
        begin, end = self._bounds(bar)
        return begin >= self.start and (is_intraday(self.size) or end <= self.until) and begin < self.until

    # --- the broker ---------------------------------------------------------------------------------------

    def _ask(self, start: datetime, end: datetime, found: dict[datetime, Bar], *, has_some: bool) -> None:
        """Add the complete bars of a stretch of time to those found, each answer checked by itself.

        :param has_some: whether there are others, so that an empty stretch is no error yet; the check decides.
        """
        asked = requests(start, end, self.around, self.size)
        if len(asked) > _MOST_REQUESTS:
            raise ConfigError(
                f"{self.name}: {self.duration} would take {len(asked)} requests of IBKR.",
                remedy=f"Ask for larger bars or a shorter duration, at most {_MOST_REQUESTS} requests.",
            )
        some = False
        empty: NoMarketData | None = None
        for part in asked:
            try:
                answer = self._answer(part.duration, part.end)
            except NoMarketData as error:
                log.warning("%s", error)
                empty = error
                continue
            bars = {bar.time: bar for bar in answer if self._bounds(bar)[0] >= part.start}
            some = some or bool(bars)
            found |= bars
        if empty and not some and not has_some:
            raise empty

    def _answer(self, duration: str, end: datetime) -> list[Bar]:
        request = HistoryRequest(
            con_id=self.instrument.con_id,
            what=self.request.what,
            bar_size=self.size,
            duration=duration,
            # "Now" is the broker's to say; a moment that is given must not lie in its future.
            end=None if end == self.until and self.request.end is None else end,
            use_rth=self.request.use_rth,
        )
        answer = self.pacing.history(self.session, self.instrument, request)
        bars = drop_repeats(answer)
        if len(bars) < len(answer):
            log.warning("%s: the broker sent %d bars twice", self.name, len(answer) - len(bars))
        # What else is wrong with an answer must not vanish when it is merged with others.
        require_good(check_bars(bars, bar_size=self.size, expected=(), now=self.until), self.name)
        return complete(bars, bar_size=self.size, expected=self.around, now=min(end, self.span[1]))

    # --- checks and storage -------------------------------------------------------------------------------

    def _inconsistent(self, known: Sequence[Bar], fetched: Sequence[Bar]) -> str:
        if ratio := split_ratio(known, fetched):
            return f"cached prices are {ratio:.4g} times the broker's, a split"
        if contradicts(known, fetched):
            return "cached prices are not the broker's"
        return ""

    def _check(self, bars: Sequence[Bar], *, now: datetime, quiet: timedelta | None = None) -> BarReport:
        return check_bars(
            bars,
            bar_size=self.size,
            expected=self.expected,
            now=now,
            start=self.start,
            quiet=self.quiet if quiet is None else quiet,
        )

    def _save(self, fetched: Sequence[Bar], *, replace: bool, split: float | None = None) -> None:
        if not fetched:
            return
        with self.database.write() as transaction:
            if replace:
                Bars(transaction).delete(*self.series)
            if split is not None:  # the cache will not show it any more, and positions must follow it too
                NoticedSplits(transaction).add(
                    self.session.source, self.instrument.con_id, split, current_time(transaction)
                )
            Bars(transaction).save(*self.series, fetched)


def _in_order(found: Mapping[datetime, Bar]) -> list[Bar]:
    return [found[at] for at in sorted(found)]
