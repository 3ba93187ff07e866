"""Prices: pure, within the day's range, and never from the future."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument, synthetic
from airflow_ibkr_plugin.simulator.market.days import DayBar, RecordedDays, SyntheticDays
from airflow_ibkr_plugin.simulator.market.history import Bar, bars
from airflow_ibkr_plugin.simulator.market.history_query import BadRequest, Query
from airflow_ibkr_plugin.simulator.market.hours import EASTERN, current, sessions_back
from airflow_ibkr_plugin.simulator.market.prices import Market
from airflow_ibkr_plugin.simulator.market.replay import load_replay

NOON = datetime(2026, 11, 20, 17, 0, tzinfo=UTC).timestamp()
INSTRUMENTS = synthetic(2026)
moments = st.integers(
    int(datetime(2015, 1, 5, tzinfo=UTC).timestamp()), int(datetime(2026, 12, 1, tzinfo=UTC).timestamp())
)
instruments = st.sampled_from(INSTRUMENTS)


def market(seed: int = 7) -> Market:
    made = Market()
    for instrument in INSTRUMENTS:
        made.add(instrument, SyntheticDays(seed, instrument))
    return made


MARKET = market()


def by_symbol(symbol: str) -> Instrument:
    return next(item for item in INSTRUMENTS if item.symbol == symbol)


def query(size: str, duration: tuple[int, str], end: float = NOON, regular: bool = True, what: str = "TRADES") -> Query:
    return Query(size, duration, end, regular, what)


@settings(max_examples=30)
@given(instruments, moments)
def test_prices_are_a_pure_function_of_seed_contract_and_time(instrument: Instrument, moment: int) -> None:
    quote = MARKET.quote(instrument, moment)
    assert quote is not None
    assert market().quote(instrument, moment) == quote
    assert quote.low <= quote.bid <= quote.ask or quote.bid <= quote.last <= quote.ask


def test_another_seed_has_other_prices() -> None:
    apple = by_symbol("AAPL")
    assert market(8).quote(apple, NOON) != MARKET.quote(apple, NOON)


@settings(max_examples=25)
@given(instruments, moments)
def test_a_session_starts_at_its_open_touches_high_and_low_and_ends_at_its_close(
    instrument: Instrument, moment: int
) -> None:
    session = next(sessions_back(instrument.hours, moment, regular=True))
    day = MARKET.day_bar(instrument, session.day)
    assert day is not None
    path = MARKET.path(instrument, session, session.open, session.close)
    assert (path[0], path.max(), path.min(), path[-1]) == (day.open, day.high, day.low, day.close)
    whole = MARKET.path(instrument, session, session.pre, session.post)
    assert whole.min() >= day.low
    assert whole.max() <= day.high
    bid, ask = MARKET.spread(instrument, session.day, whole)
    assert bid.min() >= day.low
    assert ask.max() <= day.high
    assert (bid <= ask).all()


@settings(max_examples=40)
@given(
    instruments,
    moments,
    st.sampled_from(["5 mins", "1 hour", "8 hours", "1 day"]),
    st.integers(1, 5 * 86400),
    st.booleans(),
    st.sampled_from(["TRADES", "MIDPOINT", "BID", "ASK"]),
)
def test_what_a_clock_has_shown_does_not_change_as_it_goes_on(
    instrument: Instrument, moment: int, size: str, later: int, regular: bool, what: str
) -> None:
    before = bars(MARKET, instrument, query(size, (2, "D"), moment, regular, what))
    after = {bar.start: bar for bar in bars(MARKET, instrument, query(size, (7, "D"), moment + later, regular, what))}
    for bar in before[:-1]:
        assert after.get(bar.start, bar) == bar
    # The bar that was forming has only grown.
    if before and before[-1].start in after:
        old, new = before[-1], after[before[-1].start]
        assert (new.open, new.high >= old.high, new.low <= old.low, new.volume >= old.volume) == (
            old.open, True, True, True,
        )  # fmt: skip


@settings(max_examples=15)
@given(instruments, moments, st.booleans())
def test_bars_of_all_sizes_agree(instrument: Instrument, moment: int, regular: bool) -> None:
    day = bars(MARKET, instrument, query("1 day", (1, "D"), moment, regular))[0]
    for size in ("15 secs", "1 min", "10 mins", "1 hour", "3 hours", "8 hours"):
        made = bars(MARKET, instrument, query(size, (1, "D"), moment, regular))
        assert _together(made) == (day.open, day.high, day.low, day.close, day.volume), size
        assert all(bar.low <= min(bar.open, bar.close, bar.average) for bar in made)
        assert all(bar.high >= max(bar.open, bar.close, bar.average) for bar in made)
        assert [bar.start for bar in made] == sorted({bar.start for bar in made})


def _together(made: list[Bar]) -> tuple[float, float, float, float, int]:
    return (
        made[0].open,
        max(bar.high for bar in made),
        min(bar.low for bar in made),
        made[-1].close,
        sum(bar.volume for bar in made),
    )


def test_durations() -> None:
    apple = by_symbol("AAPL")

    def days(count: int, unit: str, size: str = "1 day") -> list[date | None]:
        return [bar.day for bar in bars(MARKET, apple, query(size, (count, unit)))]

    assert days(3, "D") == [date(2026, 11, 18), date(2026, 11, 19), date(2026, 11, 20)]
    assert days(1, "W") == [date(2026, 11, day) for day in range(16, 21)]
    assert len(days(1, "Y")) == 251
    assert days(1, "M")[0] == date(2026, 10, 21)
    assert days(1, "M", "1 week") == [date(2026, 10, 23), date(2026, 10, 30), *_fridays()]
    assert days(2, "M", "1 month") == [date(2026, 9, 30), date(2026, 10, 30), date(2026, 11, 20)]
    seconds = bars(MARKET, apple, query("1 min", (1800, "S")))
    assert (len(seconds), seconds[0].start, seconds[-1].start) == (30, NOON - 1800, NOON - 60)


def _fridays() -> list[date]:
    return [date(2026, 11, 6), date(2026, 11, 13), date(2026, 11, 20)]


def test_seconds_reach_back_over_the_night() -> None:
    apple = by_symbol("AAPL")
    morning = datetime(2026, 11, 20, 14, 40, tzinfo=UTC).timestamp()
    made = bars(MARKET, apple, query("5 mins", (1800, "S"), morning))
    assert [datetime.fromtimestamp(bar.start, UTC).strftime("%d %H:%M") for bar in made] == [
        "19 20:40", "19 20:45", "19 20:50", "19 20:55", "20 14:30", "20 14:35",
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "count"), [("5 secs", 60), ("1 min", 1800), ("10 mins", 1800)])
def test_seconds_begin_with_a_whole_bar(size: str, count: int) -> None:
    now = NOON + 7
    made = bars(MARKET, by_symbol("AAPL"), query(size, (count, "S"), now))
    length = made[1].start - made[0].start
    assert [bar.start % length for bar in made] == [0] * len(made)
    assert made[0].start <= now - count < made[0].start + length
    assert made[0] == bars(MARKET, by_symbol("AAPL"), query(size, (length, "S"), made[1].start))[0]


def test_hours_are_cut_at_the_full_hour() -> None:
    made = bars(MARKET, by_symbol("AAPL"), query("1 hour", (1, "D")))
    assert [datetime.fromtimestamp(bar.start, UTC).strftime("%H:%M") for bar in made] == ["14:30", "15:00", "16:00"]


def test_bars_are_aligned_to_a_clock_that_was_changed_in_the_night() -> None:
    """On Sunday 2026-03-08 New York went over to summer time; the session of Monday begins on that evening."""
    monday = datetime(2026, 3, 9, 17, tzinfo=UTC).timestamp()
    made = bars(MARKET, by_symbol("EUR"), query("4 hours", (1, "D"), monday))
    assert [datetime.fromtimestamp(bar.start, EASTERN).strftime("%H:%M") for bar in made] == [
        "17:15", "20:00", "00:00", "04:00", "08:00", "12:00",
    ]  # fmt: skip


def test_too_much_is_refused() -> None:
    with pytest.raises(BadRequest, match="exceed"):
        bars(MARKET, by_symbol("EUR"), query("1 secs", (1, "Y")))


# --- replay -------------------------------------------------------------------------------------


ENTRY = {
    "symbol": "XSPX", "longName": "FICTITIOUS", "secType": "STK", "currency": "USD", "exchange": "SMART",
    "primaryExchange": "REPLAY", "tz": "America/New_York", "calendar": "XNYS", "file": "x.csv",
}  # fmt: skip
ROWS = """date,open,high,low,close,volume
2018-06-11,2780.179932,2790.209961,2780.169922,2782.0,3232330000
2018-06-12,2785.600098,2789.800049,2778.780029,2786.850098,3401010000
2018-06-13,2787.939941,2791.469971,2774.649902,2775.629883,3779230000
"""


def replay(folder: Path, rows: str = ROWS, **entry: Any) -> tuple[Instrument, dict[date, DayBar]]:
    (folder / "catalogue.json").write_text(json.dumps([ENTRY | entry]))
    (folder / "x.csv").write_text(rows)
    return load_replay(folder, 2026)[0]


def test_replayed_days_are_exact_and_the_current_one_has_no_future(tmp_path: Path) -> None:
    instrument, days = replay(tmp_path)
    recorded = Market()
    recorded.add(instrument, RecordedDays(days))
    eleven = datetime(2018, 6, 13, 15, 0, tzinfo=UTC).timestamp()
    made = bars(recorded, instrument, query("1 day", (5, "D"), eleven))
    assert [(bar.day, bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in made[:2]] == [
        (date(2018, 6, 11), 2780.179932, 2790.209961, 2780.169922, 2782.0, 3232330000),
        (date(2018, 6, 12), 2785.600098, 2789.800049, 2778.780029, 2786.850098, 3401010000),
    ]
    session = current(instrument.hours, eleven, regular=True)
    assert session is not None
    seen = recorded.path(instrument, session, session.open, int(eleven))
    assert (made[2].open, made[2].high, made[2].low, made[2].close) == (seen[0], seen.max(), seen.min(), seen[-1])
    assert made[2].volume < 3779230000
    # Whether the rest of the day is recorded otherwise makes no difference to the days before it.
    after = bars(recorded, instrument, query("1 day", (5, "D"), eleven + 86400))
    assert after[2].close == 2775.629883
    assert after[:2] == made[:2]


def test_replayed_sessions_are_the_recorded_days(tmp_path: Path) -> None:
    instrument, days = replay(tmp_path)
    recorded = Market()
    recorded.add(instrument, RecordedDays(days))
    later = datetime(2018, 6, 20, 15, 0, tzinfo=UTC).timestamp()
    assert current(instrument.hours, later, regular=True) is None
    quote = recorded.quote(instrument, later)
    assert quote is not None
    assert (quote.day, quote.last) == (date(2018, 6, 13), 2775.629883)
    assert recorded.quote(instrument, later - 30 * 86400) is None


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("date,open,high,low,close,volume\n", "no bars"),
        ("date,open,high,low,close,volume\n2018-06-11,1,2,3,1,5\n", "line 2"),
        ("date,open,high,low,close,volume\n2018-06-11,1,2,0.5,nan,5\n", "line 2"),
        ("date,open,high,low,close,volume\n2018-06-11,1,2\n", "line 2"),
        ("date,open,high,low,close,volume\n2018-06-10,1,2,0.5,1,5\n", "no session"),
        (ROWS + "2018-06-12,1,2,0.5,1,5\n", "line 5: 2018-06-12 is there twice"),
    ],
)
def test_bad_recordings_name_their_line(tmp_path: Path, rows: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        replay(tmp_path, rows)


@pytest.mark.parametrize(
    "change", [{"calendar": "NOWHERE"}, {"tz": "Mars/Olympus"}, {"secType": "IND"}, {"file": None}]
)
def test_bad_catalogues_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="catalogue"):
        replay(tmp_path, **change)


def test_missing_replay_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--replay"):
        load_replay(tmp_path, 2026)


def test_forex_has_no_gap_between_days() -> None:
    euro = by_symbol("EUR")
    made = bars(MARKET, euro, query("1 hour", (2, "D"), NOON, what="MIDPOINT"))
    assert timedelta(seconds=made[1].start - made[0].start) == timedelta(minutes=45)
    assert all(bar.volume == -1 for bar in made)


# --- midday breaks, splits ---------------------------------------------------------------------------


def test_nothing_trades_in_a_midday_break() -> None:
    toyota = by_symbol("7203")
    close = datetime(2026, 11, 20, 6, 30, tzinfo=UTC).timestamp()
    made = bars(MARKET, toyota, query("5 mins", (1, "D"), close))
    times = [datetime.fromtimestamp(bar.start, toyota.hours.zone).strftime("%H:%M") for bar in made]
    assert (times[0], times[-1], len(times)) == ("09:00", "15:25", 66)
    assert not [time for time in times if "11:30" <= time < "12:30"]
    day = bars(MARKET, toyota, query("1 day", (1, "D"), close))[0]
    assert _together(made) == (day.open, day.high, day.low, day.close, day.volume)
    # Seconds of trading reach back over it.
    half_past_one = datetime(2026, 11, 20, 3, 40, tzinfo=UTC).timestamp()
    made = bars(MARKET, toyota, query("5 mins", (1800, "S"), half_past_one))
    times = [datetime.fromtimestamp(bar.start, toyota.hours.zone).strftime("%H:%M") for bar in made]
    assert times == ["11:10", "11:15", "11:20", "11:25", "12:30", "12:35"]
    noon = datetime(2026, 11, 20, 3, 0, tzinfo=UTC).timestamp()
    before = MARKET.quote(toyota, noon - 1801)
    quote = MARKET.quote(toyota, noon)
    assert quote is not None
    assert before is not None
    assert (quote.last, quote.volume) == (before.last, before.volume)


@settings(max_examples=20)
@given(moments, st.sampled_from([2.0, 4.0, 10.0, 0.1, 1.5]), st.sampled_from(["5 mins", "1 hour", "1 day"]))
def test_a_split_scales_all_prices_and_volumes(moment: int, ratio: float, size: str) -> None:
    apple, split = by_symbol("AAPL"), market()
    asked = query(size, (3, "D"), moment)
    before = bars(split, apple, asked)
    quote = split.quote(apple, moment)
    split.split(apple, ratio)
    after = bars(split, apple, asked)
    assert [bar.start for bar in after] == [bar.start for bar in before]
    for old, new in zip(before, after, strict=True):
        for name in ("open", "high", "low", "close"):
            assert abs(getattr(new, name) - getattr(old, name) / ratio) <= 0.0051
        assert abs(new.volume - old.volume * ratio) <= ratio + 1
    scaled = split.quote(apple, moment)
    assert quote is not None
    assert scaled is not None
    assert abs(scaled.last - quote.last / ratio) <= 0.0051
    # Days and their parts still agree.
    day = bars(split, apple, query("1 day", (1, "D"), moment))[0]
    assert _together(bars(split, apple, query("1 min", (1, "D"), moment)))[:4] == (
        day.open,
        day.high,
        day.low,
        day.close,
    )
    split.split(apple, 1 / ratio)
    assert [bar.day for bar in bars(split, apple, asked)] == [bar.day for bar in before]


def test_a_split_of_one_stock_leaves_the_others() -> None:
    split = market()
    split.split(by_symbol("AAPL"), 2)
    assert split.quote(by_symbol("MSFT"), NOON) == MARKET.quote(by_symbol("MSFT"), NOON)
