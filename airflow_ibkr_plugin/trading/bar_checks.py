"""Whether bars are complete and make sense: what stands between a broker's answer and a decision about money."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from airflow_ibkr_plugin.errors import BadBars
from airflow_ibkr_plugin.trading.bars import BAR_SIZES, Bar, is_intraday
from airflow_ibkr_plugin.trading.calendars import Session
from airflow_ibkr_plugin.trading.durations import period

# Bars of the same time that differ by less are corrected prints; by more, they are not of the same series.
_CORRECTION = 0.01
# All prices of a split differ by one factor, but for the rounding to ticks.
_ROUNDING = 0.005


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of trading time without bars: aware UTC, `end` exclusive; `bars` is how many belong there."""

    start: datetime
    end: datetime
    bars: int


@dataclass(frozen=True, kw_only=True)
class BarReport:
    """What was found in a series of bars. Times are starts of bars.

    :param gaps: between the first and the last bar.
    :param stale: what is missing behind the last bar: the series ends before the last complete bar of the market.
    :param late_start: what is missing before the first bar. No fault: the instrument may be younger.
    :param unexpected: bars where the market was closed.
    """

    count: int
    first: datetime | None
    last: datetime | None
    gaps: tuple[Gap, ...] = ()
    duplicates: tuple[datetime, ...] = ()
    unordered: tuple[datetime, ...] = ()
    bad_ohlc: tuple[datetime, ...] = ()
    unexpected: tuple[datetime, ...] = ()
    stale: Gap | None = None
    late_start: Gap | None = None
    warnings: tuple[str, ...] = ()


def check_bars(
    bars: Sequence[Bar],
    *,
    bar_size: str,
    expected: Sequence[Session],
    now: datetime,
    start: datetime | None = None,
    quiet: timedelta = timedelta(0),
) -> BarReport:
    """Hold bars against themselves and against the market's sessions.

    :param bars: as the broker or the cache gave them, complete bars only.
    :param expected: the sessions (see `durations.periods`) that the bars should cover; empty: look at the bars only.
    :param now: the broker's clock, aware UTC; nothing is expected that is not complete by then.
    :param start: bars are expected from here on; None for the first session's open.
    :param quiet: how long the market may trade nothing in its hours. Where that is more than nothing (forex), the
        calendar is a rule of thumb, and daily bars on its holidays are accepted too.
    """
    times = [bar.time for bar in bars]
    missing = find_gaps(bars, bar_size=bar_size, expected=expected, now=now, start=start, quiet=quiet)
    opens = {session.date: session.open for session in expected} if not is_intraday(bar_size) else {}
    begins = [opens.get(period(bar.time.date(), bar_size)[0], bar.time) for bar in bars]
    head = [gap for gap in missing if bars and gap.end <= begins[0]]
    tail = [gap for gap in missing if bars and gap.start > begins[-1]]
    late_start = _whole(head)
    warnings = []
    if late_start:
        warnings.append(f"the history begins on {times[0]:%Y-%m-%d}, {late_start.bars} bars later than asked for")
    return BarReport(
        count=len(bars),
        first=min(times, default=None),
        last=max(times, default=None),
        gaps=tuple(gap for gap in missing if gap not in head and gap not in tail),
        duplicates=tuple(b for a, b in pairwise(times) if a == b),
        unordered=tuple(b for a, b in pairwise(times) if a > b),
        bad_ohlc=tuple(bar.time for bar in bars if not _is_sane(bar)),
        unexpected=() if quiet else _unexpected(bars, bar_size, expected),
        stale=_whole(tail),
        late_start=late_start,
        warnings=tuple(warnings),
    )


def require_good(report: BarReport, name: str) -> None:
    """Accept a report without faults.

    :raises BadBars: one message that names every kind of fault and where it first occurs.
    """
    faults = [] if report.count else ["there are none"]
    if report.gaps:
        count, gap = sum(gap.bars for gap in report.gaps), report.gaps[0]
        faults.append(f"{count} missing, first from {_text(gap.start)} to {_text(gap.end)}")
    for what, where in (
        ("twice", report.duplicates),
        ("out of order", report.unordered),
        ("with impossible prices", report.bad_ohlc),
        ("where the exchange calendar has no session", report.unexpected),
    ):
        if where:
            faults.append(f"{len(where)} {what}, first {_text(where[0])}")
    if report.stale and report.last:
        faults.append(f"the last is {_text(report.last)}, {report.stale.bars} more were complete by the broker's clock")
    if faults:
        raise BadBars(
            f"The bars of {name} cannot be used: {'; '.join(faults)}.",
            remedy="Nothing was cached. The next try asks the broker again; if it stays, compare with another source"
            " and update exchange-calendars.",
        )


def find_gaps(
    bars: Sequence[Bar],
    *,
    bar_size: str,
    expected: Sequence[Session],
    now: datetime,
    start: datetime | None = None,
    quiet: timedelta = timedelta(0),
) -> list[Gap]:
    """Where bars are missing that were complete by `now`, in order; parameters as in :func:`check_bars`."""
    if is_intraday(bar_size):
        return _intraday_gaps(bars, BAR_SIZES[bar_size], expected, now, start, quiet)
    have = {period(bar.time.date(), bar_size)[0] for bar in bars}
    gaps: list[Gap] = []
    joins = False
    for session in expected:
        if session.close > now:
            break
        if session.date in have:
            joins = False
            continue
        if joins:
            gaps[-1] = Gap(gaps[-1].start, session.close, gaps[-1].bars + 1)
        else:
            gaps.append(Gap(session.open, session.close, 1))
        joins = True
    return gaps


def split_ratio(cached: Sequence[Bar], fetched: Sequence[Bar]) -> float | None:
    """Old price over new price where the bars that both have differ by one constant factor: a split since then.

    :returns: 4.0 after a split of four for one; None if the bars agree, differ otherwise, or have no time in common.
    """
    ratios = _ratios(cached, fetched)
    if not ratios or abs((factor := median(ratios)) - 1) <= _CORRECTION:
        return None
    return factor if all(abs(ratio / factor - 1) <= _ROUNDING for ratio in ratios) else None


def contradicts(cached: Sequence[Bar], fetched: Sequence[Bar]) -> bool:
    """Whether bars of the same time differ by more than a correction, so that both cannot be of one series."""
    return any(abs(ratio - 1) > _CORRECTION for ratio in _ratios(cached, fetched))


def drop_repeats(bars: Sequence[Bar]) -> list[Bar]:
    """The bars without those that repeat the one before them in every value."""
    return [bar for before, bar in zip([None, *bars], bars, strict=False) if bar != before]


def complete(bars: Sequence[Bar], *, bar_size: str, expected: Sequence[Session], now: datetime) -> list[Bar]:
    """The bars whose time was over by `now`: one that still forms changes, and is neither cached nor decided by."""
    if is_intraday(bar_size):
        return [bar for bar in bars if _over(bar, BAR_SIZES[bar_size], expected, now)]
    closes = {session.date: session.close for session in expected}
    whole_day = timedelta(days=1)
    return [bar for bar in bars if closes.get(period(bar.time.date(), bar_size)[0], bar.time + whole_day) <= now]


def _over(bar: Bar, size: timedelta, expected: Sequence[Session], now: datetime) -> bool:
    if bar.time + size <= now:
        return True
    # The last bar of a session may be cut short by the close. A break cuts none: a bar may reach over it.
    return any(s.open <= bar.time < s.close <= now for s in expected)


def _intraday_gaps(
    bars: Sequence[Bar],
    size: timedelta,
    expected: Sequence[Session],
    now: datetime,
    start: datetime | None,
    quiet: timedelta,
) -> list[Gap]:
    gaps: list[Gap] = []
    times = sorted({bar.time for bar in bars})
    at = 0
    for session in expected:
        for opening, close in session.intervals():
            covered, end = max(opening, start or opening), min(close, now)
            if covered >= end:
                continue
            while at < len(times) and times[at] + size <= covered:
                at += 1
            here = at
            while here < len(times) and times[here] < close:
                if times[here] - covered > quiet:
                    gaps.append(_gap(covered, times[here], size))
                covered = max(covered, times[here] + size)
                here += 1
            # Behind the last bar: all from the session's close on; before it only bars that are complete by now.
            if end - covered > quiet and now >= min(covered + size + quiet, session.close):
                gaps.append(_gap(covered, end, size))
    return gaps


def _gap(start: datetime, end: datetime, size: timedelta) -> Gap:
    return Gap(start, end, max(int((end - start) / size), 1))


def _whole(gaps: Sequence[Gap]) -> Gap | None:
    return Gap(gaps[0].start, gaps[-1].end, sum(gap.bars for gap in gaps)) if gaps else None


def _unexpected(bars: Sequence[Bar], bar_size: str, expected: Sequence[Session]) -> tuple[datetime, ...]:
    # Intraday bars outside of the regular hours are there when they are asked for.
    if is_intraday(bar_size) or not expected:
        return ()
    days = {session.date for session in expected}
    return tuple(bar.time for bar in bars if period(bar.time.date(), bar_size)[0] not in days)


def _is_sane(bar: Bar) -> bool:
    return (
        all(math.isfinite(price) and price > 0 for price in (bar.open, bar.high, bar.low, bar.close))
        and bar.low <= min(bar.open, bar.close)
        and max(bar.open, bar.close) <= bar.high
        and math.isfinite(bar.volume)
        and bar.volume >= 0
    )


def _ratios(cached: Sequence[Bar], fetched: Sequence[Bar]) -> list[float]:
    old = {bar.time: bar for bar in cached}
    pairs = [(old[bar.time], bar) for bar in fetched if bar.time in old]
    return [getattr(a, field) / getattr(b, field) for a, b in pairs for field in ("open", "high", "low", "close")]


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}" if (moment.hour, moment.minute) == (0, 0) else f"{moment:%Y-%m-%d %H:%M} UTC"
