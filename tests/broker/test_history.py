"""Market data through the real session and the simulated gateway: cached, asked for only where missing, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.history import BarsRequest, BarsResult
from airflow_ibkr_plugin.errors import BadBars, NoMarketData, StoreError
from airflow_ibkr_plugin.store.bars import Bars
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import Instrument

Fetch = Callable[..., BarsResult]
Stored = Callable[..., list[Bar]]
YEAR = BarsRequest()


def test_a_year_of_daily_bars_is_asked_for_once(fetch: Fetch, broker: Any) -> None:
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


def test_the_forming_bar_is_not_stored(fetch: Fetch, broker: Any, stored: Stored) -> None:
    fetch()
    assert max(bar.time for bar in stored()) == datetime(2026, 3, 9, tzinfo=UTC)


def test_half_a_year_extended_to_a_year_asks_only_for_the_missing_half(fetch: Fetch, broker: Any) -> None:
    half = fetch(BarsRequest(duration="6 M"))
    whole = fetch()
    assert [duration for duration, _ in broker.asked] == ["126 D", "132 D"]
    # The second answer ends with the third cached session, so that a split would show.
    assert broker.asked[1][1] == datetime(2025, 9, 15, 20, 0, tzinfo=UTC)
    assert half.first == datetime(2025, 9, 11, tzinfo=UTC)
    assert (len(whole.bars), whole.first) == (250, datetime(2025, 3, 11, tzinfo=UTC))


def test_a_later_day_asks_only_for_the_tail(fetch: Fetch, broker: Any) -> None:
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


def test_a_hole_in_the_cache_is_filled(fetch: Fetch, broker: Any) -> None:
    fetch(BarsRequest(duration="5 D", end=datetime(2026, 1, 30, 22, 0, tzinfo=UTC)))
    fetch(BarsRequest(duration="5 D"))
    result = fetch(BarsRequest(duration="3 M"))
    assert len(broker.asked) == 3
    assert result.report.gaps == ()
    assert len(result.bars) == 59


def test_a_hole_and_what_is_new_are_asked_for_together(fetch: Fetch, broker: Any) -> None:
    fetch(BarsRequest(duration="5 D", end=datetime(2026, 1, 30, 22, 0, tzinfo=UTC)))
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    fetch(BarsRequest(duration="5 D"))
    broker.clock = None
    result = fetch(BarsRequest(duration="3 M"))
    assert len(broker.asked) == 3
    assert (result.report.gaps, result.last) == ((), datetime(2026, 3, 9, tzinfo=UTC))


def test_windows_side_by_side_overlap(fetch: Fetch, broker: Any) -> None:
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
    fetch: Fetch, broker: Any, caplog: pytest.LogCaptureFixture, stored: Stored
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
    assert [bar.time for bar in stored()] == [bar.time for bar in after.bars]


def test_cached_bars_of_another_world_are_replaced(fetch: Fetch, broker: Any) -> None:
    """The same connection may lead to a simulator with another seed."""
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    broker.tamper = lambda bars: [divided(bar, 1 + n % 7) for n, bar in enumerate(bars)]
    fetch(BarsRequest(duration="1 M"))
    broker.tamper = lambda bars: bars
    broker.clock = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    result = fetch(BarsRequest(duration="1 M"))
    assert result.cached == 0
    assert max(bar.close for bar in result.bars) / min(bar.close for bar in result.bars) < 2


def test_a_corrected_print_is_taken_over(fetch: Fetch, broker: Any) -> None:
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
    fetch: Fetch, broker: Any, tamper: Any, says: str, stored: Stored
) -> None:
    broker.tamper = tamper
    with pytest.raises(BadBars, match=says):
        fetch()
    assert stored() == []
    broker.tamper = lambda bars: bars
    assert len(fetch().bars) == 250


def test_a_bad_tail_loses_nothing_stored(fetch: Fetch, broker: Any, stored: Stored) -> None:
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    fetch()
    before = stored()
    broker.clock = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    broker.tamper = lambda bars: [replace(bar, low=bar.high + 1) for bar in bars]
    with pytest.raises(BadBars):
        fetch()
    assert stored() == before


def test_an_interrupted_save_loses_nothing(
    fetch: Fetch, broker: Any, monkeypatch: pytest.MonkeyPatch, stored: Stored
) -> None:
    broker.clock = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    fetch()
    before = stored()
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
    assert stored() == before
    assert len(fetch().bars) == 251


def test_exact_repeats_are_dropped(fetch: Fetch, broker: Any, caplog: pytest.LogCaptureFixture) -> None:
    broker.tamper = lambda bars: [*bars[:9], bars[8], *bars[9:]]
    assert len(fetch().bars) == 250
    assert "sent 1 bars twice" in caplog.text


def test_a_younger_instrument_is_no_error(fetch: Fetch, broker: Any) -> None:
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


def test_forming_bars_only_are_no_history(fetch: Fetch, broker: Any) -> None:
    broker.tamper = lambda bars: bars[-1:]
    with pytest.raises(NoMarketData, match="no complete bar"):
        fetch(BarsRequest(duration="5 D"))
