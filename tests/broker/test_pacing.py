"""IBKR's limits for historical requests, kept over all tasks through the trading database."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.broker.pacing import HistoryRequest, Pacing, wait_for
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import PacingViolation
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.pacing_events import PacingEvents
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
SOURCE = "simulator:ibkr_test"


class Time:
    """A clock that moves only when someone sleeps."""

    def __init__(self) -> None:
        self.now = NOON
        self.slept: list[float] = []

    def clock(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


class Answering:
    """Notes when it was asked, by that clock."""

    def __init__(self, time: Time, errors: int = 0) -> None:
        self.time, self.errors = time, errors
        self.asked: list[datetime] = []

    def history(self, instrument: Any, **request: Any) -> list[Bar]:
        self.asked.append(self.time.now)
        if self.errors:
            self.errors -= 1
            raise PacingViolation("too much", code=162)
        return []


def request(**changes: Any) -> HistoryRequest:
    fields: dict[str, Any] = {"con_id": 1, "what": "TRADES", "bar_size": "5 secs", "duration": "1800 S", "end": NOON}
    return HistoryRequest(**{**fields, "use_rth": True, **changes})


def pacing(database: Database, time: Time, **options: Any) -> Pacing:
    return Pacing(database, SOURCE, clock=time.clock, sleep=time.sleep, **options)


def test_identical_requests_lie_fifteen_seconds_apart(database: Database) -> None:
    time = Time()
    broker = Answering(time)
    for task in range(3):  # each a process of its own: nothing but the database is shared
        pacing(database, time).history(broker, None, request())
        assert len(broker.asked) == task + 1
    assert min(b - a for a, b in zip(broker.asked, broker.asked[1:], strict=False)) >= timedelta(seconds=15)


def test_five_of_one_contract_in_two_seconds(database: Database) -> None:
    time = Time()
    broker, paced = Answering(time), pacing(database, time)
    for n in range(6):
        paced.history(broker, None, request(end=NOON + timedelta(hours=n)))
    assert broker.asked[4] == NOON
    assert broker.asked[5] - broker.asked[0] >= timedelta(seconds=2)
    for n in range(5):  # another contract has a limit of its own
        paced.history(broker, None, request(con_id=2, end=NOON + timedelta(hours=n)))
    assert broker.asked[-1] == broker.asked[5]


def test_a_tick_type_has_a_limit_of_its_own(database: Database) -> None:
    time = Time()
    broker, paced = Answering(time), pacing(database, time)
    for what, count in (("BID_ASK", 2), ("BID", 5), ("TRADES", 5)):
        for n in range(count):
            paced.history(broker, None, request(what=what, end=NOON + timedelta(hours=n)))
    assert broker.asked == [NOON] * 12


def test_bid_ask_counts_twice(database: Database) -> None:
    time = Time()
    broker, paced = Answering(time), pacing(database, time)
    for n in range(3):
        paced.history(broker, None, request(what="BID_ASK", end=NOON + timedelta(hours=n)))
    assert [at - NOON for at in broker.asked[:2]] == [timedelta(0)] * 2
    assert broker.asked[2] - NOON >= timedelta(seconds=2)


def test_a_wait_that_is_too_long_is_handed_to_airflow(database: Database) -> None:
    time = Time()
    broker, paced = Answering(time), pacing(database, time)
    for n in range(60):
        paced.history(broker, None, request(con_id=n))
    with pytest.raises(PacingViolation, match="leave no room") as caught:
        paced.history(broker, None, request(con_id=99))
    assert len(broker.asked) == 60
    assert caught.value.retry_after is not None
    assert 590 < caught.value.retry_after <= 601
    time.now += timedelta(minutes=9)
    with pytest.raises(PacingViolation, match="leave no room"):
        paced.history(broker, None, request(con_id=99))
    time.now += timedelta(seconds=caught.value.retry_after - 540)
    paced.history(broker, None, request(con_id=99))
    assert len(broker.asked) == 61


def test_a_wait_that_others_make_longer_is_not_begun_again_for_ever(database: Database) -> None:
    time = Time()
    pacing(database, time).history(Answering(time), None, request())

    def overtaken(seconds: float) -> None:
        time.sleep(seconds)
        pacing(database, time).history(Answering(time), None, request())  # another task wants the same

    with pytest.raises(PacingViolation, match="leave no room"):
        Pacing(database, SOURCE, clock=time.clock, sleep=overtaken).history(Answering(time), None, request())
    assert time.slept == [15.5]


def test_bars_of_half_a_minute_are_limited_too(database: Database) -> None:
    time = Time()
    for _ in range(2):
        pacing(database, time).history(Answering(time), None, request(bar_size="30 secs"))
    assert time.slept == [15.5]


def test_large_bars_are_not_limited(database: Database) -> None:
    time = Time()
    broker, paced = Answering(time), pacing(database, time)
    for _ in range(100):
        paced.history(broker, None, request(bar_size="1 min"))
    assert time.slept == []
    with database.read() as transaction:
        assert PacingEvents(transaction).recent(SOURCE, NOON) == []


def test_a_violation_is_waited_out_once_stored_and_then_raised(database: Database) -> None:
    time = Time()
    broker = Answering(time, errors=1)
    assert pacing(database, time).history(broker, None, request(bar_size="1 day")) == []
    assert time.slept == [15.5]
    broker.errors = 1
    with pytest.raises(PacingViolation, match="too much") as caught:
        pacing(database, time).history(broker, None, request(bar_size="1 day"))
    assert caught.value.retry_after == 60.0
    assert time.slept == [15.5]
    with database.read() as transaction:
        events = PacingEvents(transaction).recent(SOURCE, NOON)
    assert [(event.code, event.message, event.waited_seconds) for event in events] == [
        (162, "too much", 15.5),
        (162, "too much", 0.0),
    ]
    assert "1 day, 1800 S to 2026-03-10T12:00:00+00:00" in events[0].request


def test_a_violation_of_long_ago_does_not_count(database: Database) -> None:
    time = Time()
    broker = Answering(time, errors=1)
    pacing(database, time).history(broker, None, request(bar_size="1 day"))
    time.now += timedelta(minutes=10)
    broker.errors = 1
    pacing(database, time, most_wait=5).history(broker, None, request(bar_size="1 day"))
    assert time.slept == [15.5, 5]


def test_a_violation_is_no_request(database: Database) -> None:
    """What was sent counts as sent, whatever was answered; the record of the answer does not."""
    time = Time()
    broker = Answering(time, errors=1)
    pacing(database, time).history(broker, None, request())  # sent twice
    assert time.slept == [15.5]
    for n in range(58):
        pacing(database, time).history(broker, None, request(con_id=100 + n))
    assert (len(broker.asked), time.slept) == (60, [15.5])
    with pytest.raises(PacingViolation, match="leave no room"):
        pacing(database, time).history(broker, None, request(con_id=99))


def test_a_violation_of_the_gateway(own_simulator: SimulatorHandle, own_spec: Any, database: Database) -> None:
    with BrokerSession.open(own_spec, client_id=10) as session:
        spy = session.resolve(InstrumentSpec.parse("SPY"))
        own_simulator.control("pacing", count=1)
        time = Time()
        daily = request(con_id=spy.con_id, bar_size="1 day", duration="5 D", end=None)
        bars = Pacing(database, session.source, clock=time.clock, sleep=time.sleep).history(session, spy, daily)
        with database.read() as transaction:
            events = PacingEvents(transaction).recent(session.source, NOON)
    assert len(bars) == 5
    assert time.slept == [15.5]
    assert [event.code for event in events] == [162]


def test_racing_tasks_do_not_pass_together(database: Database) -> None:
    """Real threads, real transactions: of ten that want the same five places, five get none in time."""
    outcomes: list[str] = []
    start = threading.Barrier(10)

    def task(n: int) -> None:
        start.wait()
        try:
            own = Pacing(database, SOURCE, clock=lambda: NOON, most_wait=0.0)
            own.history(Answering(Time()), None, request(end=NOON + timedelta(hours=n)))
            outcomes.append("sent")
        except PacingViolation:
            outcomes.append("refused")

    threads = [threading.Thread(target=task, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 5 + ["sent"] * 5


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3000), st.integers(1, 3), st.integers(0, 2), st.sampled_from(["TRADES", "BID_ASK"])),
        max_size=150,
    )
)
def test_no_schedule_ever_breaks_a_limit(steps: list[tuple[int, int, int, str]]) -> None:
    now, sent = NOON, list[tuple[str, datetime]]()
    for pause, con_id, hour, what in steps:
        now += timedelta(milliseconds=pause)
        wanted = request(con_id=con_id, what=what, end=NOON + timedelta(hours=hour))
        while (wait := wait_for(wanted, sent, now)) > timedelta(0):
            now += wait
        sent += [(wanted.key, now)] * wanted.weight
    for n, (key, at) in enumerate(sent):
        later = [(k, t) for k, t in sent[n + 1 :] if t > at]
        assert all(t - at >= timedelta(seconds=15) for k, t in later if k == key)
        series = key.rpartition(" ")[0].split(" ")[:2]
        together = [t for k, t in sent[n:] if k.split(" ")[:2] == series and t - at < timedelta(seconds=2)]
        assert len(together) <= 5
        assert len([t for _, t in sent[n:] if t - at < timedelta(minutes=10)]) <= 60
