"""What drives the examples: the clock, the waiting, and which strategy is triggered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from freezegun import freeze_time
from pytest_httpserver import HTTPServer

from airflow_ibkr_plugin.cli.local.airflow_api import AirflowAPI, seconds_until_next_run
from airflow_ibkr_plugin.cli.local.progress import (
    OWN_SCHEDULE_SECONDS,
    Unfinished,
    move_clock_into_session,
    start_runs,
    wait_for,
    watch_runs,
)
from airflow_ibkr_plugin.simulator.embedded import start_simulator

NOW = "2026-03-10T15:00:00+00:00"


@pytest.mark.parametrize(
    ("clock", "says"),
    [
        (
            datetime(2026, 3, 7, 15, tzinfo=UTC),
            "Mon 2026-03-09 14:30 UTC",
        ),  # from Saturday to Monday, an hour in
        (datetime(2026, 3, 10, 15, tzinfo=UTC), "Tue 2026-03-10 15:00 UTC"),  # in a session: it stays
    ],
)
def test_the_clock_stands_in_a_session(clock: datetime, says: str) -> None:
    with start_simulator(clock=clock) as simulator:
        assert move_clock_into_session(simulator.control_port) == says


def test_what_does_not_come_about_is_named_with_the_time_it_had() -> None:
    with pytest.raises(Unfinished, match="the moon: not within 0 s"):
        wait_for("the moon", lambda: "", 0)
    assert wait_for("the sun", lambda: "shines", 0) == "shines"


@freeze_time(NOW)
def test_how_long_a_schedule_lets_wait() -> None:
    assert seconds_until_next_run({"next_dagrun_run_after": "2026-03-10T15:01:30Z"}) == 90
    assert seconds_until_next_run({"next_dagrun_run_after": None}) is None


@pytest.fixture
def api(httpserver: HTTPServer) -> AirflowAPI:
    return AirflowAPI(httpserver.url_for("").rstrip("/"), "admin", "secret")


@pytest.fixture
def calls(httpserver: HTTPServer) -> Callable[[str], list[str]]:
    """Paths that were called by this method."""
    return lambda method: [request.path for request, _ in httpserver.log if request.method == method]


@freeze_time(NOW, ignore=["werkzeug"])
def test_what_neither_runs_soon_nor_has_run_is_triggered(
    api: AirflowAPI, httpserver: HTTPServer, calls: Callable[[str], list[str]]
) -> None:
    minutes = OWN_SCHEDULE_SECONDS // 60
    due = {"soon": f"2026-03-10T15:{minutes - 1:02}:59Z", "later": f"2026-03-10T15:{minutes:02}:00Z", "ran": None}
    dags = [{"dag_id": name, "next_dagrun_run_after": at} for name, at in due.items()]
    httpserver.expect_request("/api/v2/dags", method="GET").respond_with_json({"dags": dags})
    for name in due:
        runs: list[dict[str, Any]] = [{"state": "success"}] if name == "ran" else []
        httpserver.expect_request(f"/api/v2/dags/{name}", method="PATCH").respond_with_json({})
        address = f"/api/v2/dags/{name}/dagRuns"
        httpserver.expect_request(address, method="GET").respond_with_json({"dag_runs": runs})
        httpserver.expect_request(address, method="POST").respond_with_json({})
    assert start_runs(api, list(due)) == ["soon"]
    assert calls("PATCH") == [f"/api/v2/dags/{name}" for name in due]
    assert calls("POST") == ["/api/v2/dags/later/dagRuns"]


def test_the_newest_run_that_ended_is_a_strategys_result(api: AirflowAPI, httpserver: HTTPServer) -> None:
    runs = [
        {"dag_run_id": name, "state": state, "run_type": "manual"}
        for name, state in (("c", "running"), ("b", "failed"), ("a", "success"))
    ]
    httpserver.expect_request("/api/v2/dags/d/dagRuns").respond_with_json({"dag_runs": runs})
    assert watch_runs(api, ["d"])["d"]["dag_run_id"] == "b"


@pytest.mark.parametrize("ill", ["metadatabase", "scheduler", "triggerer", "dag_processor", None])
def test_airflow_is_up_when_each_of_its_parts_is(api: AirflowAPI, httpserver: HTTPServer, ill: str | None) -> None:
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    health = {name: {"status": "unhealthy" if name == ill else "healthy"} for name in parts}
    httpserver.expect_request("/api/v2/monitor/health").respond_with_json(health)
    assert api.healthy() is (ill is None)


def test_airflow_that_does_not_answer_is_not_up(unused_port: int, httpserver: HTTPServer, api: AirflowAPI) -> None:
    assert not AirflowAPI(f"http://127.0.0.1:{unused_port}", "admin", "secret").healthy()
    httpserver.expect_request("/api/v2/monitor/health").respond_with_json({}, status=503)
    assert not api.healthy()
