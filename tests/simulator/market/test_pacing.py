"""IBKR's pacing rules for history. That the product keeps them: tests/trading/test_pacing.py."""

from __future__ import annotations

import pytest

from airflow_ibkr_plugin.simulator.market.pacing import Pacing


class Time:
    """A clock that stands where it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def pacing(time: Time) -> Pacing:
    return Pacing(time)


def test_identical_requests_are_fifteen_seconds_apart(pacing: Pacing, time: Time) -> None:
    assert pacing.take("AAPL", "same")
    time.now += 14.9
    assert not pacing.take("AAPL", "same")
    # What was refused does not count.
    time.now += 0.1
    assert pacing.take("AAPL", "same")


def test_the_sixth_of_a_series_within_two_seconds_is_too_many(pacing: Pacing, time: Time) -> None:
    assert [pacing.take("AAPL", n) for n in range(6)] == [True] * 5 + [False]
    assert pacing.take("MSFT", "other")
    time.now += 2
    assert pacing.take("AAPL", 6)


def test_bid_ask_counts_twice(pacing: Pacing) -> None:
    assert [pacing.take("AAPL", n, 2) for n in range(3)] == [True, True, False]


def test_sixty_in_ten_minutes(pacing: Pacing, time: Time) -> None:
    for number in range(60):
        assert pacing.take(number, number)
        time.now += 5
    assert not pacing.take(60, 60)
    time.now += 299
    assert not pacing.take(60, 60)
    time.now += 1
    assert pacing.take(60, 60)


def test_it_can_be_switched_off_and_starts_anew(pacing: Pacing) -> None:
    assert pacing.take("AAPL", 1)
    pacing.switch(on=False)
    assert all(pacing.take("AAPL", 1) for _ in range(100))
    pacing.switch(on=True)
    assert pacing.take("AAPL", 1)
    assert not pacing.take("AAPL", 1)


def test_it_tells_what_it_counted(pacing: Pacing, time: Time) -> None:
    assert pacing.take("AAPL", 1, 2)
    assert pacing.take("AAPL", 2)
    assert not pacing.take("AAPL", 2)
    assert (pacing.counted, pacing.refused) == (3, 1)
    pacing.switch(on=True)
    assert (pacing.counted, pacing.refused) == (0, 0)
