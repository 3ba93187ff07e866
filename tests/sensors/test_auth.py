"""AuthSensor and its trigger against a simulated gateway that logs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from freezegun import freeze_time
from sqlalchemy import select

from airflow_ibkr_plugin.errors import ConfigError
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


def test_a_valid_session(database: Database, context: Any) -> None:
    assert sensor().poke(context)
    assert sensor().execute(context)["waited_s"] >= 0
    assert alerts(database) == []


def test_without_ibc_a_person_is_called_once_a_day(
    database: Database, gateway: SimulatorHandle, context: Any, received: list[dict[str, str]]
) -> None:
    gateway.control("logout")
    with freeze_time("2026-03-10 15:00", tick=True) as clock:
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


def test_a_wrong_account_is_a_mistake_and_not_waited_for(
    database: Database, connect: Callable[..., None], context: Any, wait: Callable[..., Any]
) -> None:
    connect(account="DU7654321")
    with pytest.raises(ConfigError, match="DU7654321"):
        sensor().execute(context)
    trigger = AuthTrigger(gateway=sensor().gateway().to_dict(), poke_interval=0.01, owner="me", strategy="waits")
    assert wait(trigger)["error"] == "ConfigError"
