from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import AlertRow, TrackingRow
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox

MINUTE = timedelta(minutes=1)


def test_an_alert_is_stored_once(database: Database, now: datetime) -> None:
    with database.write() as session:
        alerts = Alerts(session)
        row = alerts.enqueue("k", "critical", "title", "body", "s", "d", "r", now)
        assert row is not None
        assert alerts.enqueue("k", "info", "other", "other", "s", "d", "r", now) is None
        assert [a.title for a in alerts.due(now)] == ["title"]
        assert alerts.due(now - MINUTE) == []


def test_alerts_wait_and_go(database: Database, now: datetime) -> None:
    with database.write() as session:
        alerts = Alerts(session)
        first, second, _ = (alerts.enqueue(key, "info", key, "", "", "", "", now) for key in "abc")
        assert first is not None
        assert second is not None
        assert [a.title for a in alerts.due(now, limit=2)] == ["a", "b"]
        alerts.delivered(first.id, now)
        alerts.failed(second.id, "refused", now + MINUTE)
        assert alerts.count_waiting() == 2
        assert [a.title for a in alerts.due(now)] == ["c"]
        assert [a.title for a in alerts.due(now + MINUTE)] == ["b", "c"]
    with database.read() as session:
        stored = {key: session.get_one(AlertRow, row.id) for key, row in (("a", first), ("b", second))}
    assert (stored["a"].delivered_at, stored["a"].attempts) == (now, 1)
    assert (stored["b"].last_error, stored["b"].attempts, stored["b"].delivered_at) == ("refused", 1, None)
    with database.write() as session:
        Alerts(session).delivered(second.id, now + MINUTE)
        row = session.get_one(AlertRow, second.id)
        assert (row.last_error, row.attempts, row.delivered_at) == ("", 2, now + MINUTE)


def test_two_deliverers_never_claim_the_same_alert(database: Database, race: Any, now: datetime) -> None:
    with database.write() as session:
        for number in range(20):
            Alerts(session).enqueue(str(number), "info", "", "", "", "", "", now)

    def work(database: Database, number: int) -> list[int]:
        with database.write() as session:
            return [row.id for row in Alerts(session).claim_due(now, limit=4, until=now + MINUTE)]

    claimed = [alert_id for ids in race(work, 6) for alert_id in ids]
    assert len(claimed) == len(set(claimed)) == 20
    with database.write() as session:
        alerts = Alerts(session)
        assert alerts.claim_due(now, limit=50, until=now + MINUTE) == []
        assert len(alerts.claim_due(now + MINUTE, limit=50, until=now + 2 * MINUTE)) == 20
        assert alerts.count_waiting() == 20


def test_records_go_in_order(database: Database, now: datetime) -> None:
    with database.write() as session:
        outbox = TrackingOutbox(session)
        for number in range(3):
            outbox.enqueue("d", "r1", "metrics", {"n": number}, now)
        outbox.enqueue("d", "r2", "metrics", {"n": 3}, now + MINUTE)
    with database.write() as session:
        outbox = TrackingOutbox(session)
        rows = outbox.pending(now)
        assert [row.payload["n"] for row in rows] == [0, 1, 2]
        assert [row.payload["n"] for row in outbox.pending(now + MINUTE, limit=2)] == [0, 1]
        assert [row.payload["n"] for row in outbox.pending(None, "d", "r2")] == [3]
        outbox.sent([rows[0].id, rows[2].id], now)
        outbox.failed(rows[1].id, "gone", now + MINUTE)
        assert outbox.pending(now) == []
        assert [row.payload["n"] for row in outbox.pending(now + MINUTE)] == [1, 3]
        assert outbox.count_waiting() == 2
        assert outbox.count_waiting("d", "r1") == 1
    with database.read() as session:
        stored = [session.get_one(TrackingRow, row.id) for row in rows]
    assert [(row.attempts, row.last_error, row.sent_at) for row in stored] == [
        (1, "", now),
        (1, "gone", None),
        (1, "", now),
    ]
    with database.write() as session:
        TrackingOutbox(session).sent([rows[1].id], now + MINUTE)
        row = session.get_one(TrackingRow, rows[1].id)
        assert (row.attempts, row.last_error, row.sent_at) == (2, "", now + MINUTE)


def test_runs_wait_by_their_first_record(database: Database, now: datetime) -> None:
    with database.write() as session:
        outbox = TrackingOutbox(session)
        assert outbox.waiting_runs(now) == []
        first = outbox.enqueue("d", "r1", "begin", {}, now)
        outbox.enqueue("d", "r2", "begin", {}, now)
        outbox.enqueue("d", "r1", "end", {}, now)
        outbox.enqueue("e", "r1", "begin", {}, now)
        assert first is not None
        assert outbox.waiting_runs(now) == [("d", "r1"), ("d", "r2"), ("e", "r1")]
        assert outbox.waiting_runs(now, limit=1) == [("d", "r1")]
        assert outbox.waiting_runs(now, dag_id="d", run_id="r2") == [("d", "r2")]
        outbox.failed(first.id, "gone", now + MINUTE)  # the records behind it wait with it
        assert outbox.waiting_runs(now) == [("d", "r2"), ("e", "r1")]
        assert outbox.waiting_runs(None) == [("d", "r1"), ("d", "r2"), ("e", "r1")]


def test_a_record_with_a_key_is_stored_once(database: Database, now: datetime) -> None:
    with database.write() as session:
        outbox = TrackingOutbox(session)
        assert outbox.enqueue("d", "r1", "tags", {"a": 1}, now, dedupe_key="k") is not None
        assert outbox.enqueue("d", "r1", "tags", {"a": 2}, now, dedupe_key="k") is None
        assert [row.payload for row in outbox.pending(now)] == [{"a": 1}]
