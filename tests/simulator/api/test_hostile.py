"""Whatever a client sends, it loses at most its own connection."""

from __future__ import annotations

import socket
import struct
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.simulator.wire.framing import frame


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"API\0\xff\xff\xff\xff",
        b"API\0\0\0\0\0",
        b"API\0" + frame(["not a version"]),
        b"API\0" + frame(["v10..20"]),
        b"API\0" + frame(["v900..999"]),
        b"API\0\0\0\0\x09v157..176" + frame(["4711", "1"]),
        b"API\0\0\0\0\x09v157..176" + frame(["49", "1"]),
        b"API\0\0\0\0\x09v157..176" + frame(["71", "2", "x", ""]),
        b"API\0\0\0\0\x09v157..176" + frame(["71", "2", "-1", ""]),
        b"API\0\0\0\0\x09v157..176" + struct.pack(">I", 3) + b"\xff\xfe\0",
        b"API\0\0\0\0\x09v157..176" + struct.pack(">I", 2) + b"49",
    ],
)
def test_nonsense_ends_its_own_connection_only(
    simulator: SimulatorHandle, ib: ibi.IB, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "airflow_ibkr_plugin.simulator")
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=10) as stranger:
        stranger.sendall(data)
        while stranger.recv(4096):
            pass
    assert "closed: " in caplog.text
    assert ib.reqCurrentTime()
    assert simulator.control("status")["clients"] == [1]


def test_a_second_start_ends_the_connection(simulator: SimulatorHandle, raw: Any) -> None:
    client = raw(simulator, 5)
    client.send(71, 2, 6, "")
    assert client.hung_up()
    assert raw(simulator, 5).until(9)


def test_an_unreadable_field_is_answered(simulator: SimulatorHandle, raw: Any) -> None:
    client = raw(simulator, 5)
    client.send(62, 1, 77)
    assert client.until(4)[2:4] in (["-1", "2104"], ["77", "320"])
    client.send(49, 1)
    assert client.until(49)


@pytest.mark.parametrize(
    ("versions", "expected"), [("v100..157", "157"), ("v100..225", "176"), ("v157..176 +X", "176")]
)
def test_versions(simulator: SimulatorHandle, raw: Any, versions: str, expected: str) -> None:
    hello = raw(simulator, 1, versions).hello
    assert hello == [expected, "20261120 11:00:00 US/Eastern"]


@pytest.mark.parametrize(("rate", "survives"), [(50, False), (0, True)])
def test_a_flood_ends_the_connection_unless_the_meter_is_off(
    start: Any, raw: Any, rate: int, survives: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "airflow_ibkr_plugin.simulator")
    simulator = start(message_rate=rate)
    client, bystander = raw(simulator, 1), raw(simulator, 2)
    client.until(9)
    client.socket.sendall(frame(["49", "1"]) * 500)
    numbers = [client.read()[0] for _ in range(3)]  # the farm notices
    assert numbers == ["4", "4", "4"]
    answers = [client.read() for _ in range(500)]
    assert (answers.count([]) == 0) is survives
    assert any(answer[2:4] == ["-1", "100"] for answer in answers if answer) is not survives
    assert ("closed: more than 50 messages a second" in caplog.text) is not survives
    bystander.send(49, 1)
    assert bystander.until(49)
