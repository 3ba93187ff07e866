"""The one budget for requests of history, on both databases, for processes that race."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.broker.pacing import Pacing
from airflow_ibkr_plugin.errors import PacingViolation
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.pacing_events import PacingEvents, PacingRequests
from airflow_ibkr_plugin.store.sql import current_time
from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.pacing import HistoryRequest

Race = Callable[[Callable[[Database, int], Any], int], list[Any]]


class Answering:
    """A broker that has no bars, at once."""

    def history(self, instrument: object, **request: Any) -> list[Bar]:
        return []


def request(now: datetime, number: int = 0) -> HistoryRequest:
    end = now + timedelta(hours=number)
    return HistoryRequest(con_id=1, what="TRADES", bar_size="5 secs", duration="60 S", end=end, use_rth=True)


def test_racing_tasks_do_not_pass_together(database: Database, now: datetime, race: Race) -> None:
    """Of ten that want the same five places at one time, five get one."""

    def work(database: Database, number: int) -> str:
        paced = Pacing(database, "g", clock=lambda _: now, most_wait=0.0)
        try:
            paced.history(Answering(), None, request(now, number))  # type: ignore[arg-type]
        except PacingViolation:
            return "refused"
        return "sent"

    assert sorted(race(work, 10)) == ["refused"] * 5 + ["sent"] * 5


def test_places_in_line(database: Database, now: datetime) -> None:
    later = now + timedelta(seconds=5)
    with database.write() as session:
        requests = PacingRequests(session)
        first = requests.line_up("g", "one", request(now), now=now, until=later)
        second = requests.line_up("g", "two", request(now), now=now, until=later)
        assert requests.line_up("h", "one", request(now), now=now, until=later).id not in (first.id, second.id)
        again = requests.line_up("g", "one", request(now, 3), now=later, until=later)
        assert (again.id, again.request, again.asked_at) == (first.id, request(now, 3).key, now)
        assert requests.ahead(first, now=now, since=now) == []
        assert requests.ahead(second, now=now, since=now) == [first]
        second.sent_at = now
        assert requests.ahead(first, now=now, since=now) == [second]
        assert requests.ahead(first, now=later, since=later) == []
        assert requests.line_up("g", "two", request(now), now=now, until=later).id > second.id
        # Larger bars matter while they are open only.
        later_still = later + timedelta(seconds=5)
        second.until = later_still
        assert requests.ahead(first, now=later_still, since=now) == [second]
        second.weight = 0
        assert requests.ahead(first, now=now, since=now) == [second]
        assert requests.ahead(first, now=later_still, since=now) == []
        requests.leave(first.id)
        assert requests.ahead(second, now=now, since=now) == []
        requests.forget("g", later + timedelta(seconds=1))
        assert (
            requests.ahead(requests.line_up("h", "three", request(now), now=now, until=later), now=now, since=now) != []
        )


def test_complaints(database: Database, now: datetime) -> None:
    with database.write() as session:
        events = PacingEvents(session)
        for gateway, minutes in (("g", 11), ("g", 0), ("h", 0)):
            at = now - timedelta(minutes=minutes)
            events.add(gateway, "history", 162, "pacing violation\0", sent_at=at - timedelta(seconds=1), at=at)
        (found,) = events.recent("g", now - timedelta(minutes=10))
        assert (found.code, found.message, found.at) == (162, "pacing violation�", now)
        assert found.sent_at == now - timedelta(seconds=1)
        assert len(events.recent("g", now - timedelta(minutes=11))) == 2


def test_machines_go_by_one_clock(database: Database, backend: str) -> None:
    """PostgreSQL's, which goes on while a transaction waits for its lock; an SQLite file has one machine."""
    wrong = datetime(2020, 1, 1, tzinfo=UTC)
    with freeze_time(wrong), database.write() as session:
        first, second = current_time(session), current_time(session)
    assert first.tzinfo is UTC
    assert (first == wrong) is (backend == "sqlite")
    assert (first < second) is (backend == "postgresql")


@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_machine_whose_clock_is_ahead_waits_like_all(database: Database, now: datetime) -> None:
    Pacing(database, "g").history(Answering(), None, request(now))  # type: ignore[arg-type]
    with freeze_time(datetime.now(UTC) + timedelta(days=1)), pytest.raises(PacingViolation):
        Pacing(database, "g", most_wait=0.0).history(Answering(), None, request(now))  # type: ignore[arg-type]
