"""The control port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import ib_insync as ibi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.control.commands import COMMANDS, Control
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle


def ask(port: int | None, *lines: str) -> list[str]:
    """Send lines, return the answers."""
    assert port is not None
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall("".join(f"{line}\n" for line in lines).encode())
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as answers:
            return [line.rstrip("\n") for line in answers]


def test_json_lines_over_a_socket(simulator: SimulatorHandle) -> None:
    answers = [json.loads(line) for line in ask(simulator.control_port, '{"cmd": "status"}', "{", "[]", '{"cmd": "x"}')]
    assert [answer["ok"] for answer in answers] == [True, False, False, False]
    assert answers[0]["server_version"] == 176
    assert answers[0]["clock"] == {
        "now": "2026-11-20T16:00:00+00:00",
        "simulated": True,
        "frozen": True,
        "speed": 1.0,
    }
    assert "drop_before_accept" in answers[3]["error"]


@pytest.mark.parametrize(
    "command",
    [
        {"cmd": "clock", "set": "tomorrow"},
        {"cmd": "clock", "set": "2026-11-20T16:00:00"},
        {"cmd": "clock", "advance": -1},
        {"cmd": "clock", "advance": "x"},
        {"cmd": "error", "client": 1},
        {"cmd": "error", "client": 1, "id": 1, "code": 2},
        {"cmd": "mute", "messages": ["orderStatus"]},
        {"cmd": "mute"},
        {"cmd": "logout", "mode": "maybe"},
        {"cmd": "logout", "mode": "valid"},
        {"cmd": "drop_before_accept", "count": -1},
    ],
)
def test_commands_that_cannot_be(simulator: SimulatorHandle, command: dict[str, Any]) -> None:
    answer = json.loads(ask(simulator.control_port, json.dumps(command))[0])
    assert answer["ok"] is False
    assert answer["error"]


def test_clock(start: Callable[..., SimulatorHandle], connect: Any) -> None:
    simulator = start()
    ib = connect(simulator)
    simulator.control("clock", advance=90)
    assert ib.reqCurrentTime() == datetime(2026, 11, 20, 16, 1, 30, tzinfo=UTC)
    simulator.control("clock", set="2026-11-23T15:00:00+00:00")
    assert ib.reqCurrentTime() == datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
    assert simulator.control("clock", freeze=False)["frozen"] is False


def test_time_does_not_run_back_behind_a_fill(simulator: SimulatorHandle, ib: ibi.IB, until: Any) -> None:
    trade = ib.placeOrder(ibi.Stock("AAPL", "SMART", "USD"), ibi.MarketOrder("BUY", 1))
    until(trade.isDone)
    with pytest.raises(ValueError, match="before the last event"):
        simulator.control("clock", set="2026-11-20T15:00:00+00:00")


def buy(ib: ibi.IB) -> ibi.Trade:
    return ib.placeOrder(ibi.Stock("AAPL", "SMART", "USD"), ibi.MarketOrder("BUY", 10, orderRef="once"))


def lost(ib: ibi.IB, until: Any) -> None:
    with pytest.raises(ConnectionError):
        until(lambda: False)
    assert not ib.isConnected()


def test_a_lost_order_was_never_there(
    simulator: SimulatorHandle, ib: ibi.IB, connect: Any, raw: Any, until: Any
) -> None:
    simulator.control("drop_before_accept")
    buy(ib)
    lost(ib, until)
    assert simulator.control("orders", order_ref="once")["orders"] == []
    assert raw(simulator, 1).until(9)[-1] == "1"
    again = connect(simulator, 2)
    assert not again.reqCompletedOrders(False)
    trade = buy(again)
    until(trade.isDone)
    assert len(simulator.control("orders", order_ref="once")["orders"]) == 1


def test_an_accepted_order_lives_without_its_connection(
    simulator: SimulatorHandle, ib: ibi.IB, connect: Any, until: Any
) -> None:
    simulator.control("drop_after_accept")
    buy(ib)
    lost(ib, until)
    assert [order["status"] for order in simulator.control("orders", order_ref="once")["orders"]] == ["Filled"]
    again = connect(simulator, 2)
    assert [trade.order.orderRef for trade in again.reqCompletedOrders(False)] == ["once"]
    assert [fill.execution.orderRef for fill in again.fills()] == ["once"]


def test_drop(simulator: SimulatorHandle, ib: ibi.IB, until: Any) -> None:
    assert simulator.control("drop")["dropped"] == 1
    lost(ib, until)


def test_any_error_to_any_id(simulator: SimulatorHandle, ib: ibi.IB, until: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((request, code, text))
    simulator.control("error", client=1, id=-1, code=1100, message="lost")
    until(lambda: (-1, 1100, "lost") in seen)


def test_muted_ends(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    simulator.control("mute", messages=["contractDetailsEnd"])
    ib.RequestTimeout = 0.3
    with pytest.raises(TimeoutError):
        ib.reqContractDetails(ibi.Stock("AAPL", "SMART", "USD"))
    simulator.control("mute", messages=[])
    assert ib.reqContractDetails(ibi.Stock("AAPL", "SMART", "USD"))


@pytest.mark.parametrize("peer", [("192.0.2.7", 4711), ("2001:db8::7", 4711, 0, 0), None])
def test_only_this_machine_is_answered(
    simulator: SimulatorHandle, peer: tuple[Any, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The port listens on 127.0.0.1 alone; were it reached from elsewhere all the same, it would say nothing."""
    assert _answer_to(peer) == b""
    assert "refused" in caplog.text


@pytest.mark.parametrize("peer", [("127.0.0.1", 4711), ("127.0.0.2", 4711), ("::1", 4711, 0, 0)])
def test_any_loopback_address_is_this_machine(peer: tuple[Any, ...]) -> None:
    assert json.loads(_answer_to(peer))["error"].startswith("not JSON")


def _answer_to(peer: tuple[Any, ...] | None) -> bytes:
    """What a peer with that address gets for one line that is no JSON."""

    async def ask_once() -> bytes:
        written = bytearray()

        class Transport(asyncio.Transport):
            def write(self, data: bytes | bytearray | memoryview) -> None:
                written.extend(data)

            def close(self) -> None: ...

            def is_closing(self) -> bool:
                return False

        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = Transport({"peername": peer})
        protocol.connection_made(transport)
        reader.feed_data(b"{\n")
        reader.feed_eof()
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        await Control(cast(Any, None)).connection(reader, writer)
        return bytes(written)

    return asyncio.run(ask_once())


def test_the_command_ports_are_not_reached_by_other_addresses(start: Any) -> None:
    simulator = start(host="0.0.0.0", ibc_port=0)
    others = [ip for *_, (ip, *_) in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in {"127.0.0.2", *others} - {"127.0.0.1"}:
        for port in (simulator.control_port, simulator.ibc_port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, port), timeout=5)


LONG = [b"[" * 60_000, b'{"cmd": ' * 8_000, b"x" * 200_000]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.sampled_from(LONG))
def test_any_line_is_answered_or_ends_its_connection(simulator: SimulatorHandle, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", simulator.control_port), timeout=10) as stranger:
        stranger.sendall(line.replace(b"\n", b"") + b"\n")
        with contextlib.suppress(ConnectionError):  # hung up on before it was read to its end
            got = stranger.makefile("rb").readline()
            assert got == b"" or json.loads(got)["ok"] is False
    assert simulator.control("status")["ok"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted({field.name for command in COMMANDS.values() for field in command.fields})


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(COMMANDS)), st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4))
def test_any_fields_are_taken_or_refused(simulator: SimulatorHandle, name: str, fields: dict[str, Any]) -> None:
    """Whatever a field is given, the answer is ok, or an error in words."""
    answer = json.loads(ask(simulator.control_port, json.dumps({"cmd": name} | fields))[0])
    assert answer["ok"] or name in answer["error"]
    simulator.control("disarm")
    simulator.control("login")
