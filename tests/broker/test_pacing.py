"""IBKR's limits for historical requests, kept over all tasks through the trading database."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.pacing import Pacing
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import GatewayUnavailable, PacingViolation, StoreError
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models.market import PacingEvent, PacingRequest
from airflow_ibkr_plugin.store.pacing_events import PacingEvents
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.pacing import HistoryRequest

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
GATEWAY = "127.0.0.1:4002"


class Time:
    """A clock that moves only when someone sleeps."""

    def __init__(self) -> None:
        self.now = NOON
        self.slept: list[float] = []

    def clock(self, transaction: object) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


class Answering:
    """Notes when it was asked, by that clock, and fails with the errors that it is given."""

    def __init__(self, time: Time, *errors: Exception) -> None:
        self.time, self.errors = time, list(errors)
        self.asked: list[datetime] = []

    def history(self, instrument: Any, **request: Any) -> list[Bar]:
        self.asked.append(self.time.now)
        if self.errors:
            raise self.errors.pop(0)
        return []


def complaint() -> PacingViolation:
    return PacingViolation("too much", code=162)


def request(**changes: Any) -> HistoryRequest:
    fields: dict[str, Any] = {"con_id": 1, "what": "TRADES", "bar_size": "5 secs", "duration": "1800 S", "end": NOON}
    return HistoryRequest(**{**fields, "use_rth": True, **changes})


def pacing(database: Database, time: Time, **options: Any) -> Pacing:
    return Pacing(database, GATEWAY, clock=time.clock, sleep=time.sleep, **options)


def spend(database: Database, time: Time, count: int = 60) -> None:
    """Use places up, each of a series of its own."""
    for n in range(count):
        pacing(database, time).history(Answering(time), None, request(con_id=1000 + n))  # type: ignore[arg-type]


def rows(database: Database) -> list[PacingRequest]:
    with database.read() as transaction:
        return list(transaction.query(PacingRequest).order_by(PacingRequest.id))


def test_identical_requests_lie_fifteen_seconds_apart(database: Database) -> None:
    time = Time()
    broker = Answering(time)
    for _ in range(3):  # each a process of its own: nothing but the database is shared
        pacing(database, time).history(broker, None, request())
    assert [later - sooner for sooner, later in zip(broker.asked, broker.asked[1:], strict=False)] == [
        timedelta(seconds=15.3)
    ] * 2


def test_a_request_that_takes_long_is_counted_from_its_answer(database: Database) -> None:
    time = Time()

    class Slow(Answering):
        def history(self, instrument: Any, **request: Any) -> list[Bar]:
            time.now += timedelta(seconds=7)
            return super().history(instrument, **request)

    pacing(database, time).history(Slow(time), None, request())
    broker = Answering(time)
    pacing(database, time).history(broker, None, request())
    assert broker.asked == [NOON + timedelta(seconds=7 + 15.3)]


def test_a_clock_that_is_set_back_by_a_day_holds_nobody_up_for_a_day(database: Database) -> None:
    time = Time()
    spend(database, time)
    time.now -= timedelta(days=1)
    broker = Answering(time)
    pacing(database, time, most_wait=3600).history(broker, None, request())
    assert sum(time.slept) == pytest.approx(600.3)  # and not sooner: nobody knows how long ago they were sent
    assert max(row.until for row in rows(database)) == time.now


def test_nor_does_a_complaint_from_before(database: Database) -> None:
    time = Time()
    with pytest.raises(GatewayUnavailable):
        pacing(database, time).history(Answering(time, GatewayUnavailable("x", code=100)), None, request())
    time.now -= timedelta(days=1)
    pacing(database, time, most_wait=3600).history(Answering(time), None, request(con_id=2))
    assert sum(time.slept) == pytest.approx(15.3)


def test_each_gateway_has_a_budget_of_its_own(database: Database) -> None:
    time = Time()
    spend(database, time)
    other = Pacing(database, "127.0.0.1:4001", clock=time.clock, sleep=time.sleep)
    other.history(Answering(time), None, request())
    assert time.slept == []


def test_a_wait_that_is_too_long_is_handed_to_the_caller(database: Database) -> None:
    time = Time()
    broker = Answering(time)
    spend(database, time)
    with pytest.raises(PacingViolation, match="leave no room") as caught:
        pacing(database, time).history(broker, None, request())
    assert caught.value.code is None
    assert caught.value.retry_after == pytest.approx(600.3)
    assert len(rows(database)) == 60  # nobody will come back: the place in line is given up
    time.now += timedelta(seconds=600.3)
    pacing(database, time).history(broker, None, request())
    assert len(broker.asked) == 1


def test_who_comes_again_has_kept_its_place_in_line(database: Database) -> None:
    time = Time()
    spend(database, time, 59)
    time.now += timedelta(seconds=30)
    pacing(database, time).history(Answering(time), None, request(con_id=5))
    for owner in ("first", "second"):
        with pytest.raises(PacingViolation):
            pacing(database, time, owner=owner).history(Answering(time), None, request(end=None))
    waits = [row for row in rows(database) if row.sent_at is None]
    assert [row.owner for row in waits] == ["first", "second"]
    # One place is free and another 58 only later: the second is first to look, and must not take it.
    with database.write() as transaction:
        for row in transaction.query(PacingRequest).order_by(PacingRequest.id).limit(58):
            row.until = NOON + timedelta(seconds=300)
    time.now = NOON + timedelta(seconds=600.3)
    second = Answering(time)
    with pytest.raises(PacingViolation):
        pacing(database, time, owner="second", most_wait=0).history(second, None, request(con_id=7))
    first = Answering(time)
    # What it wants now ends later than what it wanted.
    pacing(database, time, owner="first", most_wait=0).history(first, None, request(end=time.now))
    assert (first.asked, second.asked) == ([time.now], [])
    assert len([row for row in rows(database) if row.owner == "first"]) == 1


def test_who_died_in_line_is_passed_after_a_minute(database: Database) -> None:
    time = Time()
    spend(database, time, 59)
    with pytest.raises(PacingViolation):
        pacing(database, time, owner="killed", most_wait=0).history(
            Answering(time),
            None,
            request(con_id=1000),  # identical to one just sent
        )
    late = pacing(database, time)
    with pytest.raises(PacingViolation):
        late.history(Answering(time), None, request(con_id=3))
    time.now += timedelta(seconds=15.3 + 60)
    broker = Answering(time)
    late.history(broker, None, request(con_id=3))
    assert broker.asked == [time.now]


def test_a_killed_process_blocks_nobody_for_long(database: Database) -> None:
    time = Time()

    class Killed(Answering):
        def history(self, instrument: Any, **request: Any) -> list[Bar]:
            raise KeyboardInterrupt

    paced = pacing(database, time)
    paced._answered = lambda *_: None  # type: ignore[method-assign]  # SIGKILL leaves no time for it
    for n in range(50):
        with pytest.raises(KeyboardInterrupt):
            paced.history(Killed(time), None, request(con_id=n, bar_size="1 day"))
    with pytest.raises(PacingViolation, match="leave no room"):
        pacing(database, time, most_wait=5).history(Answering(time), None, request(bar_size="1 day"))
    assert time.slept == [1.0] * 5
    time.now = NOON + timedelta(minutes=3)
    pacing(database, time).history(Answering(time), None, request(bar_size="1 day"))
    assert time.slept == [1.0] * 5


def test_an_error_is_an_answer(database: Database) -> None:
    time = Time()
    with pytest.raises(GatewayUnavailable):
        pacing(database, time).history(Answering(time, GatewayUnavailable("gone")), None, request())
    assert [row.until for row in rows(database)] == [NOON]
    with database.read() as transaction:
        assert transaction.query(PacingEvent).all() == []  # and no complaint


def test_large_bars_are_not_limited(database: Database) -> None:
    time = Time()
    paced = pacing(database, time)
    for _ in range(100):
        paced.history(Answering(time), None, request(bar_size="1 min"))
    assert time.slept == []


def test_the_long_window_is_kept_to_its_very_end(database: Database) -> None:
    time = Time()
    spend(database, time)
    time.now += timedelta(seconds=600.1)  # of 600 s, and of the margin
    pacing(database, time).history(Answering(time), None, request())
    assert time.slept == [pytest.approx(0.2)]


def test_requests_are_forgotten_after_a_day(database: Database) -> None:
    time = Time()
    spend(database, time, 3)
    time.now += timedelta(days=1, seconds=1)
    pacing(database, time).history(Answering(time), None, request())
    assert [row.request for row in rows(database)] == [request().key]


def test_a_complaint_is_stored_logged_waited_out_and_slows_everybody_down(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    time = Time()
    daily = request(bar_size="1 day")
    broker = Answering(time, complaint())
    with caplog.at_level(logging.WARNING):
        assert pacing(database, time).history(broker, None, daily) == []
    assert time.slept == [pytest.approx(15.3)]
    assert "(162, too much); history from now on at 1/2 of it" in caplog.text
    with database.read() as transaction:
        (event,) = PacingEvents(transaction).recent(GATEWAY, NOON)
    assert (event.code, event.message, event.request) == (162, "too much", daily.key)
    assert (event.sent_at, event.at) == (NOON, NOON)
    spend(database, time, 30)
    with pytest.raises(PacingViolation, match="leave no room"):
        pacing(database, time).history(Answering(time), None, request())
    time.now += timedelta(minutes=10, seconds=1)
    spend(database, time, 60)  # recovered


def test_a_second_complaint_waits_longer_than_the_caller_will(database: Database) -> None:
    time = Time()
    with pytest.raises(PacingViolation) as caught:
        pacing(database, time).history(Answering(time, complaint(), complaint()), None, request(bar_size="1 day"))
    assert caught.value.code is None
    assert caught.value.retry_after == pytest.approx(30.6)
    with database.read() as transaction:
        assert [event.code for event in PacingEvents(transaction).recent(GATEWAY, NOON)] == [162, 162]


def test_a_complaint_of_the_gateway(own_simulator: SimulatorHandle, own_spec: Any, database: Database) -> None:
    with BrokerSession.open(own_spec, client_id=10) as session:
        spy = session.resolve(InstrumentSpec.parse("SPY"))
        own_simulator.control("pacing", count=1)
        time = Time()
        daily = request(con_id=spy.con_id, bar_size="1 day", duration="5 D", end=None)
        bars = pacing(database, time).history(session, spy, daily)
    assert len(bars) == 5
    assert time.slept == [pytest.approx(15.3)]
    with database.read() as transaction:
        assert [event.code for event in transaction.query(PacingEvent)] == [162]


def test_too_many_messages_are_a_complaint_that_ends_the_connection(
    own_simulator: SimulatorHandle, own_spec: Any, database: Database
) -> None:
    time = Time()
    with BrokerSession.open(own_spec, client_id=10) as session:
        spy = session.resolve(InstrumentSpec.parse("SPY"))
        own_simulator.control("message_rate", count=1)
        with pytest.raises(GatewayUnavailable, match="Max rate of messages"):
            pacing(database, time).history(session, spy, request(con_id=spy.con_id, bar_size="1 day", duration="5 D"))
    with database.read() as transaction:
        assert [event.code for event in PacingEvents(transaction).recent(GATEWAY, NOON)] == [100]


def test_messages_keep_the_limit_of_a_connection(session: BrokerSession) -> None:
    """The library's own throttle: the simulator answers 100 and hangs up above 50 a second."""
    for _ in range(120):
        session.now()


def test_an_answer_that_cannot_be_noted_is_still_an_answer(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    time = Time()
    paced = pacing(database, time)

    class Breaking(Answering):
        def history(self, instrument: Any, **request: Any) -> list[Bar]:
            paced._clock = broken
            return super().history(instrument, **request)

    def broken(transaction: object) -> datetime:
        raise StoreError("disk full")

    assert paced.history(Breaking(time), None, request()) == []
    assert "is not noted for the pace: disk full" in caplog.text
    assert [row.until - NOON for row in rows(database)] == [timedelta(minutes=3)]
    with pytest.raises(StoreError, match="disk full"):  # a complaint that nobody would heed
        paced._answered(1, complaint())
