"""MarketOpenSensor and its trigger against a simulated gateway, whose clock decides."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout, TaskDeferred
from airflow.sdk.serde import deserialize, serialize

from airflow_ibkr_plugin.errors import Family, GatewayUnavailable, UnknownContract
from airflow_ibkr_plugin.sensors.market_open import MarketOpenSensor
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.failures import Failures
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox
from airflow_ibkr_plugin.triggers.market_open import MarketOpenTrigger

pytestmark = pytest.mark.usefixtures("database")

OPEN = datetime(2026, 3, 16, 15, tzinfo=UTC)
SATURDAY = "2026-03-14T15:00:00Z"


def sensor(*symbols: Any, **options: Any) -> MarketOpenSensor:
    return MarketOpenSensor(task_id="wait", strategy="waits", symbols=symbols or ("AAPL",), **options)


def deferred(waiting: MarketOpenSensor, context: dict[str, Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        waiting.execute(context)
    return caught.value


@pytest.mark.parametrize(
    ("clock", "is_open"),
    [
        ("2026-03-11T15:00:00Z", True),
        ("2026-03-11T13:29:00Z", False),  # New York keeps summer time from 8 March: it opens at 13:30 UTC
        ("2026-03-11T13:31:00Z", True),
        (SATURDAY, False),
        ("2026-04-03T15:00:00Z", False),  # Good Friday
        ("2026-11-27T18:30:00Z", False),  # the day after Thanksgiving closes at 13:00 in New York
    ],
)
def test_the_brokers_clock_decides(gateway: SimulatorHandle, context: Any, clock: str, is_open: bool) -> None:
    gateway.control("clock", set=clock)
    assert sensor().poke(context) is is_open


def test_one_closed_market_is_enough_to_wait(gateway: SimulatorHandle, context: Any) -> None:
    gateway.control("clock", set="2026-03-11T02:00:00Z")  # forex trades, New York sleeps
    assert sensor("EUR.USD").poke(context)
    assert not sensor("EUR.USD", "AAPL").poke(context)
    assert not sensor("EUR.USD", calendar="XNYS").poke(context)


def test_an_open_market_ends_the_task_at_once(database: Database, context: Any) -> None:
    assert sensor().execute(context)["waited_s"] >= 0
    with database.read() as session:
        (row,) = TrackingOutbox(session).pending(None, "waits", "r1", limit=10)
    assert row.payload["values"]["task/wait/duration_s"] >= 0


def test_a_closed_market_is_waited_for_in_the_triggerer(
    gateway: SimulatorHandle, context: Any, wait: Callable[..., Any]
) -> None:
    gateway.control("clock", set=SATURDAY)
    waiting = sensor("AAPL", {"symbol": "MSFT", "currency": "USD"}, calendar="XNYS", poke_interval=0.01, timeout=600)
    handed = deferred(waiting, context)
    assert (handed.method_name, handed.timeout.total_seconds()) == ("execute_complete", 600)
    # As it reaches the triggerer: through the metadata database.
    path, arguments = handed.trigger.serialize()
    assert path == "airflow_ibkr_plugin.triggers.market_open.MarketOpenTrigger"
    received: Any = deserialize(serialize(arguments))
    trigger = MarketOpenTrigger(**received)
    assert trigger.serialize() == (path, arguments)

    looked = []

    def after(looks: int) -> None:
        looked.append(looks)
        if looks == 2:
            gateway.control("clock", set=OPEN.isoformat())

    event = wait(trigger, after)
    assert looked == [1, 2, 3]
    assert "market open" in event["detail"]
    assert "2026-03-16" in event["detail"]
    assert "simulated clock" in event["detail"]
    assert waiting.resume_execution("execute_complete", {"event": event}, context)["waited_s"] >= 0


def test_what_waiting_cannot_mend_ends_the_wait(
    database: Database, gateway: SimulatorHandle, context: Any, wait: Callable[..., Any]
) -> None:
    gateway.control("clock", set=SATURDAY)
    waiting = sensor(poke_interval=0.01)
    trigger = deferred(waiting, context).trigger
    trigger.symbols = ["NOSUCH"]
    event = wait(trigger)
    with pytest.raises(UnknownContract, match="NOSUCH") as caught:
        waiting.resume_execution("execute_complete", {"event": event}, context)
    assert caught.value.remedy
    with database.read() as session:
        (failure,) = Failures(session).for_run("waits", "r1")
    assert (failure.task_id, failure.error_type, failure.family) == ("wait", "UnknownContract", Family.FATAL)
    assert "NOSUCH" in failure.message


def test_an_unknown_symbol_alone_fails_the_task_and_is_stored(database: Database, context: Any) -> None:
    with pytest.raises(UnknownContract, match="NOSUCH"):
        sensor("NOSUCH").execute(context)
    with database.read() as session:
        (failure,) = Failures(session).for_run("waits", "r1")
    assert failure.error_type == "UnknownContract"


@pytest.mark.parametrize("symbols", [("NOSUCH", "AAPL"), ("AAPL", "NOSUCH")])
def test_an_unknown_symbol_holds_up_no_other(
    gateway: SimulatorHandle, context: Any, symbols: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    assert sensor(*symbols).execute(context)["waited_s"] >= 0
    assert any("NOSUCH" in record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    gateway.control("clock", set=SATURDAY)
    assert not sensor(*symbols).poke(context)


def test_a_wait_that_took_too_long_is_stored(database: Database, context: Any) -> None:
    with pytest.raises(AirflowSensorTimeout):
        sensor().resume_execution("__fail__", {"error": "Trigger timeout"}, context)
    with database.read() as session:
        (failure,) = Failures(session).for_run("waits", "r1")
    assert failure.error_type == "AirflowSensorTimeout"


def test_a_gateway_that_is_away_is_looked_past(
    gateway: SimulatorHandle, context: Any, wait: Callable[..., Any]
) -> None:
    gateway.control("clock", set=SATURDAY)
    trigger = deferred(sensor(poke_interval=0.01), context).trigger
    gateway.stop()
    back = []

    def after(looks: int) -> None:
        if looks == 3:
            back.append(start_simulator(port=gateway.port, seed=7, clock=OPEN, account="DU1234567"))

    try:
        assert "market open" in wait(trigger, after)["detail"]
    finally:
        for simulator in back:
            simulator.stop()


def test_a_closed_gateway_is_an_error_in_the_worker(gateway: SimulatorHandle, context: Any) -> None:
    gateway.stop()
    with pytest.raises(GatewayUnavailable) as caught:
        sensor().execute(context)
    assert caught.value.remedy
