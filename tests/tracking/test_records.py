from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox
from airflow_ibkr_plugin.tracking.records import begin_run, end_run, log_artifact, log_metrics, log_params, set_tags

START = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
START_MS = 1767623400000


def waiting(database: Database) -> list[tuple[str, dict[str, Any]]]:
    with database.read() as session:
        return [(row.kind, row.payload) for row in TrackingOutbox(session).pending(None, limit=100)]


def test_rows_are_part_of_the_callers_transaction(database: Database, run: tuple[str, str]) -> None:
    def record_and_break() -> None:
        with database.write() as session:
            log_params(session, run, {"a": 1}, START)
            raise RuntimeError("the caller's work failed")

    with pytest.raises(RuntimeError):
        record_and_break()
    assert waiting(database) == []


def test_each_kind_of_record(database: Database, run: tuple[str, str]) -> None:
    with database.write() as session:
        row = Runs(session).get(*run)
        assert row is not None
        begin_run(session, row, {"risk.max@": 5}, {"ibkr.run_type": "manual"}, START)
        log_metrics(session, run, {"a@": 1, "b": 2.5}, START, step=3)
        set_tags(session, run, {"x": "y" * 9000}, START)
        set_tags(session, run, {"t@": 7}, START)
        log_artifact(session, run, "file:///charts/a.png", "/charts//@", "00" * 32, START)
        end_run(session, run, "FINISHED", START)
    rows = waiting(database)
    assert rows[:4] == [
        ("begin", {}),
        ("params", {"values": {"risk.max_": "5"}}),
        ("tags", {"values": {"ibkr.run_type": "manual"}}),
        ("metrics", {"values": {"a_": 1.0, "b": 2.5}, "ms": START_MS, "step": 3}),
    ]
    assert len(rows[4][1]["values"]["x"]) == 8000
    assert rows[5:] == [
        ("tags", {"values": {"t_": "7"}}),
        ("artifact", {"url": "file:///charts/a.png", "path": "charts/_", "sha256": "00" * 32}),
        ("end", {"status": "FINISHED", "ms": START_MS}),
    ]


def test_what_is_not_finite_is_named_and_left_out(
    database: Database, run: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), database.write() as session:
        log_metrics(session, run, {"good": 1, "nan": float("nan"), "inf": float("inf")}, START)
    assert waiting(database) == [
        ("tags", {"values": {"ibkr.not_finite": "inf, nan"}}),
        ("metrics", {"values": {"good": 1.0}, "ms": START_MS, "step": 0}),
    ]
    assert "inf, nan" in caplog.text


def test_a_long_parameter_is_cut_to_what_mlflow_takes(database: Database, run: tuple[str, str]) -> None:
    with database.write() as session:
        log_params(session, run, {"fits": "x" * 6000, "long": "x" * 6001}, START)
    ((_, payload),) = waiting(database)
    assert payload["values"]["fits"] == "x" * 6000
    assert payload["values"]["long"].endswith("[cut; 6001 characters in all]")


def test_a_record_is_due_when_it_was_made(database: Database, run: tuple[str, str]) -> None:
    with database.write() as session:
        set_tags(session, run, {"a": 1}, START)
        outbox = TrackingOutbox(session)
        assert outbox.pending(START - timedelta(seconds=1)) == []
        assert [row.created_at for row in outbox.pending(START)] == [START]


def test_nothing_to_record_is_no_row(database: Database, run: tuple[str, str]) -> None:
    with database.write() as session:
        log_params(session, run, {}, START)
        log_metrics(session, run, {}, START)
        set_tags(session, run, {}, START)
    assert waiting(database) == []
