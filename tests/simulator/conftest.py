from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import ib_insync
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator

#: A Friday, 11:00 in New York.
OPEN = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)

Connect = Callable[..., ib_insync.IB]
Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def start() -> Iterator[Callable[..., SimulatorHandle]]:
    """Start simulators whose clock stands still inside a session; they are stopped at the end."""
    started: list[SimulatorHandle] = []

    def start_one(*, clock: datetime = OPEN, **options: Any) -> SimulatorHandle:
        handle = start_simulator(clock=clock, **options)
        started.append(handle)
        handle.control("clock", freeze=True)
        return handle

    yield start_one
    for handle in started:
        handle.stop()


@pytest.fixture
def simulator(start: Callable[..., SimulatorHandle]) -> SimulatorHandle:
    """One simulator, standing inside a session."""
    return start()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connect unmodified ib_insync clients; they are disconnected at the end."""
    clients: list[ib_insync.IB] = []

    def connect_one(handle: Any, client_id: int = 1, **options: Any) -> ib_insync.IB:
        client = ib_insync.IB()
        client.RequestTimeout = 20
        clients.append(client)
        client.connect("127.0.0.1", handle.port, clientId=client_id, timeout=20, **options)
        return client

    yield connect_one
    for client in clients:
        client.disconnect()


@pytest.fixture
def ib(simulator: SimulatorHandle, connect: Connect) -> ib_insync.IB:
    """A client of `simulator`."""
    return connect(simulator)


@pytest.fixture
def until() -> Until:
    """Run the client's loop until a condition holds; returns what it returned."""

    def wait(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, "the condition did not come true"
            ib_insync.util.run(_turn())
        return found

    async def _turn() -> None:
        import asyncio

        await asyncio.sleep(0.01)

    return wait
