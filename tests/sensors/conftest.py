"""A simulated gateway, a trading database and the connection between them, as a sensor finds them in a worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.triggers.poll import PollTrigger

IN_SESSION = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)  # a Tuesday, 11:00 in New York


@pytest.fixture
def gateway() -> Iterator[SimulatorHandle]:
    """A simulated gateway in a session, with IBC's command server."""
    with start_simulator(seed=7, clock=IN_SESSION, account="DU1234567", ibc_port=0) as simulator:
        yield simulator


@pytest.fixture
def connect(gateway: SimulatorHandle, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Defines the connection `ibkr_default`, with further extras if given."""

    def define(**extra: Any) -> None:
        extras = {"account": "DU1234567", "client_ids": "10-15", "timeout": 5} | extra
        fields = {"conn_type": "ibkr", "host": "127.0.0.1", "port": gateway.port, "extra": extras}
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", json.dumps(fields))

    define()
    return define


@pytest.fixture
def database(connect: Callable[..., None], trading_database: Database) -> Database:
    """The trading database of this installation, and the connection."""
    return trading_database


@pytest.fixture
def context() -> dict[str, Any]:
    """What of Airflow's task context a sensor reads."""
    started = datetime.now(UTC)
    ti = SimpleNamespace(
        dag_id="waits", run_id="r1", task_id="wait", map_index=-1, try_number=1, log_url="", start_date=started
    )
    return {"ti": ti}


@pytest.fixture
def received(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The alerts that a receiver named in [ibkr] alert_urls has taken."""
    alerts: list[dict[str, str]] = []

    def answer(request: Request) -> Response:
        alerts.append(request.get_json())
        return Response("", 200)

    httpserver.expect_request("/alerts", method="POST").respond_with_handler(answer)
    monkeypatch.setenv("AIRFLOW__IBKR__ALERT_URLS", f"json://127.0.0.1:{httpserver.port}/alerts")
    return alerts


@pytest.fixture
def wait() -> Callable[..., dict[str, Any]]:
    """Runs a trigger to its event; `after(n)` is called when it has looked n times, while it waits to look again."""

    def run(trigger: PollTrigger, after: Callable[[int], None] = lambda looks: None) -> dict[str, Any]:
        looks = 0
        look = trigger.look

        def counted() -> Any:
            nonlocal looks
            try:
                return look()
            finally:
                looks += 1
                after(looks)

        trigger.look = counted  # type: ignore[method-assign]

        async def first() -> dict[str, Any]:
            async for event in trigger.run():
                return dict(event.payload)
            raise AssertionError("the trigger ended without an event")

        return asyncio.run(asyncio.wait_for(first(), 60))

    return run
