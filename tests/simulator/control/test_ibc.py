"""The IBC command server."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.broker.ibc import send_command
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle


class Channel:
    """A connection to the command server."""

    def __init__(self, simulator: SimulatorHandle) -> None:
        assert simulator.ibc_port is not None
        self.socket = socket.create_connection(("127.0.0.1", simulator.ibc_port), timeout=10)
        self._lines = self.socket.makefile()

    def send(self, *commands: str) -> None:
        self.socket.sendall("".join(f"{command}\r\n" for command in commands).encode())

    def read(self) -> str:
        """The next line, empty at the end."""
        return self._lines.readline().rstrip("\n")

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()
        self.socket.close()


def ask(simulator: SimulatorHandle, *commands: str) -> list[str]:
    """Send commands, return the answers up to the end of the connection."""
    with Channel(simulator) as channel:
        channel.send(*commands)
        channel.socket.shutdown(socket.SHUT_WR)
        return list(iter(channel.read, ""))


@pytest.fixture
def simulator(start: Any) -> SimulatorHandle:
    return start(ibc_port=0)


def test_commands(simulator: SimulatorHandle) -> None:
    assert ask(simulator, "reconnectdata", "", "  ", "ENABLEAPI", "NONSENSE", " EXIT", "EXIT", "RESTART") == [
        "OK ",
        "ERROR ENABLEAPI is not valid for the IB Gateway",
        "ERROR Command invalid",
        "ERROR Command invalid",
        "OK Goodbye",
    ]


def test_data_farms_are_reconnected(simulator: SimulatorHandle, raw: Any) -> None:
    client = raw(simulator, 1)
    client.until(9)
    simulator.control("farm", farm="market", state="broken")
    assert ask(simulator, "RECONNECTDATA") == ["OK "]
    codes = [client.until(4)[3] for _ in range(5)]
    assert codes == ["2104", "2106", "2158", "2103", "2104"]
    simulator.control("connectivity", state="lost")
    assert ask(simulator, "RECONNECTDATA") == ["OK "]
    assert simulator.control("status")["farms"]["market"] == "broken"


def test_a_prompt_and_information_where_it_is_configured_so(start: Any) -> None:
    simulator = start(ibc_port=0, ibc_verbose=True)
    assert ask(simulator, "NONSENSE", "", "RESTART") == [
        "INFO IBC Command Server",
        "ERROR Command invalid",
        ">>INFO Restarting TWS",
        "OK RESTART in progress",
    ]
    assert send_command("127.0.0.1", simulator.ibc_port, "RECONNECTACCOUNT", timeout=5) == ""


@pytest.mark.parametrize(
    ("command", "answer"), [("STOP", "OK Shutting down: STOP command"), ("PAUSE", "OK PAUSE in progress")]
)
def test_it_ends_the_gateway(simulator: SimulatorHandle, command: str, answer: str) -> None:
    assert ask(simulator, command) == [answer]
    simulator.join(20)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", simulator.port), timeout=5)


@pytest.mark.parametrize("mode", ["close", "refuse"])
@pytest.mark.parametrize(
    ("command", "answer"), [("RESTART", ["OK RESTART in progress"]), ("RECONNECTACCOUNT", ["OK "])]
)
def test_a_logout_ends_by_it(
    simulator: SimulatorHandle, connect: Any, until: Any, mode: str, command: str, answer: list[str]
) -> None:
    ib = connect(simulator)
    seen: list[int] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append(code)
    simulator.control("logout", mode=mode)
    with pytest.raises(ConnectionError):
        until(lambda: False)
    assert 1100 in seen
    refused = ibi.IB()
    with pytest.raises((ConnectionError, TimeoutError)):
        refused.connect("127.0.0.1", simulator.port, clientId=1, timeout=0.5)
    assert ask(simulator, command) == answer
    assert connect(simulator).isConnected()


def test_a_second_factor_it_cannot_enter(simulator: SimulatorHandle, connect: Any) -> None:
    simulator.control("logout", mode="second_factor")
    assert ask(simulator, "RESTART") == ["OK RESTART in progress"]
    with Channel(simulator) as channel:
        # IBC waits for the gateway's main window: the answer comes when somebody has logged in.
        channel.send("RECONNECTACCOUNT")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", simulator.port), timeout=5)
        assert simulator.control("status")["login"] == "second_factor"
        channel.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            channel.socket.recv(1)
        channel.socket.settimeout(10)
        simulator.control("login")
        assert channel.socket.recv(10) == b"OK \n"
    assert connect(simulator).isConnected()


def test_a_port_that_was_taken_meanwhile_is_said(simulator: SimulatorHandle) -> None:
    simulator.control("logout", mode="refuse")
    with socket.create_server(("127.0.0.1", simulator.port)):
        answer = ask(simulator, "RECONNECTACCOUNT")
    assert answer[0].startswith(f"ERROR Port {simulator.port} on 127.0.0.1 is taken")
    assert ask(simulator, "RECONNECTACCOUNT") == ["OK "]


def test_a_restart_takes_as_long_as_configured(start: Any, connect: Any) -> None:
    simulator = start(ibc_port=0, restart_seconds=3600)
    assert ask(simulator, "RESTART") == ["OK RESTART in progress"]
    assert simulator.control("status")["login"] == "restarting"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", simulator.port), timeout=5)
    simulator.control("login")
    assert connect(simulator).isConnected()


def test_a_command_that_waits_ends_with_the_simulator(simulator: SimulatorHandle) -> None:
    simulator.control("logout", mode="second_factor")
    with Channel(simulator) as channel:
        channel.send("RECONNECTACCOUNT")
        assert simulator.control("status")["ok"]
        simulator.stop()
        assert channel.read() == ""


@pytest.mark.parametrize("sent", [b"\xff\xfe\n", b"\0\0\n", b"x" * 200_000 + b"\n", b"STOP" * 100 + b"\n", b"no end"])
def test_nonsense_ends_at_most_its_own_connection(simulator: SimulatorHandle, sent: bytes) -> None:
    with Channel(simulator) as channel:
        with contextlib.suppress(OSError):  # it may have been hung up on before it has said all
            channel.socket.sendall(sent)
            channel.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert channel.read() in ("", "ERROR Command invalid")
    assert ask(simulator, "EXIT") == ["OK Goodbye"]
