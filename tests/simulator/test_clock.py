"""The simulated clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ib_insync as ibi
import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.clock import Clock, parse_instant
from airflow_ibkr_plugin.simulator.embedded import start_simulator

START = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)


def test_it_is_real_until_it_is_changed() -> None:
    with freeze_time(START) as real:
        clock = Clock()
        assert (clock.now(), clock.simulated, clock.speed) == (START, False, 1.0)
        clock.run_at(1.0)
        assert not clock.simulated
        real.tick(5)
        assert clock.now() == START + timedelta(seconds=5)


def test_it_jumps_runs_and_stands() -> None:
    with freeze_time(START) as real:
        clock = Clock()
        clock.set(START + timedelta(days=1))
        real.tick(10)
        assert clock.now() == START + timedelta(days=1, seconds=10)
        clock.run_at(60)
        real.tick(10)
        assert clock.now() == START + timedelta(days=1, seconds=610)
        clock.freeze()
        real.tick(100)
        assert clock.now() == START + timedelta(days=1, seconds=610)
        clock.advance(5)
        assert clock.now() == START + timedelta(days=1, seconds=615)
        clock.resume()
        real.tick(1)
        assert clock.now() == START + timedelta(days=1, seconds=675)
        clock.run_at(1)
        real.tick(1)
        assert clock.now() == START + timedelta(days=1, seconds=676)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_dumped_clock_goes_on(frozen: bool) -> None:
    with freeze_time(START) as real:
        clock = Clock()
        clock.run_at(60)
        clock.advance(3600)
        if frozen:
            clock.freeze()
        again = Clock()
        again.load(clock.dump())
        real.tick(10)
        assert again.now() == START + timedelta(seconds=3600 + (0 if frozen else 600))
        assert (again.frozen, again.speed) == (frozen, 60)


@pytest.mark.parametrize("state", [{}, {"offset": 1.0, "frozen": None}, {"real": "x"}, None])
def test_what_is_no_dumped_clock(state: Any) -> None:
    with pytest.raises(ConfigError, match="clock cannot be read"):
        Clock().load(state)


@pytest.mark.parametrize("speed", [0, -1, 86_401, float("nan"), float("inf")])
def test_speeds_that_cannot_be(speed: float) -> None:
    with pytest.raises(ConfigError, match="cannot run at speed"):
        Clock().run_at(speed)


@pytest.mark.parametrize("text", ["noon", "2026-11-20", "2026-11-20T16:00:00", "2026-13-01T00:00:00Z", ""])
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(ConfigError, match="is no instant"):
        parse_instant(text)


steps = st.lists(
    st.tuples(st.just("tick"), st.floats(0, 1e4))
    | st.tuples(st.just("run_at"), st.floats(0.01, 1000))
    | st.tuples(st.just("freeze"), st.none())
    | st.tuples(st.just("resume"), st.none())
    | st.tuples(st.just("advance"), st.floats(0, 1e6)),
    max_size=20,
)


@given(steps)
def test_it_never_runs_backwards_and_no_change_makes_it_jump(made: list[tuple[str, Any]]) -> None:
    with freeze_time(START) as real:
        clock = Clock()
        for what, value in made:
            before = clock.time()
            if what == "tick":
                real.tick(timedelta(seconds=value))
            elif value is None:
                getattr(clock, what)()
            else:
                getattr(clock, what)(value)
            assert clock.time() >= before - 1e-5
            if what in ("run_at", "freeze", "resume"):
                assert clock.time() == pytest.approx(before, abs=1e-5)


def test_a_fast_clock_moves_orders_and_quotes(start: Any, connect: Any, until: Any) -> None:
    simulator = start(clock=datetime(2026, 11, 20, 14, 29, tzinfo=UTC))  # a minute before the open in New York
    ib = connect(simulator)
    trade = ib.placeOrder(ibi.Stock("AAPL", "SMART", "USD"), ibi.MarketOrder("BUY", 1))
    ticker = ib.reqMktData(ibi.Stock("AAPL", "SMART", "USD"))
    until(lambda: trade.orderStatus.status == "PreSubmitted")
    before = ticker.last
    assert simulator.control("clock", speed=3600, freeze=False)["speed"] == 3600
    until(trade.isDone)
    assert trade.fills[0].execution.time == datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    until(lambda: ticker.last != before)


def test_its_speed_is_part_of_the_state(tmp_path: Path) -> None:
    with start_simulator(state=tmp_path / "x.db", clock=START, clock_speed=60) as simulator:
        assert simulator.control("clock")["speed"] == 60
        before = parse_instant(simulator.control("clock")["now"])
    with start_simulator(state=tmp_path / "x.db") as simulator:
        clock = simulator.control("clock")
        assert (clock["speed"], parse_instant(clock["now"]) > before) == (60, True)
        simulator.control("clock", freeze=True)
        stood = simulator.control("clock")["now"]
    with start_simulator(state=tmp_path / "x.db") as simulator:
        assert simulator.control("clock") == {"ok": True, "now": stood, "simulated": True, "frozen": True, "speed": 60}
