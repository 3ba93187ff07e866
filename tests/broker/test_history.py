"""Market data through the real session and the simulated gateway: cached, asked for only where missing, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.history import BarsRequest, BarsResult, fetch_bars
from airflow_ibkr_plugin.broker.pacing import Pacing
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import BadBars, ConfigError, NoMarketData, PacingViolation, StoreError
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.bars import Bars
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec

TUESDAY = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)  # 11:00 in New York, where the simulated clock starts
MONDAY_CLOSE = datetime(2026, 3, 9, 20, 0, tzinfo=UTC)
YEAR = BarsRequest()


class Watched:
    """The real session; notes what is asked, and may tamper with the clock and with what is answered."""

    def __init__(self, session: BrokerSession) -> None:
        self._session = session
        self.source = session.source
        self.spec = session.spec
        self.asked: list[tuple[str, datetime | None]] = []
        self.tamper: Callable[[list[Bar]], list[Bar]] = lambda bars: bars
        self.clock: datetime | None = None

    def now(self) -> datetime:
        return self.clock or self._session.now()

    def history(self, instrument: Instrument, *, duration: str, end: datetime | None, **rest: Any) -> list[Bar]:
        self.asked.append((duration, end))
        bars = self._session.history(instrument, duration=duration, end=end or self.clock, **rest)
        return self.tamper(bars)


@pytest.fixture
def broker(session: BrokerSession) -> Watched:
    return Watched(session)


@pytest.fixture(scope="module")
def instruments(simulator: SimulatorHandle) -> dict[str, Instrument]:
    spec = GatewaySpec(conn_id="ibkr_test", host="127.0.0.1", port=simulator.port, client_ids=range(30, 31), account="")
    with BrokerSession.open(spec, client_id=30) as opened:
        return {name: opened.resolve(InstrumentSpec.parse(name)) for name in ("SPY", "EUR.USD")}


@pytest.fixture
def spy(instruments: dict[str, Instrument]) -> Instrument:
    return instruments["SPY"]


@pytest.fixture
def fetch(broker: Watched, database: Database, spy: Instrument) -> Iterator[Callable[..., BarsResult]]:
    def run(request: BarsRequest = YEAR, instrument: Instrument = spy) -> BarsResult:
        return fetch_bars(broker, database, instrument, request)  # type: ignore[arg-type]

    return run


def stored(database: Database, source: str, spy: Instrument, bar_size: str = "1 day") -> list[Bar]:
    with database.read() as transaction:
        key = (source, spy.con_id, bar_size, "TRADES", True)
        return Bars(transaction).load(*key, datetime(1990, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))


Fetch = Callable[..., BarsResult]


def test_a_year_of_daily_bars_is_asked_for_once(fetch: Fetch, broker: Watched, database: Database) -> None:
    first = fetch()
    assert broker.asked == [("254 D", None)]
    assert (len(first.bars), first.fetched, first.cached) == (250, 250, 0)
    # The session is open: its forming bar is neither returned nor stored.
    assert first.last == datetime(2026, 3, 9, tzinfo=UTC)
    assert first.first == datetime(2025, 3, 11, tzinfo=UTC)
    assert first.report.warnings == ()
    second = fetch()
    assert len(broker.asked) == 1
    assert second.bars == first.bars
    assert (second.fetched, second.cached) == (0, 250)


def test_the_forming_bar_is_not_stored(fetch: Fetch, broker: Watched, database: Database, spy: Instrument) -> None:
    fetch()
    assert max(bar.time for bar in stored(database, broker.source, spy)) == datetime(2026, 3, 9, tzinfo=UTC)


def test_half_a_year_extended_to_a_year_asks_only_for_the_missing_half(fetch: Fetch, broker: Watched) -> None:
    half = fetch(BarsRequest(duration="6 M"))
    whole = fetch()
    assert [duration for duration, _ in broker.asked] == ["126 D", "132 D"]
    # The second answer ends with the third cached session, so that a split would show.
    assert broker.asked[1][1] == datetime(2025, 9, 15, 20, 0, tzinfo=UTC)
    assert half.first == datetime(2025, 9, 11, tzinfo=UTC)
    assert (len(whole.bars), whole.first) == (250, datetime(2025, 3, 11, tzinfo=UTC))


def test_a_later_day_asks_only_for_the_tail(fetch: Fetch, broker: Watched) -> None:
    broker.clock = datetime(2026, 3, 5, 14, 0, tzinfo=UTC)  # before Thursday's session
    assert fetch(BarsRequest(duration="1 M")).last == datetime(2026, 3, 4, tzinfo=UTC)
    broker.clock = datetime(2026, 3, 6, 20, 59, 59, tzinfo=UTC)  # one second before Friday's close, winter time
    assert fetch(BarsRequest(duration="1 M")).last == datetime(2026, 3, 5, tzinfo=UTC)
    broker.clock = datetime(2026, 3, 6, 21, 0, tzinfo=UTC)
    tail = fetch(BarsRequest(duration="1 M"))
    assert tail.last == datetime(2026, 3, 6, tzinfo=UTC)
    assert tail.fetched == 4  # Friday, and three days of overlap
    broker.clock = datetime(2026, 3, 8, 12, 0, tzinfo=UTC)  # Sunday: nothing is new
    fetch(BarsRequest(duration="1 M"))
    assert [duration for duration, _ in broker.asked] == ["19 D", "6 D", "5 D"]


def test_a_hole_in_the_cache_is_filled(fetch: Fetch, broker: Watched) -> None:
    fetch(BarsRequest(duration="5 D", end=datetime(2026, 1, 30, 22, 0, tzinfo=UTC)))
    fetch(BarsRequest(duration="5 D"))
    result = fetch(BarsRequest(duration="3 M"))
    assert len(broker.asked) == 3
    assert result.report.gaps == ()
    assert len(result.bars) == 59


def test_windows_side_by_side_overlap(fetch: Fetch, broker: Watched) -> None:
    """A day at a time, as a schedule asks: each answer reaches back over what is cached, or a split would not show."""
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    fetch(BarsRequest(duration="1 D"))
    broker.clock = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    fetch(BarsRequest(duration="1 D"))
    broker.tamper = lambda bars: [divided(bar, 4.0) for bar in bars]
    broker.clock = datetime(2026, 3, 9, 22, 0, tzinfo=UTC)
    fetch(BarsRequest(duration="1 D"))
    broker.clock = None
    prices = [bar.close for bar in fetch(BarsRequest(duration="3 D")).bars]
    assert max(prices) / min(prices) < 1.2


def divided(bar: Bar, by: float) -> Bar:
    return replace(bar, open=bar.open / by, high=bar.high / by, low=bar.low / by, close=bar.close / by)


def test_a_split_refetches_everything(
    fetch: Fetch, broker: Watched, database: Database, spy: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    before = fetch()
    fetch(BarsRequest(duration="2 Y"))
    broker.clock = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    broker.tamper = lambda bars: [divided(bar, 4.0) for bar in bars]
    broker.asked.clear()
    after = fetch()
    assert [duration for duration, _ in broker.asked] == ["5 D", "254 D"]
    assert "4 times the broker's, a split" in caplog.text
    assert after.bars[-2].close == pytest.approx(before.bars[-1].close / 4)
    assert after.cached == 0
    # Older bars, outside of the window, were on the old basis too: they are gone.
    assert [bar.time for bar in stored(database, broker.source, spy)] == [bar.time for bar in after.bars]


def test_cached_bars_of_another_world_are_replaced(fetch: Fetch, broker: Watched) -> None:
    """The same connection may lead to a simulator with another seed."""
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    broker.tamper = lambda bars: [divided(bar, 1 + n % 7) for n, bar in enumerate(bars)]
    fetch(BarsRequest(duration="1 M"))
    broker.tamper = lambda bars: bars
    broker.clock = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    result = fetch(BarsRequest(duration="1 M"))
    assert result.cached == 0
    assert max(bar.close for bar in result.bars) / min(bar.close for bar in result.bars) < 2


def test_a_corrected_print_is_taken_over(fetch: Fetch, broker: Watched) -> None:
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    broker.tamper = lambda bars: [*bars[:-1], replace(bars[-1], volume=1.0)]
    assert fetch(BarsRequest(duration="1 M")).bars[-1].volume == 1.0
    broker.tamper = lambda bars: bars
    broker.clock = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    result = fetch(BarsRequest(duration="1 M"))
    assert result.cached == len(result.bars) - 4
    assert result.bars[-2].volume > 1.0


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (lambda bars: bars[:100] + bars[101:], "1 missing"),
        (lambda bars: bars[:-3], "more were complete by the broker's clock"),
        (lambda bars: [*bars[:9], replace(bars[8], close=bars[8].open), *bars[9:]], "1 twice"),
        (lambda bars: [bars[1], bars[0], *bars[2:]], "1 out of order"),
        (lambda bars: [*bars[:9], replace(bars[9], high=0.5), *bars[10:]], "1 with impossible prices"),
    ],
)
def test_bad_answers_are_refused_and_not_cached(
    fetch: Fetch, broker: Watched, database: Database, spy: Instrument, tamper: Any, says: str
) -> None:
    broker.tamper = tamper
    with pytest.raises(BadBars, match=says):
        fetch()
    assert stored(database, broker.source, spy) == []
    broker.tamper = lambda bars: bars
    assert len(fetch().bars) == 250


def test_a_bad_tail_loses_nothing_stored(fetch: Fetch, broker: Watched, database: Database, spy: Instrument) -> None:
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    fetch()
    before = stored(database, broker.source, spy)
    broker.clock = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    broker.tamper = lambda bars: [replace(bar, low=bar.high + 1) for bar in bars]
    with pytest.raises(BadBars):
        fetch()
    assert stored(database, broker.source, spy) == before


def test_an_interrupted_save_loses_nothing(
    fetch: Fetch, broker: Watched, database: Database, spy: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    fetch()
    before = stored(database, broker.source, spy)
    save = Bars.save

    def dies_behind_the_write(self: Bars, *args: Any) -> int:
        save(self, *args)
        raise StoreError("killed")

    broker.clock = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    broker.tamper = lambda bars: [divided(bar, 2.0) for bar in bars]  # the old bars are deleted before
    with monkeypatch.context() as patched:
        patched.setattr(Bars, "save", dies_behind_the_write)
        with pytest.raises(StoreError):
            fetch()
    assert stored(database, broker.source, spy) == before
    assert len(fetch().bars) == 251


def test_exact_repeats_are_dropped(fetch: Fetch, broker: Watched, caplog: pytest.LogCaptureFixture) -> None:
    broker.tamper = lambda bars: [*bars[:9], bars[8], *bars[9:]]
    assert len(fetch().bars) == 250
    assert "sent 1 bars twice" in caplog.text


def test_a_younger_instrument_is_no_error(fetch: Fetch, broker: Watched) -> None:
    listed = datetime(2025, 12, 1, tzinfo=UTC)

    def since_listing(bars: list[Bar]) -> list[Bar]:
        if not (kept := [bar for bar in bars if bar.time >= listed]):
            raise NoMarketData("HMDS query returned no data", code=162)
        return kept

    broker.tamper = since_listing
    first = fetch()
    assert first.first == listed
    assert "begins on 2025-12-01" in first.report.warnings[0]
    assert fetch().bars == first.bars


def test_an_empty_history_says_what_to_do(fetch: Fetch, instruments: dict[str, Instrument]) -> None:
    with pytest.raises(NoMarketData) as caught:
        fetch(YEAR, instruments["EUR.USD"])  # IBKR has no TRADES of currencies
    assert caught.value.remedy


def test_forming_bars_only_are_no_history(fetch: Fetch, broker: Watched) -> None:
    broker.tamper = lambda bars: bars[-1:]
    with pytest.raises(NoMarketData, match="no complete bar"):
        fetch(BarsRequest(duration="5 D"))


def test_forex_over_the_weekend_and_christmas(
    fetch: Fetch, broker: Watched, instruments: dict[str, Instrument]
) -> None:
    pair = instruments["EUR.USD"]
    daily = fetch(BarsRequest(what="MIDPOINT"), pair)
    assert {bar.time.weekday() for bar in daily.bars} == {0, 1, 2, 3, 4}
    hourly = fetch(BarsRequest(what="MIDPOINT", bar_size="1 hour", duration="5 D"), pair)
    assert hourly.last == TUESDAY - timedelta(hours=1)
    asked = len(broker.asked)
    fetch(BarsRequest(what="MIDPOINT", bar_size="1 hour", duration="5 D"), pair)
    fetch(BarsRequest(what="MIDPOINT"), pair)
    assert len(broker.asked) == asked


@pytest.mark.parametrize(
    ("bar_size", "duration", "count"),
    [
        ("1 week", "1 Y", 52),
        ("1 month", "2 Y", 24),
        ("4 hours", "10 D", 18),
        ("3 hours", "40 D", 3 * 39),  # in two requests, each ends with a bar that the close cuts short
        ("1 hour", "10 D", 65),
        ("5 mins", "2 W", 9 * 78 + 18),
        ("1 min", "2 D", 390 + 90),
        ("30 secs", "3600 S", 120),
        ("5 secs", "7200 S", 1440),
    ],
)
def test_every_kind_of_bar_is_complete_and_cached(
    fetch: Fetch, broker: Watched, bar_size: str, duration: str, count: int
) -> None:
    broker.clock = TUESDAY
    request = BarsRequest(bar_size=bar_size, duration=duration)
    first = fetch(request)
    assert (len(first.bars), first.report.warnings) == (count, ())
    asked = len(broker.asked)
    assert fetch(request).bars == first.bars
    assert len(broker.asked) == asked


def test_intraday_tail(fetch: Fetch, broker: Watched) -> None:
    request = BarsRequest(bar_size="5 mins", duration="2 D")
    broker.clock = TUESDAY - timedelta(minutes=30)
    fetch(request)
    broker.clock = TUESDAY - timedelta(minutes=26)
    fetch(request)  # nothing new is complete
    assert len(broker.asked) == 1
    broker.clock = TUESDAY - timedelta(minutes=19)
    result = fetch(request)
    assert result.last == TUESDAY - timedelta(minutes=25)
    assert [duration for duration, _ in broker.asked[1:]] == ["1860 S"]
    assert result.fetched == 5  # two new, three of overlap


def test_a_bar_that_has_ended_just_now_may_still_be_under_way(fetch: Fetch, broker: Watched) -> None:
    request = BarsRequest(bar_size="5 mins", duration="1 D")
    broker.tamper = lambda bars: [bar for bar in bars if bar.time < TUESDAY - timedelta(minutes=5)]
    broker.clock = TUESDAY + timedelta(seconds=29)
    assert fetch(request).last == TUESDAY - timedelta(minutes=10)
    broker.clock = TUESDAY + timedelta(seconds=30)
    with pytest.raises(BadBars, match="1 more were complete"):
        fetch(request)


def test_extended_hours(fetch: Fetch) -> None:
    result = fetch(BarsRequest(bar_size="1 hour", duration="3 D", use_rth=False))
    assert {bar.time.hour for bar in result.bars} > {13, 14, 20, 23}


def test_a_clock_that_was_set_back(fetch: Fetch, broker: Watched) -> None:
    fetch()
    broker.clock = datetime(2026, 2, 2, 22, 0, tzinfo=UTC)
    result = fetch(BarsRequest(duration="1 M"))
    assert result.last == datetime(2026, 2, 2, tzinfo=UTC)
    assert len(broker.asked) == 1


def test_a_clock_that_was_set_back_asks_for_nothing_of_the_future(fetch: Fetch, broker: Watched) -> None:
    broker.clock = datetime(2026, 3, 9, 22, 0, tzinfo=UTC)
    fetch(BarsRequest(duration="3 D"))
    broker.clock = datetime(2026, 3, 4, 22, 0, tzinfo=UTC)
    assert fetch(BarsRequest(duration="3 D")).last == datetime(2026, 3, 4, tzinfo=UTC)
    assert [end for _, end in broker.asked[1:]] == [None]  # the broker's now


def test_the_exchanges_own_calendar_comes_first(fetch: Fetch) -> None:
    assert len(fetch(BarsRequest(duration="5 D", calendar="XTKS")).bars) == 5


def test_an_end_in_the_future_is_now(fetch: Fetch) -> None:
    later = fetch(BarsRequest(duration="5 D", end=TUESDAY + timedelta(days=30)))
    assert later.last == datetime(2026, 3, 9, tzinfo=UTC)
    assert later.bars == fetch(BarsRequest(duration="5 D")).bars


def test_a_bar_of_all_hours_is_complete_when_extended_trading_ends(fetch: Fetch, broker: Watched) -> None:
    broker.clock = datetime(2026, 3, 7, 0, 59, 59, tzinfo=UTC)  # Friday, 19:59:59 in New York
    assert fetch(BarsRequest(duration="5 D", use_rth=False)).last == datetime(2026, 3, 5, tzinfo=UTC)
    broker.clock = datetime(2026, 3, 7, 1, 0, tzinfo=UTC)
    assert fetch(BarsRequest(duration="5 D", use_rth=False)).last == datetime(2026, 3, 6, tzinfo=UTC)


def test_too_many_requests_are_refused_before_the_first(fetch: Fetch, broker: Watched) -> None:
    with pytest.raises(ConfigError, match="requests of IBKR"):
        fetch(BarsRequest(bar_size="1 secs", duration="20 D"))
    assert broker.asked == []


def test_what_cannot_be_checked_is_refused(fetch: Fetch, spy: Instrument) -> None:
    nowhere = replace(spy, primary_exchange="NOWHERE")
    with pytest.raises(ConfigError, match="no exchange calendar is known for NOWHERE"):
        fetch(YEAR, nowhere)
    assert fetch(BarsRequest(calendar="XNYS"), nowhere).bars
    with pytest.raises(ConfigError, match="is no bar size"):
        fetch(BarsRequest(bar_size="7 mins"))


def test_a_pacing_violation_keeps_its_delay(fetch: Fetch, broker: Watched, database: Database, spy: Instrument) -> None:
    def too_much(bars: list[Bar]) -> list[Bar]:
        raise PacingViolation("Historical data request pacing violation", code=162)

    broker.tamper = too_much
    pacing = Pacing(database, broker.spec.address, most_wait=0)
    with pytest.raises(PacingViolation) as caught:
        fetch_bars(broker, database, spy, YEAR, pacing=pacing)  # type: ignore[arg-type]
    assert caught.value.retry_after == pytest.approx(15.3, abs=0.3)


SECONDS = BarsRequest(bar_size="5 secs", duration="2 D")  # yesterday and this morning, by 30 minutes or an hour


def interrupted(fetch: Fetch, broker: Watched, answers: int, request: BarsRequest = SECONDS) -> None:
    """So many answers, and no room for the next request."""
    left = answers
    calm = broker.tamper

    def limited(bars: list[Bar]) -> list[Bar]:
        nonlocal left
        if not left:
            raise PacingViolation("no room", code=None)
        left -= 1
        return calm(bars)

    broker.tamper = limited
    with pytest.raises(PacingViolation):
        fetch(request)
    broker.tamper = calm


@pytest.fixture
def unpaced(broker: Watched, database: Database, spy: Instrument) -> Fetch:
    """Without waits; what raises PacingViolation is the test."""

    class Unpaced(Pacing):
        def history(self, session: Any, instrument: Any, request: Any) -> list[Bar]:
            return session.history(  # type: ignore[no-any-return]
                instrument,
                bar_size=request.bar_size,
                duration=request.duration,
                end=request.end,
                what=request.what,
                use_rth=request.use_rth,
            )

    def run(request: BarsRequest = SECONDS) -> BarsResult:
        return fetch_bars(broker, database, spy, request, pacing=Unpaced(database, "none"))  # type: ignore[arg-type]

    return run


@pytest.fixture
def any_pace(simulator: SimulatorHandle) -> Iterator[None]:
    """However many requests at one moment."""
    simulator.control("pacing_rules", on=False)
    simulator.control("clock", freeze=True)
    yield
    simulator.control("clock", freeze=False)
    simulator.control("pacing_rules", on=True)


@pytest.mark.usefixtures("any_pace")
def test_a_fetch_goes_on_from_where_it_was_interrupted(
    unpaced: Fetch, broker: Watched, database: Database, spy: Instrument
) -> None:
    interrupted(unpaced, broker, 3)
    kept = stored(database, broker.source, spy, "5 secs")
    first = len(broker.asked)
    result = unpaced()
    assert result.cached > 0
    assert result.cached >= len(kept) - 10  # but for the overlap, in which a split would show
    asked = broker.asked[first:]
    assert not {end for _, end in broker.asked[:3]} & {end for _, end in asked}
    # As if it had not been interrupted.
    with database.write() as transaction:
        Bars(transaction).delete(broker.source, spy.con_id, "5 secs", "TRADES", True)
    assert unpaced().bars == result.bars


@pytest.mark.usefixtures("any_pace")
def test_a_tail_that_was_interrupted_leaves_a_hole_that_is_filled(unpaced: Fetch, broker: Watched) -> None:
    """The latest is asked for first: between it and what was cached before is a hole."""
    broker.clock = datetime(2026, 3, 9, 15, 0, tzinfo=UTC)
    unpaced(BarsRequest(bar_size="5 secs", duration="1 D"))
    broker.clock = None
    interrupted(unpaced, broker, 1)
    result = unpaced()
    assert (result.report.gaps, result.first) == ((), datetime(2026, 3, 9, 13, 30, tzinfo=UTC))
    assert result.last >= TUESDAY - timedelta(seconds=5)
    assert result.cached > 12 * 90  # the first hour and a half, and what came last


def test_what_is_bad_is_not_kept_either(unpaced: Fetch, broker: Watched, database: Database, spy: Instrument) -> None:
    broker.clock = datetime(2026, 3, 5, 14, 0, tzinfo=UTC)
    unpaced(BarsRequest(duration="1 M"))
    broker.clock = None
    before = stored(database, broker.source, spy)
    saturday = datetime(2026, 1, 17, tzinfo=UTC)
    broker.tamper = lambda bars: sorted([*bars, replace(bars[0], time=saturday)], key=lambda bar: bar.time)
    with pytest.raises(BadBars, match="no session"):
        interrupted(unpaced, broker, 1, BarsRequest(duration="3 M"))
    assert stored(database, broker.source, spy) == before
