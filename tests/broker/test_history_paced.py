"""History where IBKR's pacing interrupts it: what has come is kept, and the next try goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.history import BarsRequest, BarsResult, fetch_bars
from airflow_ibkr_plugin.broker.pacing import Pacing
from airflow_ibkr_plugin.errors import BadBars, BrokerError, BrokerTimeout, GatewayUnavailable, PacingViolation
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.bars import Bars
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import Instrument

Fetch = Callable[..., BarsResult]
Stored = Callable[..., list[Bar]]
TUESDAY = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)  # 11:00 in New York, where the simulated clock starts


def test_a_pacing_violation_keeps_its_delay(fetch: Fetch, broker: Any, database: Database, spy: Instrument) -> None:
    def too_much(bars: list[Bar]) -> list[Bar]:
        raise PacingViolation("Historical data request pacing violation", code=162)

    broker.tamper = too_much
    pacing = Pacing(database, broker.spec.address, most_wait=0)
    with pytest.raises(PacingViolation) as caught:
        fetch_bars(broker, database, spy, BarsRequest(), pacing=pacing)
    assert caught.value.retry_after == pytest.approx(15.3, abs=0.3)


SECONDS = BarsRequest(bar_size="5 secs", duration="2 D")  # yesterday and this morning, by 30 minutes or an hour


NO_ROOM = PacingViolation("no room", code=None)


def interrupted(
    fetch: Fetch, broker: Any, answers: int, request: BarsRequest = SECONDS, by: BrokerError = NO_ROOM
) -> None:
    """So many answers, and none to the next request."""
    left = answers
    calm = broker.tamper

    def limited(bars: list[Bar]) -> list[Bar]:
        nonlocal left
        if not left:
            raise by
        left -= 1
        return calm(bars)

    broker.tamper = limited
    with pytest.raises(type(by)):
        fetch(request)
    broker.tamper = calm


@pytest.fixture
def unpaced(broker: Any, database: Database, spy: Instrument) -> Fetch:
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
        return fetch_bars(broker, database, spy, request, pacing=Unpaced(database, "none"))

    return run


@pytest.fixture
def any_pace(simulator: SimulatorHandle) -> Iterator[None]:
    """However many requests at one moment."""
    simulator.control("pacing_rules", on=False)
    simulator.control("clock", freeze=True)
    yield
    simulator.control("clock", freeze=False)
    simulator.control("pacing_rules", on=True)


@pytest.mark.parametrize(
    "by", [NO_ROOM, BrokerTimeout("no answer"), GatewayUnavailable("gone")], ids=lambda error: type(error).__name__
)
@pytest.mark.usefixtures("any_pace")
def test_a_fetch_goes_on_from_where_it_was_interrupted(
    unpaced: Fetch, broker: Any, database: Database, spy: Instrument, stored: Stored, by: BrokerError
) -> None:
    interrupted(unpaced, broker, 3, by=by)
    kept = stored("5 secs")
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
def test_a_tail_that_was_interrupted_leaves_a_hole_that_is_filled(unpaced: Fetch, broker: Any) -> None:
    """The latest is asked for first: between it and what was cached before is a hole."""
    broker.clock = datetime(2026, 3, 9, 15, 0, tzinfo=UTC)
    unpaced(BarsRequest(bar_size="5 secs", duration="1 D"))
    broker.clock = None
    interrupted(unpaced, broker, 1)
    result = unpaced()
    assert (result.report.gaps, result.first) == ((), datetime(2026, 3, 9, 13, 30, tzinfo=UTC))
    assert result.last >= TUESDAY - timedelta(seconds=5)
    assert result.cached > 12 * 90  # the first hour and a half, and what came last


def test_what_is_bad_is_not_kept_either(unpaced: Fetch, broker: Any, stored: Stored) -> None:
    broker.clock = datetime(2026, 3, 5, 14, 0, tzinfo=UTC)
    unpaced(BarsRequest(duration="1 M"))
    broker.clock = None
    before = stored()
    saturday = datetime(2026, 1, 17, tzinfo=UTC)
    broker.tamper = lambda bars: sorted([*bars, replace(bars[0], time=saturday)], key=lambda bar: bar.time)
    with pytest.raises(BadBars, match="no session"):
        interrupted(unpaced, broker, 1, BarsRequest(duration="3 M"))
    assert stored() == before
