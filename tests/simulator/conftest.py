from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import ib_insync
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.simulator.wire.framing import frame

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
        handle.control("clock", freeze=True, set=clock.isoformat())
        return handle

    yield start_one
    for handle in started:
        handle.stop()


@pytest.fixture
def simulator(start: Callable[..., SimulatorHandle]) -> SimulatorHandle:
    """One simulator, standing inside a session."""
    return start()


@pytest.fixture
def loop() -> Iterator[None]:
    """An event loop for ib_insync's blocking calls: `asyncio.run` in an earlier test leaves the thread without one."""
    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    yield
    asyncio.set_event_loop(None)
    own.close()


@pytest.fixture
def connect(loop: None) -> Iterator[Connect]:
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


class RawClient:
    """A socket that speaks as little TWS as a test needs."""

    def __init__(self, port: int, client_id: int | None, versions: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._data = b""
        self.socket.sendall(b"API\0" + struct.pack(">I", len(versions)) + versions.encode())
        self.hello = self.read()
        if client_id is not None:
            self.send(71, 2, client_id, "")

    def send(self, *values: object) -> None:
        """Send one message."""
        self.socket.sendall(frame([str(value) for value in values]))

    def read(self) -> list[str]:
        """The next message; empty when the server hung up."""
        while len(self._data) < 4 or len(self._data) < 4 + int.from_bytes(self._data[:4], "big"):
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return []
            if not data:
                return []
            self._data += data
        end = 4 + int.from_bytes(self._data[:4], "big")
        message, self._data = self._data[4:end], self._data[end:]
        return message.decode()[:-1].split("\0")

    def until(self, number: int) -> list[str]:
        """Read on to the next message with that number."""
        while (message := self.read()) and message[0] != str(number):
            pass
        assert message, f"hung up before message {number}"
        return message

    def hung_up(self) -> bool:
        """Whether the server ends the connection; reads what it still says."""
        while self.read():
            pass
        return True


@pytest.fixture
def raw() -> Iterator[Callable[..., RawClient]]:
    """Connect raw sockets; they are closed at the end."""
    clients: list[RawClient] = []

    def connect_one(handle: Any, client_id: int | None = None, versions: str = "v157..176") -> RawClient:
        clients.append(RawClient(handle.port, client_id, versions))
        return clients[-1]

    yield connect_one
    for client in clients:
        client.socket.close()


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
