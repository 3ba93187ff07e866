"""AuthSensor and its trigger against a simulated gateway that logs out."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from freezegun import freeze_time
from sqlalchemy import select

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.execution.waiting import Effort, Status, session_status
from airflow_ibkr_plugin.sensors.auth import AuthSensor
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models.outbox import AlertRow
from airflow_ibkr_plugin.triggers.auth import AuthTrigger


def sensor(**options: Any) -> AuthSensor:
    return AuthSensor(task_id="wait", strategy="waits", **options)


def alerts(database: Database) -> list[AlertRow]:
    with database.read() as session:
        return list(session.scalars(select(AlertRow).order_by(AlertRow.id)))


@pytest.fixture
def midday() -> Iterator[None]:
    """Noon, UTC: a person is called once a day, and no test shall run into the next one."""
    with freeze_time("2026-03-10 12:00", tick=True, real_asyncio=True):
        yield


def test_a_valid_session(database: Database, context: Any) -> None:
    assert sensor().poke(context)
    assert sensor().execute(context)["waited_s"] >= 0
    assert alerts(database) == []


def test_without_ibc_a_person_is_called_once_a_day(
    database: Database, gateway: SimulatorHandle, context: Any, received: list[dict[str, str]]
) -> None:
    gateway.control("logout")
    with freeze_time("2026-03-10 15:00", tick=True, real_asyncio=True) as clock:
        assert not sensor().poke(context)
        assert not sensor().poke(context)
        (alert,) = alerts(database)
        clock.move_to("2026-03-11 15:00")
        assert not sensor().poke(context)
    assert len(alerts(database)) == len(received) == 2
    assert alert.severity == "critical"
    assert received[0]["title"] == "The broker session of ibkr_default needs a human"
    assert "a person must log in" in received[0]["message"]
    assert f"127.0.0.1:{gateway.port}" in received[0]["message"]
    assert "strategy waits" in received[0]["message"]


@pytest.mark.parametrize("mode", ["close", "refuse"])
def test_ibc_logs_in_again(
    database: Database, gateway: SimulatorHandle, connect: Callable[..., None], context: Any, mode: str
) -> None:
    connect(ibc_port=gateway.ibc_port)
    gateway.control("logout", mode=mode)
    assert sensor().poke(context)
    assert gateway.control("status")["login"] == "valid"
    assert alerts(database) == []


@pytest.mark.usefixtures("midday")
def test_an_ibc_that_does_not_help_leaves_the_restart_to_the_triggerer(
    database: Database,
    gateway: SimulatorHandle,
    connect: Callable[..., None],
    context: Any,
    received: list[dict[str, str]],
    wait: Callable[..., Any],
    unused_port: int,
) -> None:
    connect(ibc_port=unused_port)
    gateway.control("logout")
    waiting = sensor(poke_interval=0.01)
    with pytest.raises(TaskDeferred) as caught:
        waiting.execute(context)
    # Not yet: the gateway was not restarted, and the worker's slot is not held for that.
    assert alerts(database) == []
    path, arguments = caught.value.trigger.serialize()
    assert path == "airflow_ibkr_plugin.triggers.auth.AuthTrigger"
    called = []

    def after(looks: int) -> None:
        called.append(len(alerts(database)))
        if looks == 3:
            gateway.control("login")  # the person

    event = wait(AuthTrigger(**arguments), after)
    assert called == [1, 1, 1, 1]
    assert len(received) == 1
    assert "RESTART" in received[0]["message"]
    assert waiting.resume_execution("execute_complete", {"event": event}, context)["waited_s"] >= 0


@pytest.mark.usefixtures("midday")
def test_a_person_who_logs_in_is_not_disturbed_by_commands(
    database: Database,
    gateway: SimulatorHandle,
    connect: Callable[..., None],
    wait: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    unused_port: int,
) -> None:
    connect(ibc_port=unused_port)
    gateway.control("logout")
    asked = []

    def after(looks: int) -> None:
        asked.append(sum("IBC RESTART" in record.getMessage() for record in caplog.records))
        if looks == 3:
            gateway.control("login")

    trigger = AuthTrigger(gateway=sensor().gateway().to_dict(), poke_interval=0.01, owner="me", strategy="waits")
    wait(trigger, after)
    assert asked == [1, 1, 1, 1]


@pytest.fixture
def ibc() -> Iterator[Ibc]:
    """IBC's command server, which hears every command and hangs up."""
    with Ibc() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Ibc(socketserver.TCPServer):
    """Keeps the commands; calls `meanwhile` before it hangs up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), IbcHandler)
        self.commands: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None


class IbcHandler(socketserver.StreamRequestHandler):
    """One command."""

    server: Ibc

    def handle(self) -> None:
        self.server.commands.append(self.rfile.readline().decode().strip())
        self.server.meanwhile()


def test_only_one_of_several_sends_commands_to_a_gateway(
    database: Database, gateway: SimulatorHandle, connect: Callable[..., None], ibc: Ibc
) -> None:
    connect(ibc_port=ibc.server_address[1])
    spec = sensor().gateway()
    gateway.control("logout")
    others: list[Status] = []

    def another() -> None:
        # Through another connection to the same gateway, while the first one's command is on its way.
        also = replace(spec, conn_id="also", timeout=1)
        others.extend(session_status(also, strategy="other", effort=effort) for effort in Effort)

    ibc.meanwhile = another
    first = session_status(spec, strategy="waits", effort=Effort.RESTART)
    assert first.needs_human
    assert ibc.commands == ["RECONNECTACCOUNT", "RESTART"]
    assert [(o.ready, o.needs_human) for o in others] == [(False, False)] * 6
    assert "only looks" in others[-1].detail
    assert len(alerts(database)) == 1


def test_once_a_person_was_called_nobody_sends_commands_until_the_session_was_valid_or_the_next_day(
    database: Database, gateway: SimulatorHandle, connect: Callable[..., None], ibc: Ibc
) -> None:
    connect(ibc_port=ibc.server_address[1])
    spec = sensor().gateway()
    gateway.control("logout")

    def sent(strategy: str) -> int:
        ibc.commands.clear()
        session_status(spec, strategy=strategy, effort=Effort.RESTART)
        return len(ibc.commands)

    with freeze_time("2026-03-10 15:00", tick=True, real_asyncio=True) as clock:
        assert sent("a") == 2
        clock.move_to("2026-03-10 23:59")
        assert sent("b") == 0
        gateway.control("login")  # the person
        assert sent("b") == 0
        gateway.control("logout")
        assert sent("a") == 2
        clock.move_to("2026-03-11 00:05")
        assert sent("b") == 2


def test_a_restart_has_its_time_before_the_next_command_and_a_reconnection_needs_none(
    database: Database, gateway: SimulatorHandle, connect: Callable[..., None]
) -> None:
    connect(ibc_port=gateway.ibc_port)
    spec = sensor().gateway()

    def valid(effort: Effort) -> bool:
        gateway.control("logout")
        return session_status(spec, strategy="waits", effort=effort).ready

    with freeze_time("2026-03-10 15:00", tick=True, real_asyncio=True) as clock:
        assert [valid(Effort.RECONNECT), valid(Effort.RECONNECT), valid(Effort.RESTART)] == [True] * 3
        assert not valid(Effort.RECONNECT)
        clock.move_to("2026-03-10 15:05")
        assert valid(Effort.RECONNECT)


def test_a_wrong_account_is_a_mistake_and_not_waited_for(
    database: Database, connect: Callable[..., None], context: Any, wait: Callable[..., Any]
) -> None:
    connect(account="DU7654321")
    with pytest.raises(ConfigError, match="DU7654321"):
        sensor().execute(context)
    trigger = AuthTrigger(gateway=sensor().gateway().to_dict(), poke_interval=0.01, owner="me", strategy="waits")
    assert wait(trigger)["error"] == "ConfigError"
