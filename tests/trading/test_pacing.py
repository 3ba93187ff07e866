"""How long to wait, and how much slower to go; against the simulator's own reading of IBKR's rules."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.market.pacing import ALL_SECONDS, IN_ALL, OPEN_AT_ONCE
from airflow_ibkr_plugin.simulator.market.pacing import Pacing as Broker
from airflow_ibkr_plugin.trading.pacing import (
    LOOK_AGAIN,
    MARGIN,
    MOST_HALVINGS,
    PAUSE,
    WINDOW,
    HistoryRequest,
    Pace,
    bounded,
    pace_at,
    wait_for,
)

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
ZERO = timedelta(0)
OPEN, KEPT = timedelta(minutes=3), timedelta(minutes=1)


@dataclass
class Row:
    """A request in line, sent or answered."""

    request: str
    series: str
    weight: int
    sent_at: datetime | None
    until: datetime


@dataclass(frozen=True)
class Said:
    """A complaint about a request that was sent just before, unless said otherwise."""

    at: datetime
    sent_at: datetime


def request(**changes: Any) -> HistoryRequest:
    fields: dict[str, Any] = {"con_id": 1, "what": "TRADES", "bar_size": "5 secs", "duration": "1800 S", "end": NOON}
    return HistoryRequest(**{**fields, "use_rth": True, **changes})


def row(wanted: HistoryRequest, sent: datetime | None, until: datetime) -> Row:
    return Row(wanted.key, wanted.series, wanted.weight, sent, until)


def hours(count: int, **changes: Any) -> list[HistoryRequest]:
    return [request(end=NOON + timedelta(hours=hour), **changes) for hour in range(count)]


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def wait(wanted: HistoryRequest, rows: list[Row], at: float, pace: Pace = Pace()) -> float:  # noqa: B008  frozen
    return wait_for(wanted, rows, pace, after(at)).total_seconds()


def test_identical_requests_are_counted_from_the_answer() -> None:
    answered = [row(request(), NOON, after(4))]
    assert wait(request(), answered, 10) == pytest.approx(4 + 15.3 - 10)
    assert wait(request(), answered, 19.3) == 0
    assert wait(request(duration="60 S"), answered, 10) == 0


def test_what_is_on_its_way_may_reach_the_broker_only_now() -> None:
    assert wait(request(), [row(request(), NOON, after(180))], 100) == pytest.approx(15.3)


def test_a_killed_process_holds_others_up_until_it_is_taken_for_dead() -> None:
    killed = [row(request(), NOON, after(180))]
    assert wait(request(), killed, 190) == pytest.approx(5.3)
    assert wait(request(), killed, 196) == 0


def test_five_of_a_series_in_two_seconds() -> None:
    rows = [row(one, NOON, after(0.1)) for one in hours(5)]
    other = request(end=None)
    assert wait(other, rows, 1) == pytest.approx(0.1 + 2.3 - 1)
    assert wait(other, rows[1:], 1) == 0
    assert wait(request(con_id=2), rows, 1) == 0
    assert wait(request(what="MIDPOINT"), rows, 1) == 0


def test_bid_ask_counts_twice() -> None:
    rows = [row(one, NOON, NOON) for one in hours(2, what="BID_ASK")]
    assert wait(request(what="BID_ASK", end=None), rows, 1) == pytest.approx(1.3)
    full = [row(request(con_id=n), NOON, NOON) for n in range(10, 69)]
    assert wait(request(), full, 1) == 0
    assert wait(request(what="BID_ASK"), full, 1) == pytest.approx(599.3)


def test_sixty_in_ten_minutes() -> None:
    rows = [row(request(con_id=n), after(n), after(n)) for n in range(60)]
    assert wait(request(con_id=99), rows, 60) == pytest.approx(540.3)
    assert wait(request(con_id=99), rows, 600.3) == 0


def test_larger_bars_are_neither_limited_nor_counted() -> None:
    rows = [row(request(bar_size="1 min"), NOON, NOON) for _ in range(100)]
    assert wait(request(bar_size="1 min"), rows, 0) == 0
    assert wait(request(), rows, 0) == 0
    assert wait(request(bar_size="30 secs"), [row(request(bar_size="30 secs"), NOON, NOON)], 0) > 0


def test_fifty_of_any_size_may_be_open() -> None:
    daily = request(bar_size="1 day")
    rows = [row(request(con_id=n, bar_size="1 day" if n % 2 else "5 secs"), NOON, after(180)) for n in range(50)]
    assert wait(daily, rows, 1) == LOOK_AGAIN.total_seconds()
    rows[7].until = after(1)  # answered
    assert wait(daily, rows, 1) == 0
    assert wait(daily, rows, 180) == 0  # all killed


def test_who_waits_for_one_of_the_fifty_is_not_overtaken() -> None:
    daily = request(bar_size="1 day")
    rows = [row(request(con_id=n, bar_size="1 day"), NOON, after(180)) for n in range(49)]
    assert wait(daily, rows, 1) == 0
    first = row(request(con_id=99, bar_size="1 day"), None, after(60))
    assert wait(daily, [*rows, first], 1) == LOOK_AGAIN.total_seconds()


def test_other_hours_are_another_request() -> None:
    assert wait(request(use_rth=False), [row(request(), NOON, NOON)], 1) == 0


def test_who_waits_in_line_is_not_overtaken() -> None:
    spent = [row(request(con_id=n), NOON, NOON) for n in range(60)]
    first = row(request(con_id=98), None, after(700))
    spent[30].until = after(-1)  # one place is free a second before the others
    assert wait(request(con_id=99), spent, 599.5) == 0
    assert wait(request(con_id=99), [*spent, first], 599.5) == pytest.approx(0.8)
    first.until = after(599)  # it died in line
    assert wait(request(con_id=99), [*spent, first], 599.5) == 0


def test_who_waits_in_line_for_the_limits_of_small_bars_holds_no_open_request() -> None:
    waiting = [row(request(con_id=n), None, after(700)) for n in range(60)]
    assert wait(request(bar_size="1 day"), waiting, 1) == 0


# --- after a complaint ---------------------------------------------------------------------------------------


def said(*seconds: float) -> list[Said]:
    return [Said(after(at), after(at - 0.1)) for at in seconds]


def test_a_complaint_is_waited_out_and_halves_the_rate() -> None:
    pace = pace_at(said(0), after(1))
    assert (pace.halvings, pace.not_before) == (1, NOON + PAUSE)
    assert wait(request(bar_size="1 day"), [], 1, pace) == pytest.approx(14.3)
    spent = [row(request(con_id=n), NOON, NOON) for n in range(30)]
    assert wait(request(), spent[:29], 20, pace) == 0
    assert wait(request(), spent, 20, pace) == pytest.approx(580.3)
    # A request that counts twice gets through at any rate.
    assert wait(request(what="BID_ASK"), [], 100, Pace(MOST_HALVINGS)) == 0
    assert wait(request(bar_size="1 day"), [row(request(bar_size="1 day"), NOON, after(99))] * 6, 1, Pace(3)) > 0


def test_the_rate_recovers_step_by_step() -> None:
    steps = [pace_at(said(0, 60, 120, 180), after(at)).halvings for at in (181, 779, 780, 1380, 1980)]
    assert steps == [3, 3, 2, 1, 0]


def test_what_was_sent_at_the_old_rate_lowers_nothing_again() -> None:
    burst = [Said(after(n), after(-1)) for n in range(5)]
    assert pace_at(burst, after(5)) == Pace(1, after(4) + PAUSE)
    assert pace_at([*burst, Said(after(30), after(25))], after(31)) == Pace(2, after(30) + 2 * PAUSE)
    # At the moment at which the rate was lowered what is sent is sent at the new one.
    assert pace_at([Said(NOON, NOON), Said(after(1), NOON)], after(2)).halvings == 2
    # An old complaint that comes late starts no step of the recovery anew.
    late = [*said(0, 60), Said(after(900), after(-1))]
    assert [pace_at(late, after(at)).halvings for at in (901, 1259, 1260)] == [1, 1, 0]


@given(st.lists(st.tuples(st.floats(0, 2000), st.floats(0, 60)), max_size=12), st.floats(0, 4000))
def test_the_pace_is_bounded_and_always_recovers(waits: list[tuple[float, float]], later: float) -> None:
    at, complaints = NOON, []
    for pause, took in waits:
        at += timedelta(seconds=pause)
        complaints.append(Said(at, at - timedelta(seconds=took)))
    pace = pace_at(complaints, at + timedelta(seconds=later))
    assert 0 <= pace.halvings <= MOST_HALVINGS
    assert pace_at(complaints, at + MOST_HALVINGS * WINDOW).halvings == 0
    if complaints:
        assert pace_at(complaints, at).halvings >= 1
        assert at < (pace.not_before or at) <= at + PAUSE * 2 ** (MOST_HALVINGS - 1)


# --- many workers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A request, and what happens to it, in seconds.

    :param pause: before it is asked. :param travels: to the broker. :param takes: to be answered.
    :param dies: its process: "in line", or "sent".
    """

    request: HistoryRequest
    pause: float = 0.0
    travels: float = 0.0
    takes: float = 0.0
    dies: str = ""


@dataclass
class World:
    """Workers, the shared rows and the broker, all in one made-up time."""

    now: float = 0.0
    rows: list[Row] = field(default_factory=list)
    counted: int = 0
    open: int = 0
    waited: list[float] = field(default_factory=list)
    set_back: float = 0.0  # by so much the workers' clock shows less than the time that has gone by
    _steps: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.broker = Broker(lambda: self.now)

    def clock(self) -> datetime:
        return after(self.now - self.set_back)

    def turn_back(self, seconds: float) -> None:
        self.set_back += seconds

    def later(self, seconds: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._steps, (self.now + seconds, next(self._numbers), step))

    def run(self, until: float = float("inf")) -> None:
        while self._steps and self._steps[0][0] < until:
            self.now, _, step = heapq.heappop(self._steps)
            step()

    def work(self, jobs: Iterator[Job]) -> None:
        if job := next(jobs, None):
            self.later(job.pause, lambda: self._line_up(job, jobs))

    def _line_up(self, job: Job, jobs: Iterator[Job]) -> None:
        self.rows.append(row(job.request, None, self.clock() + KEPT))
        self._look(len(self.rows) - 1, job, jobs, self.now)

    def _look(self, index: int, job: Job, jobs: Iterator[Job], since: float) -> None:
        now = self.clock()
        for one in self.rows:
            one.sent_at, one.until = bounded(one, now, open_for=OPEN, kept=KEPT)
        ahead = [r for n, r in enumerate(self.rows) if n != index and (r.sent_at or n < index)]
        mine, pause = self.rows[index], wait_for(job.request, ahead, Pace(), now)
        if pause > ZERO:
            mine.until = now + pause + KEPT
            if job.dies != "in line":
                self.later(pause.total_seconds(), lambda: self._look(index, job, jobs, since))
            return
        mine.sent_at, mine.until = now, now + OPEN
        self.waited.append(self.now - since)
        self.later(job.travels, lambda: self._arrive(mine, job, jobs))

    def _arrive(self, mine: Row, job: Job, jobs: Iterator[Job]) -> None:
        wanted = job.request
        if wanted.weight:
            weight = 2 if wanted.what == "BID_ASK" else 1
            assert self.broker.take((wanted.con_id, wanted.what), wanted, weight), (self.now, wanted.key)
            self.counted += weight
        if job.dies == "sent":
            return
        self.open += 1
        assert self.open <= OPEN_AT_ONCE
        self.later(job.takes, lambda: self._answer(mine, jobs))

    def _answer(self, mine: Row, jobs: Iterator[Job]) -> None:
        self.open -= 1
        mine.until = self.clock()
        self.work(jobs)


REQUESTS = st.builds(
    lambda con_id, what, hour, bar_size: request(
        con_id=con_id, what=what, end=NOON + timedelta(hours=hour), bar_size=bar_size
    ),
    st.integers(1, 2),
    st.sampled_from(["TRADES", "BID_ASK"]),
    st.integers(0, 3),
    st.sampled_from(["5 secs", "5 secs", "30 secs", "1 min"]),
)
JOBS = st.builds(
    Job,
    request=REQUESTS,
    pause=st.floats(0, 20),
    travels=st.floats(0, 5),
    takes=st.floats(0, 30),
    dies=st.sampled_from(["", "", "", "", "in line", "sent"]),
)


@settings(max_examples=60)
@given(st.lists(st.lists(JOBS, max_size=40), min_size=1, max_size=8))
def test_no_interleaving_breaks_a_rule(workers: list[list[Job]]) -> None:
    world = World()
    for jobs in workers:
        world.work(iter(jobs))
    world.run()


@settings(max_examples=60)
@given(
    st.lists(st.lists(JOBS, max_size=40), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(0, 1500), st.floats(0.01, 100_000)), min_size=1, max_size=3),
)
def test_nor_does_a_clock_that_is_set_back(workers: list[list[Job]], set_back: list[tuple[float, float]]) -> None:
    world = World()
    for jobs in workers:
        world.work(iter(jobs))
    for at, seconds in set_back:
        world.later(at, partial(world.turn_back, seconds))
    world.run()
    # Each may be held up by a window anew, and by who died in line; never by the time that was set back.
    assert world.now < 100_000


def test_a_window_that_was_full_when_the_clock_was_set_back_is_free_ten_minutes_later() -> None:
    world = World()
    for number in range(60):
        world.work(iter([Job(request(con_id=number))]))
    world.later(100, partial(world.turn_back, 86_400.0))
    world.work(iter([Job(request(con_id=99), pause=101.0)]))
    world.run()
    assert world.waited[-1] == pytest.approx((WINDOW + MARGIN).total_seconds())


@settings(max_examples=5)
@given(st.lists(st.floats(0, 5), min_size=60, max_size=120))
def test_fifty_open_requests_are_never_passed(takes: list[float]) -> None:
    world = World()
    for number, seconds in enumerate(takes):
        world.work(iter([Job(request(con_id=number, bar_size="1 day"), takes=seconds)]))
    world.run()
    assert len(world.waited) == len(takes)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_what_is_allowed_is_used_and_nobody_starves(seed: int) -> None:
    """Eight workers that always want more, for an hour."""
    chance, world = Random(seed), World()

    def greedy() -> Iterator[Job]:
        while True:
            wanted = request(
                con_id=chance.randint(1, 4),
                what=chance.choice(["TRADES", "MIDPOINT", "BID_ASK"]),
                end=NOON + timedelta(hours=chance.randint(0, 9)),
            )
            yield Job(wanted, travels=chance.random(), takes=chance.random())

    for _ in range(8):
        world.work(greedy())
    hour = 6 * ALL_SECONDS
    world.run(until=hour)
    assert world.counted >= 0.9 * 6 * IN_ALL
    assert max(world.waited) <= (WINDOW + 10 * MARGIN).total_seconds() + 10
