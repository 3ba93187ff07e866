"""Jobs: one that fails stops no other, waits longer each time, and is told of once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from airflow_ibkr_plugin.errors import (
    AmbiguousOrder,
    ClientIdInUse,
    GatewayUnavailable,
    NotLeader,
    PacingViolation,
    StoreError,
)
from airflow_ibkr_plugin.service import jobs
from airflow_ibkr_plugin.service.jobs import ALERT_AFTER, LONGEST_WAIT, Fault, Job, start
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DOWN = GatewayUnavailable("No gateway at 127.0.0.1:4002.", remedy="Start it.")


def alerts(database: Database) -> list[Any]:
    with database.read() as session:
        return Alerts(session).due(datetime(2100, 1, 1, tzinfo=UTC))


def test_a_job_that_fails_is_tried_again_and_stops_no_other(
    database: Database, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "FIRST_WAIT", 0.01)
    rounds: dict[str, int] = {"good": 0, "bad": 0}
    enough = threading.Event()

    def good() -> bool:
        rounds["good"] += 1
        if min(rounds.values()) >= 3:
            enough.set()
        return True

    def bad() -> bool:
        rounds["bad"] += 1
        raise ZeroDivisionError("a bug")

    threads = [start(Job(name=w.__name__, period=0.01, work=w), term, database) for w in (good, bad)]
    assert enough.wait(60)
    term.end()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    (alert,) = alerts(database)
    assert alert.title == "[IBKR] service: bad fails"
    assert "ZeroDivisionError: a bug" in alert.body
    assert "Traceback" in alert.body


def test_a_round_in_which_nothing_could_be_tried_is_no_recovery(
    database: Database, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "FIRST_WAIT", 0.01)
    rounds = iter([DOWN, False, DOWN, True])

    def work() -> bool:
        outcome = next(rounds, None)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            term.end()
        return bool(outcome)

    with capture_logs() as logs:
        thread = start(Job(name="alerts", period=0.01, work=work), term, database)
        thread.join(60)
    assert not thread.is_alive()
    assert [entry["event"] for entry in logs] == ["job failed", "job is well again"]
    assert logs[1]["failed_rounds"] == 2


def test_a_job_whose_term_was_lost_ends_without_a_fault(database: Database, term: Any) -> None:
    def lost() -> bool:
        raise NotLeader("Term 1 of the service is over.")

    thread = start(Job(name="lost", period=0.01, work=lost), term, database)
    thread.join(60)
    assert not thread.is_alive()
    assert alerts(database) == []


def test_what_goes_wrong_while_it_is_told_to_stop_is_no_fault(database: Database, term: Any) -> None:
    def interrupted() -> bool:
        term.end()
        raise ZeroDivisionError("its session was closed under it")

    with capture_logs() as logs:
        thread = start(Job(name="follow", period=0.01, work=interrupted), term, database)
        thread.join(60)
    assert not thread.is_alive()
    assert [entry["event"] for entry in logs] == ["job interrupted"]
    assert alerts(database) == []


def test_a_fault_is_logged_when_it_begins_changes_and_ends(database: Database) -> None:
    fault = Fault(database, "follow")
    with capture_logs() as logs:
        fault.over()  # nothing was wrong
        for error in (DOWN, DOWN, StoreError("locked"), StoreError("locked")):
            fault.failed(error, NOON)
        fault.over()
        fault.failed(DOWN, NOON)
    assert [entry["event"] for entry in logs] == ["job failed", "job failed", "job is well again", "job failed"]
    assert logs[2]["failed_rounds"] == 4
    assert alerts(database) == []


def test_a_fault_that_lasts_is_told_once_a_day_by_any_number_of_services(database: Database) -> None:
    for fault in (Fault(database, "follow"), Fault(database, "follow")):
        fault.failed(DOWN, NOON)
        fault.failed(DOWN, NOON + ALERT_AFTER - timedelta(seconds=1))
        fault.failed(DOWN, NOON + ALERT_AFTER)
        fault.failed(DOWN, NOON + 2 * ALERT_AFTER)
    (alert,) = alerts(database)
    assert alert.severity == "error"
    assert "Failed 3 times since 2026-03-02 12:00:00 UTC" in alert.body  # at the end of that time, not behind it
    Fault(database, "follow").failed(ZeroDivisionError(), NOON)  # another kind of fault is another alert
    fault.failed(DOWN, NOON + timedelta(days=1))
    assert len(alerts(database)) == 3


def test_what_needs_a_human_is_told_at_once(database: Database) -> None:
    Fault(database, "follow").failed(AmbiguousOrder("Is it there?"), NOON)
    (alert,) = alerts(database)
    assert alert.severity == "critical"


def test_an_alert_that_cannot_be_stored_is_stored_later(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, stored = Fault(database, "follow"), jobs.enqueue

    def broken(*_: Any, **__: Any) -> None:
        raise StoreError("locked")

    monkeypatch.setattr(jobs, "enqueue", broken)
    fault.failed(ZeroDivisionError(), NOON)
    monkeypatch.setattr(jobs, "enqueue", stored)
    fault.failed(ZeroDivisionError(), NOON)
    assert len(alerts(database)) == 1


@given(count=st.integers(1, 2000))
def test_waits_grow_to_a_minute_and_start_anew(count: int) -> None:
    fault = Fault(Database("sqlite:////nowhere/trading.db"), "follow")
    waits = [fault.failed(DOWN, NOON) for _ in range(count)]
    assert waits == sorted(waits)
    assert waits[:3] == [2.0, 4.0, 8.0][:count]
    assert max(waits) <= LONGEST_WAIT
    assert fault.failed(PacingViolation("slow", retry_after=90), NOON) == 90
    fault.over()
    assert fault.failed(DOWN, NOON) == 2.0
    assert fault.failed(ClientIdInUse("taken"), NOON) == 15.0
