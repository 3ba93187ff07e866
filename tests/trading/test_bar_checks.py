"""Checks of bars against themselves and against the exchange calendar."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import BadBars
from airflow_ibkr_plugin.trading.bar_checks import (
    check_bars,
    complete,
    contradicts,
    drop_repeats,
    find_gaps,
    require_good,
    split_ratio,
)
from airflow_ibkr_plugin.trading.bars import BAR_SIZES, Bar
from airflow_ibkr_plugin.trading.calendars import Session
from airflow_ibkr_plugin.trading.durations import periods

# Thanksgiving week: closed on the 26th, closing at 13:00 New York time on the 27th.
WEEKS = periods(date(2026, 11, 16), date(2026, 11, 30), "XNYS", "1 day")
AFTER = datetime(2026, 12, 1, 0, 0, tzinfo=UTC)
MINUTES = timedelta(minutes=30)


def bar_at(at: datetime, price: float = 100.0) -> Bar:
    return Bar(at, price, price + 1, price - 1, price + 0.5, 1000.0)


def daily(sessions: list[Session] = WEEKS) -> list[Bar]:
    return [bar_at(datetime.combine(s.date, time(), UTC)) for s in sessions]


def half_hours(sessions: list[Session] = WEEKS) -> list[Bar]:
    return [
        bar_at(opening + n * MINUTES)
        for s in sessions
        for opening, close in s.intervals()
        for n in range((close - opening) // MINUTES)
    ]


def test_complete_daily_bars_are_good() -> None:
    report = check_bars(daily(), bar_size="1 day", expected=WEEKS, now=AFTER)
    require_good(report, "SPY")
    assert (report.count, report.gaps, report.warnings) == (10, (), ())
    assert report.first == datetime(2026, 11, 16, tzinfo=UTC)
    assert report.last == datetime(2026, 11, 30, tzinfo=UTC)


def test_half_hour_bars_respect_the_early_close() -> None:
    bars = half_hours()
    require_good(check_bars(bars, bar_size="30 mins", expected=WEEKS, now=AFTER), "SPY")
    friday = [bar for bar in bars if bar.time.date() == date(2026, 11, 27)]
    assert len(friday) == 7
    report = check_bars([b for b in bars if b != friday[-1]], bar_size="30 mins", expected=WEEKS, now=AFTER)
    assert [gap.start for gap in report.gaps] == [friday[-1].time]


def test_hour_bars_begin_at_the_open_and_then_on_the_hour() -> None:
    opening = WEEKS[0].open
    bars = [bar_at(opening), *(bar_at(opening + MINUTES + timedelta(hours=n)) for n in range(6))]
    assert find_gaps(bars, bar_size="1 hour", expected=WEEKS[:1], now=AFTER) == []


def test_missing_days_are_one_gap() -> None:
    bars = daily()
    report = check_bars(bars[:2] + bars[4:], bar_size="1 day", expected=WEEKS, now=AFTER)
    assert [(gap.start, gap.end, gap.bars) for gap in report.gaps] == [(WEEKS[2].open, WEEKS[3].close, 2)]
    with pytest.raises(BadBars, match=r"2 missing, first from 2026-11-18 14:30 UTC to 2026-11-19 21:00 UTC"):
        require_good(report, "SPY")


def test_a_bar_on_a_holiday_is_refused() -> None:
    thanksgiving = bar_at(datetime(2026, 11, 26, tzinfo=UTC))
    bars = sorted([*daily(), thanksgiving], key=lambda bar: bar.time)
    report = check_bars(bars, bar_size="1 day", expected=WEEKS, now=AFTER)
    assert report.unexpected == (thanksgiving.time,)
    with pytest.raises(BadBars, match="no session"):
        require_good(report, "SPY")


def test_stale_by_the_broker_clock_only_when_a_session_is_over() -> None:
    bars = daily(WEEKS[:-1])
    before_close, after_close = WEEKS[-1].close - timedelta(seconds=1), WEEKS[-1].close
    assert check_bars(bars, bar_size="1 day", expected=WEEKS, now=before_close).stale is None
    stale = check_bars(bars, bar_size="1 day", expected=WEEKS, now=after_close)
    assert stale.stale is not None
    with pytest.raises(BadBars, match=r"the last is 2026-11-27, 1 more were complete"):
        require_good(stale, "SPY")


def test_intraday_staleness_counts_complete_bars_only() -> None:
    opening = WEEKS[0].open
    bars = [bar_at(opening), bar_at(opening + MINUTES)]
    young, old = opening + timedelta(minutes=89), opening + timedelta(minutes=90)
    assert check_bars(bars, bar_size="30 mins", expected=WEEKS[:1], now=young).stale is None
    assert check_bars(bars, bar_size="30 mins", expected=WEEKS[:1], now=old).stale is not None


def test_nothing_is_expected_before_the_start_that_was_asked_for() -> None:
    first = WEEKS[0]
    bars = half_hours(WEEKS[:1])
    noon = first.open + 5 * MINUTES
    assert find_gaps(bars[5:], bar_size="30 mins", expected=WEEKS[:1], now=AFTER, start=noon) == []
    (gap,) = find_gaps(bars[6:], bar_size="30 mins", expected=WEEKS[:1], now=AFTER, start=noon)
    assert (gap.start, gap.end, gap.bars) == (noon, noon + MINUTES, 1)


def cut(sessions: list[Session], size: timedelta) -> list[tuple[Bar, datetime]]:
    """All bars of these sessions, and when each is over: at its end, or when the session's close cuts it short."""
    return [
        (bar_at(opening + n * size), min(opening + (n + 1) * size, session.close))
        for session in sessions
        for opening, close in session.intervals()
        for n in range(-((opening - close) // size))
    ]


@settings(max_examples=150)
@given(
    calendar=st.sampled_from(["XNYS", "XTKS"]),
    bar_size=st.sampled_from(["30 mins", "1 hour", "4 hours", "8 hours"]),
    after=st.one_of(st.integers(0, 60 * 24 * 12), st.integers(0, 2 * 24 * 12).map(lambda half_hours: 30 * half_hours)),
)
def test_bars_are_missed_from_the_moment_on_from_which_they_are_complete(
    calendar: str, bar_size: str, after: int
) -> None:
    sessions = periods(date(2026, 11, 20), date(2026, 12, 1), calendar, bar_size)
    now = sessions[0].open + timedelta(minutes=after)  # any minute of twelve days
    size = BAR_SIZES[bar_size]
    bars = cut(sessions, size)
    done = [bar for bar, over in bars if over <= now]
    assert complete([bar for bar, _ in bars], bar_size=bar_size, expected=sessions, now=now) == done
    report = check_bars(done, bar_size=bar_size, expected=sessions, now=now)
    assert (report.gaps, report.stale, report.late_start) == ((), None, None)
    if len(done) > 1 and done[-2].time + size <= done[-1].time:  # else the one before it reaches over the break
        stale = check_bars(done[:-1], bar_size=bar_size, expected=sessions, now=now).stale
        assert stale is not None
        assert stale.start == done[-1].time


def test_a_history_that_begins_late_is_a_warning() -> None:
    report = check_bars(daily()[3:], bar_size="1 day", expected=WEEKS, now=AFTER)
    require_good(report, "SPY")
    assert report.late_start is not None
    assert report.late_start.bars == 3
    assert report.warnings == ("the history begins on 2026-11-19, 3 bars later than asked for",)


def test_quiet_minutes_of_forex_are_no_gap() -> None:
    sessions = periods(date(2026, 11, 24), date(2026, 11, 24), "forex", "1 min")
    minute = timedelta(minutes=1)
    bars = [bar_at(sessions[0].open + n * minute) for n in range(1425)]
    quiet = [bar for n, bar in enumerate(bars) if not 100 <= n < 114]
    closed = [bar for n, bar in enumerate(bars) if not 100 <= n < 130]
    fifteen = timedelta(minutes=15)
    assert find_gaps(quiet, bar_size="1 min", expected=sessions, now=AFTER, quiet=fifteen) == []
    assert len(find_gaps(quiet, bar_size="1 min", expected=sessions, now=AFTER)) == 1
    assert len(find_gaps(closed, bar_size="1 min", expected=sessions, now=AFTER, quiet=fifteen)) == 1


def test_daily_bars_of_forex_on_a_holiday_are_accepted() -> None:
    week = periods(date(2026, 12, 21), date(2026, 12, 31), "forex", "1 day")
    bars = sorted([*daily(week), bar_at(datetime(2026, 12, 25, tzinfo=UTC))], key=lambda bar: bar.time)
    later = datetime(2027, 1, 1, 12, 0, tzinfo=UTC)
    quiet = timedelta(minutes=15)
    require_good(check_bars(bars, bar_size="1 day", expected=week, now=later, quiet=quiet), "EUR.USD")
    assert check_bars(bars, bar_size="1 day", expected=week, now=later).unexpected != ()


def test_a_break_without_length_is_none() -> None:
    (session,) = periods(date(2026, 11, 20), date(2026, 11, 20), "XTKS", "1 day")
    assert session.break_start is not None
    assert session.intervals() == ((session.open, session.break_start), (session.break_end, session.close))
    assert replace(session, break_end=session.break_start).intervals() == ((session.open, session.close),)


def test_no_bars_across_the_midday_break() -> None:
    tokyo = periods(date(2026, 11, 20), date(2026, 11, 20), "XTKS", "30 mins")
    assert len(tokyo[0].intervals()) == 2
    assert find_gaps(half_hours(tokyo), bar_size="30 mins", expected=tokyo, now=AFTER) == []


def test_weekly_bars_wherever_in_the_week_they_are_dated() -> None:
    weeks = periods(date(2026, 11, 2), date(2026, 11, 27), "XNYS", "1 week")
    assert len(weeks) == 4
    for offset in (0, 4):
        bars = [bar_at(datetime.combine(w.date + timedelta(days=offset), time(), UTC)) for w in weeks]
        assert find_gaps(bars, bar_size="1 week", expected=weeks, now=AFTER) == []
        assert len(find_gaps(bars[:1] + bars[2:], bar_size="1 week", expected=weeks, now=AFTER)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"high": 98.0},
        {"low": 100.4, "open": 100.2},
        {"close": 102.0},
        {"open": float("nan")},
        {"high": float("inf")},
        {"open": -1.0, "low": -1.0},
        {"low": 0.0},
        {"volume": float("nan")},
        {"volume": -1.0},
    ],
)
def test_impossible_bars(changes: dict[str, float]) -> None:
    bars = daily()
    bars[4] = replace(bars[4], **changes)
    report = check_bars(bars, bar_size="1 day", expected=WEEKS, now=AFTER)
    assert report.bad_ohlc == (bars[4].time,)
    with pytest.raises(BadBars, match="impossible prices, first 2026-11-20"):
        require_good(report, "SPY")


def test_duplicates_and_disorder() -> None:
    bars = daily()
    twice = check_bars([*bars[:3], replace(bars[2], volume=5.0), *bars[3:]], bar_size="1 day", expected=(), now=AFTER)
    assert twice.duplicates == (bars[2].time,)
    swapped = check_bars([bars[1], bars[0], *bars[2:]], bar_size="1 day", expected=(), now=AFTER)
    assert swapped.unordered == (bars[0].time,)
    for report, words in ((twice, "twice"), (swapped, "out of order")):
        with pytest.raises(BadBars, match=words):
            require_good(report, "SPY")
    assert drop_repeats([*bars[:3], *bars[2:]]) == bars


def test_nothing_is_not_good() -> None:
    with pytest.raises(BadBars, match="there are none"):
        require_good(check_bars([], bar_size="1 day", expected=WEEKS, now=AFTER), "SPY")


def test_the_forming_bar_is_left_out() -> None:
    noon = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)
    assert complete(daily(), bar_size="1 day", expected=WEEKS, now=noon) == daily()[:-1]
    assert complete(daily(), bar_size="1 day", expected=WEEKS, now=WEEKS[-1].close) == daily()
    bars = half_hours()
    until_noon = [bar for bar in bars if bar.time + MINUTES <= noon + timedelta(minutes=10)]
    assert complete(bars, bar_size="30 mins", expected=WEEKS, now=noon + timedelta(minutes=10)) == until_noon


def test_the_last_bar_of_a_session_ends_with_it() -> None:
    last = bar_at(datetime(2026, 11, 30, 19, 0, tzinfo=UTC))  # 14:00 in New York, of four hours
    close = WEEKS[-1].close
    assert complete([last], bar_size="4 hours", expected=WEEKS, now=close) == [last]
    assert complete([last], bar_size="4 hours", expected=WEEKS, now=close - timedelta(seconds=1)) == []
    first, today = bar_at(WEEKS[-1].open), WEEKS[-1:]
    for now, missed in ((close - timedelta(seconds=1), False), (close, True)):
        report = check_bars([first], bar_size="4 hours", expected=today, now=now)
        assert (report.stale is not None) is missed


def test_a_bar_is_complete_at_its_end() -> None:
    bar = bar_at(WEEKS[0].open)
    end = bar.time + MINUTES
    assert complete([bar], bar_size="30 mins", expected=WEEKS, now=end) == [bar]
    assert complete([bar], bar_size="30 mins", expected=WEEKS, now=end - timedelta(seconds=1)) == []


def scaled(bars: list[Bar], factor: float) -> list[Bar]:
    return [
        replace(b, open=b.open * factor, high=b.high * factor, low=b.low * factor, close=b.close * factor) for b in bars
    ]


@settings(max_examples=50)
@given(
    prices=st.lists(st.floats(20, 500), min_size=1, max_size=10),
    factor=st.sampled_from([2.0, 3.0, 4.0, 10.0, 20.0, 1.5, 0.1, 0.5, 1.05]),
)
def test_a_split_is_found_with_its_ratio(prices: list[float], factor: float) -> None:
    cached = [bar_at(AFTER + timedelta(days=n), price) for n, price in enumerate(prices)]
    rounded = [
        Bar(b.time, round(b.open, 3), round(b.high, 3), round(b.low, 3), round(b.close, 3), b.volume)
        for b in scaled(cached, 1 / factor)
    ]
    assert split_ratio(cached, rounded) == pytest.approx(factor, rel=0.005)
    assert contradicts(cached, rounded)


def test_corrections_are_no_split_and_no_contradiction() -> None:
    bars = daily()
    corrected = [replace(bars[0], close=bars[0].close * 1.004), *bars[1:]]
    assert split_ratio(bars, corrected) is None
    assert not contradicts(bars, corrected)
    assert split_ratio(bars[:2], bars[5:]) is None


@pytest.mark.parametrize("field", ["open", "high", "low", "close"])
@pytest.mark.parametrize(("factor", "contradict"), [(1.009, False), (0.992, False), (1.02, True), (0.98, True)])
def test_every_price_of_a_bar_may_contradict(field: str, factor: float, contradict: bool) -> None:
    bars = daily()
    moved = [*bars[:4], replace(bars[4], **{field: getattr(bars[4], field) * factor}), *bars[5:]]
    assert contradicts(bars, moved) is contradict
    assert split_ratio(bars, moved) is None


def test_a_split_holds_for_every_bar_or_is_none() -> None:
    bars = daily()
    halved = scaled(bars, 0.5)
    assert split_ratio(bars, halved) == pytest.approx(2)
    assert split_ratio(bars, [*halved[:4], *scaled(bars[4:5], 0.51), *halved[5:]]) is None


def test_bars_of_another_world_contradict_without_being_a_split() -> None:
    bars = daily()
    other = [bar_at(bar.time, 80.0 + 9 * n) for n, bar in enumerate(bars)]
    assert split_ratio(bars, other) is None
    assert contradicts(bars, other)


@settings(max_examples=80)
@given(missing=st.sets(st.integers(0, 118)), size=st.sampled_from(["1 day", "30 mins"]))
def test_gaps_are_exactly_what_is_missing(missing: set[int], size: str) -> None:
    bars = daily() if size == "1 day" else half_hours()
    kept = [bar for n, bar in enumerate(bars) if n not in missing]
    gaps = find_gaps(kept, bar_size=size, expected=WEEKS, now=AFTER)
    assert sum(gap.bars for gap in gaps) == len(bars) - len(kept)
    report = check_bars(kept, bar_size=size, expected=WEEKS, now=AFTER)
    parts = [*report.gaps, *filter(None, (report.stale, report.late_start))] if kept else gaps
    assert sum(gap.bars for gap in parts) == len(bars) - len(kept)
    if kept:
        assert (report.stale is None) == (kept[-1] == bars[-1])
        assert (report.late_start is None) == (kept[0] == bars[0])
