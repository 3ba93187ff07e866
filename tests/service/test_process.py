"""Two real services on one trading database: one leads, the other takes over."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from airflow_ibkr_plugin.errors import SchemaMismatch, StoreError
from airflow_ibkr_plugin.service import process
from airflow_ibkr_plugin.service.jobs import Job
from airflow_ibkr_plugin.service.term import LEASE_SECONDS, Term, stand
from airflow_ibkr_plugin.store import schema
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.engine import writing
from airflow_ibkr_plugin.store.leaders import Leaders
from airflow_ibkr_plugin.store.models import LeaderRow

Until = Callable[[str, Callable[[], Any]], Any]
both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@both
def test_the_leader_is_killed_and_the_other_takes_over(servers: Any) -> None:
    services = [servers.start(), servers.start()]
    first = servers.wait_for_leader(*services)
    (other,) = (service for service in services if service is not first)
    before = servers.leader()
    first.kill()
    first.wait(30)
    killed_at = datetime.now(UTC)
    assert servers.wait_for_leader(other) is other
    after = servers.leader()
    assert after.fence == before.fence + 1
    # Not before the dead one's lease has run out; how soon after it is looked at is the next one's period.
    assert before.until <= after.since
    assert (before.until - killed_at).total_seconds() <= LEASE_SECONDS
    assert other.poll() is None


@both
def test_told_to_stop_it_gives_the_lease_back_and_ends_with_0(servers: Any) -> None:
    services = [servers.start(), servers.start()]
    first = servers.wait_for_leader(*services)
    (other,) = (service for service in services if service is not first)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    # Given back: the other leads although the lease would still run.
    servers.wait_for_leader(other)
    other.send_signal(signal.SIGINT)
    assert other.wait(60) == 0
    assert servers.leader() is None
    log = servers.log.read_text()
    assert log.count("lease given back") == 2
    assert "Traceback" not in log


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # SQLite's only lock may be held by who hangs
def test_one_that_lost_its_term_stops_and_stands_again(servers: Any, until: Until) -> None:
    service = servers.start()
    servers.wait_for_leader(service)
    seen = servers.leader().until
    until("renewed", lambda: servers.leader().until != seen)
    service.send_signal(signal.SIGSTOP)  # as a machine that hangs
    now = datetime.now(UTC)
    fence = None
    while fence is None:
        time.sleep(0.05)
        with servers.database.write() as session:
            fence = Leaders(session).acquire("service", "another", datetime.now(UTC), 1.0)
    assert fence == 2
    service.send_signal(signal.SIGCONT)
    servers.wait_for_leader(service)
    assert servers.leader().fence == 3
    assert servers.leader().since > now
    assert "leadership lost" in servers.log.read_text()


class FailingDatabase(Database):
    """Fails as long as it is told to, and counts how often."""

    failing = False
    failures = 0

    @contextmanager
    def write(self, *, serialize: str = "") -> Iterator[Session]:
        if self.failing:
            self.failures += 1
            raise StoreError("The trading database failed: no connection.")
        with super().write(serialize=serialize) as session:
            yield session


@pytest.fixture
def serving(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FailingDatabase, list[Term]]]:
    """A service in this process, on a database that can fail; the terms that it has led in, each with one job."""
    monkeypatch.setattr(process, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(process, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(process, "stand", partial(stand, seconds=1.0))
    failing, terms, stop = FailingDatabase(str(database.url)), list[Term](), threading.Event()

    def jobs(term: Term) -> list[Job]:
        if term not in terms:
            terms.append(term)
        return [Job(name="idle", period=0.01, work=lambda: True)]

    statuses: list[int] = []
    service = process.Service(failing, jobs)
    thread = threading.Thread(target=lambda: statuses.append(service.run(stop)))
    thread.start()
    yield failing, terms
    stop.set()
    thread.join(60)
    failing.dispose()
    assert statuses == [process.STOPPED]


def leader_of(database: Database) -> Any:
    with database.read() as session:
        return session.query(LeaderRow).one()


def test_a_database_that_fails_for_a_moment_costs_no_term(
    serving: tuple[FailingDatabase, list[Term]], until: Until
) -> None:
    database, terms = serving
    until("leads", lambda: terms)
    ran_until = leader_of(database).until
    database.failing = True
    until("several renewals failed", lambda: database.failures >= 3)
    database.failing = False
    # Renewed for longer than the lease that ran when it failed.
    until("led on", lambda: terms[0].over() or leader_of(database).until > ran_until + timedelta(seconds=1))
    assert len(terms) == 1
    assert not terms[0].over()


def test_one_that_fails_for_long_ends_the_term_and_not_the_service(
    serving: tuple[FailingDatabase, list[Term]], until: Until
) -> None:
    database, terms = serving
    until("leads", lambda: terms)
    with capture_logs() as logs:
        database.failing = True
        until("over", terms[0].over)
        until("said", lambda: any(entry["event"] == "leadership lost" for entry in logs))
        database.failing = False
        until("leads again", lambda: len(terms) == 2)
    assert terms[1].fence == terms[0].fence + 1
    assert sum(entry["event"].startswith("trading database fails") for entry in logs) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "service-idle"][1:]


def test_a_job_that_does_not_end_is_said_by_the_exit_status(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.2)
    stuck, stop = threading.Event(), threading.Event()

    def work() -> bool:
        stop.set()
        return stuck.wait(60)

    service = process.Service(database, lambda term: [Job(name="stuck", period=1, work=work)])
    assert service.run(stop) == process.NOT_STOPPED
    stuck.set()
    assert stand(database, "another") is None  # nobody else may act while the job does


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_whose_thread_died_is_started_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """As by an error in the telling of errors. Else it would lead on without that job."""
    monkeypatch.setattr(process, "DISCOVER_SECONDS", 0.01)
    stop, rounds = threading.Event(), list[int]()

    def work() -> bool:
        rounds.append(1)
        if len(rounds) == 1:
            raise SystemExit
        return True

    service = process.Service(database, lambda term: [Job(name="halts", period=600, work=work)])
    thread = threading.Thread(target=service.run, args=(stop,))
    with capture_logs() as logs:
        thread.start()
        until("started again", lambda: len(rounds) == 2)
        stop.set()
        thread.join(60)
    started = [entry for entry in logs if entry["event"] == "job started"]
    assert [entry["again"] for entry in started if entry["job"] == "halts"] == [False, True]


def test_jobs_that_hold_up_the_next_term_are_named(
    database: Database, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(process, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(process, "RENEW_SECONDS", 0.01)
    stuck, stop, begun = threading.Event(), threading.Event(), list[Term]()

    def jobs(term: Term) -> list[Job]:
        begun.append(term)
        return [Job(name="stuck", period=600, work=lambda: stuck.wait(60))]

    service = process.Service(database, jobs)
    thread = threading.Thread(target=service.run, args=(stop,))
    with capture_logs() as logs:
        thread.start()
        until("leads", lambda: begun)
        begun[0].end()
        until("said", lambda: any(entry["event"] == "waiting for jobs" for entry in logs))
        assert begun[-1] is begun[0]
        stuck.set()
        until("leads again", lambda: begun[-1] is not begun[0])
        stop.set()
        thread.join(60)
    assert [entry["jobs"] for entry in logs if entry["event"] == "waiting for jobs"][-1] == ["stuck"]


def test_looking_for_jobs_may_take_longer_than_the_lease(
    database: Database, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(process, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(process, "stand", partial(stand, seconds=1.0))
    slow, stop, begun = threading.Event(), threading.Event(), list[Term]()

    def jobs(term: Term) -> list[Job]:
        begun.append(term)
        slow.wait(60)
        return []

    thread = threading.Thread(target=process.Service(database, jobs).run, args=(stop,))
    thread.start()
    until("leads", lambda: begun)
    ran_until = leader_of(database).until
    # Else the lease runs out at `ran_until`, and no renewal comes any more.
    until("led on", lambda: leader_of(database).until > ran_until + timedelta(seconds=2))
    assert not begun[0].over()
    slow.set()
    stop.set()
    thread.join(60)
    assert len(begun) == 1


def test_looking_for_jobs_that_fails_ends_no_job_and_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(process, "DISCOVER_LONGEST_WAIT", 0.01)
    stop, rounds, looks = threading.Event(), list[int](), list[Term]()

    def jobs(term: Term) -> Iterator[Job]:
        looks.append(term)
        yield Job(name="halts", period=0.01, work=lambda: rounds.append(1) is None)
        raise ZeroDivisionError("a bug")

    thread = threading.Thread(target=process.Service(database, jobs).run, args=(stop,))
    thread.start()
    until("at work, and looked again", lambda: len(rounds) > 2 and len(looks) > 2)
    stop.set()
    thread.join(60)
    assert looks[0] is looks[-1]


@both
def test_a_schema_that_has_become_newer_ends_it_with_all_its_jobs(
    database: Database, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """Its supervisor starts the code that the schema is for."""
    monkeypatch.setattr(process, "RENEW_SECONDS", 0.01)
    rounds, terms = list[int](), list[Term]()

    def jobs(term: Term) -> list[Job]:
        terms.append(term)
        return [Job(name="newer", period=0.01, work=lambda: rounds.append(1) is None)]

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(process.Service(database, jobs).run, threading.Event())
        until("at work", lambda: rounds)
        with migrated_to(database, "9999"):
            with pytest.raises(SchemaMismatch, match="schema 9999, which this code"):
                running.result(60)
            assert not [thread for thread in threading.enumerate() if thread.name == "service-newer"]
            with pytest.raises(SchemaMismatch):  # nor does it stand
                process.Service(database, jobs).run(threading.Event())
    assert terms[0] is terms[-1]
    assert terms[0].over()
    assert leader_of(database).until > datetime.now(UTC)  # nothing was written any more


@contextmanager
def migrated_to(database: Database, revision: str) -> Iterator[None]:
    def stamp(revision: str) -> None:
        with writing(database.engine).begin() as connection:
            connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = :to"), {"to": revision})

    stamp(revision)
    try:
        yield
    finally:
        stamp(schema.HEAD)
