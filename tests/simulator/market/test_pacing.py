"""IBKR's pacing rules for history, and that the product's own pacing keeps them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.broker.pacing import HistoryRequest, wait_for
from airflow_ibkr_plugin.simulator.market.pacing import Pacing

START = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)


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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),  # the contract
            st.sampled_from(["TRADES", "BID_ASK", "MIDPOINT"]),
            st.sampled_from(["60 S", "120 S", "1800 S"]),
            st.floats(0, 20),  # seconds since the one before
        ),
        max_size=120,
    )
)
def test_what_the_product_waits_for_is_never_refused(asked: list[tuple[int, str, str, float]]) -> None:
    time = Time()
    pacing = Pacing(time)
    sent: list[tuple[str, datetime]] = []
    for con_id, what, duration, pause in asked:
        time.now += pause
        request = HistoryRequest(con_id=con_id, what=what, bar_size="5 secs", duration=duration, end=None, use_rth=True)
        now = START + timedelta(seconds=time.now)
        lately = [(key, at) for key, at in sent if now - at < timedelta(minutes=10, seconds=1)]
        wait = max(wait_for(request, lately, now), timedelta(0))
        time.now += wait.total_seconds()
        assert pacing.take((con_id, what), request.key, request.weight), wait
        sent += [(request.key, now + wait)] * request.weight
