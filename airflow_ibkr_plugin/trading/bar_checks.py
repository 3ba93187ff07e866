"""Whether bars are complete and make sense: what stands between a broker's answer and a decision about money."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from statistics import median

from airflow_ibkr_plugin.errors import BadBars
from airflow_ibkr_plugin.trading.bars import BAR_SIZES, Bar, is_intraday
from airflow_ibkr_plugin.trading.market_hours import FOREX, Session

# Overlapping bars of one instrument may differ by corrections of the exchange, not by this much.
_SAME = 0.005
# Splits are this far from 1 at least (11 for 10); less is a dividend adjustment or a correction.
_SPLIT = 0.05
# A currency pair may be quiet for some bars on end; a listed instrument in its session is not expected to be.
_QUIET_BARS = 3
# Days on which currencies trade thinly or not at all.
_FOREX_HOLIDAYS = ((12, 25), (1, 1))


@dataclass(frozen=True, kw_only=True)
class BarReport:
    """What is wrong with a series of bars; `good` if nothing is.

    :param gaps: starts of missing bars (or the last bar before a hole, intraday).
    :param stale: why the series ends too early; '' if it does not.
    """

    count: int
    first: datetime | None
    last: datetime | None
    gaps: tuple[datetime, ...] = ()
    duplicates: tuple[datetime, ...] = ()
    unordered: tuple[datetime, ...] = ()
    bad_ohlc: tuple[datetime, ...] = ()
    stale: str = ""

    @property
    def good(self) -> bool:
        """Whether the bars may be used."""
        return self.count > 0 and not (self.gaps or self.duplicates or self.unordered or self.bad_ohlc or self.stale)


def check_bars(
    bars: Sequence[Bar], *, bar_size: str, sessions: Sequence[Session], calendar: str, now: datetime
) -> BarReport:
    """Hold bars against the sessions that they should cover.

    Gaps are looked for from the first bar on: a shorter history than was asked for is no gap. Weekly and monthly bars
    are only held against themselves.

    :param sessions: the market's sessions from the first bar's day to `now`, oldest first; empty if unknown.
    :param now: broker's clock, aware UTC.
    """
    times = [bar.time for bar in bars]
    steps = list(itertools.pairwise(times))
    gaps: tuple[datetime, ...] = ()
    stale = ""
    if bars and sessions and BAR_SIZES[bar_size] <= timedelta(days=1):
        check = _intraday if is_intraday(bar_size) else _daily
        gaps, stale = check(sorted(set(times)), bar_size, sessions, calendar, now)
    return BarReport(
        count=len(bars),
        first=times[0] if times else None,
        last=times[-1] if times else None,
        gaps=gaps,
        duplicates=tuple(b for a, b in steps if a == b),
        unordered=tuple(b for a, b in steps if a > b),
        bad_ohlc=tuple(bar.time for bar in bars if not _sane(bar)),
        stale=stale,
    )


def require_good(report: BarReport, name: str) -> None:
    """:raises BadBars: one message that names every kind of fault and where it first occurs."""
    if report.good:
        return
    faults = []
    for what, where in (
        ("missing", report.gaps),
        ("twice", report.duplicates),
        ("out of order", report.unordered),
        ("not a possible price range", report.bad_ohlc),
    ):
        if where:
            faults.append(f"{len(where)} bars {what}, first at {where[0]:%Y-%m-%d %H:%M} UTC")
    if report.stale:
        faults.append(report.stale)
    raise BadBars(
        f"the bars of {name} cannot be used: {'; '.join(faults) or 'there are none'}.",
        remedy="Nothing was cached from them; the next try asks the broker again.",
    )


def split_ratio(cached: Sequence[Bar], fetched: Sequence[Bar]) -> float | None:
    """New price over old price if the bars that both have differ by one constant factor: cached bars before a split.

    :returns: the factor; None if they agree, have no bar in common, or differ without one factor.
    """
    old = {bar.time: bar.close for bar in cached}
    ratios = [bar.close / old[bar.time] for bar in fetched if old.get(bar.time)]
    if not ratios:
        return None
    middle = median(ratios)
    constant = all(abs(ratio / middle - 1) <= _SAME for ratio in ratios)
    return middle if constant and abs(middle - 1) > _SPLIT else None


def completed(bars: Sequence[Bar], *, bar_size: str, sessions: Sequence[Session], now: datetime) -> list[Bar]:
    """The bars whose time is over: a bar that still forms changes, and must be neither cached nor decided by."""
    if is_intraday(bar_size):
        return [bar for bar in bars if bar.time + BAR_SIZES[bar_size] <= now]
    if BAR_SIZES[bar_size] > timedelta(days=1):
        return [bar for bar in bars if bar.time + BAR_SIZES[bar_size] <= now]
    closes = {session.date: session.close for session in sessions}
    return [bar for bar in bars if closes.get(bar.time.date(), bar.time + timedelta(days=1)) <= now]


def _sane(bar: Bar) -> bool:
    prices = (bar.open, bar.high, bar.low, bar.close)
    return (
        all(math.isfinite(price) and price > 0 for price in prices)
        and bar.low <= min(bar.open, bar.close)
        and bar.high >= max(bar.open, bar.close)
    )


def _daily(
    times: Sequence[datetime], bar_size: str, sessions: Sequence[Session], calendar: str, now: datetime
) -> tuple[tuple[datetime, ...], str]:
    due = [session.date for session in sessions if session.close <= now and not _may_miss(session.date, calendar)]
    have = {at.date() for at in times}
    missing = [day for day in due if times[0].date() <= day <= times[-1].date() and day not in have]
    stale = ""
    if due and due[-1] > times[-1].date():
        stale = f"the last bar is of {times[-1]:%Y-%m-%d}, the last session ended on {due[-1]}"
    return tuple(datetime.combine(day, time(0), UTC) for day in missing), stale


def _may_miss(day: date, calendar: str) -> bool:
    return calendar == FOREX and (day.month, day.day) in _FOREX_HOLIDAYS


def _intraday(
    times: Sequence[datetime], bar_size: str, sessions: Sequence[Session], calendar: str, now: datetime
) -> tuple[tuple[datetime, ...], str]:
    size = BAR_SIZES[bar_size] * (_QUIET_BARS if calendar == FOREX else 1)
    holes: list[datetime] = []
    stale = ""
    for session in sessions:
        if session.close <= times[0] or _may_miss(session.date, calendar):
            continue
        begun = max(session.open, times[0])
        end = min(session.close, now)
        inside = [at for at in times if session.open <= at < session.close]
        if begun >= end or (end - begun) < size:
            continue
        if not inside or inside[-1] + 2 * size < end:
            # The last session due ends too early: that is staleness, not a hole.
            if session.open <= now and session is _last_begun(sessions, now):
                stale = f"the last bar is of {times[-1]:%Y-%m-%d %H:%M} UTC, the broker's clock says {now:%H:%M} UTC"
            else:
                holes.append(inside[-1] if inside else session.open)
        marks = [begun, *inside]
        holes += [a for a, b in itertools.pairwise(marks) if b - a > size]
    return tuple(sorted(set(holes))), stale


def _last_begun(sessions: Sequence[Session], now: datetime) -> Session | None:
    return next((session for session in reversed(sessions) if session.open <= now), None)
