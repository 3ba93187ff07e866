"""The control port, its faults, and the IBC command server."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import ib_insync as ibi
import pytest

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
    assert "lose_next_order" in answers[3]["error"]


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
        {"cmd": "lose_next_order", "count": -1},
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
    simulator.control("lose_next_order")
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


@pytest.mark.parametrize("mode", ["close", "refuse"])
@pytest.mark.parametrize("command", ["RESTART", "RECONNECTACCOUNT"])
def test_a_logout_ends_by_ibc(start: Any, connect: Any, until: Any, mode: str, command: str) -> None:
    simulator = start(ibc_port=0)
    ib = connect(simulator)
    seen: list[int] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append(code)
    simulator.control("logout", mode=mode)
    lost(ib, until)
    assert 1100 in seen
    refused = ibi.IB()
    with pytest.raises((ConnectionError, TimeoutError)):
        refused.connect("127.0.0.1", simulator.port, clientId=1, timeout=0.5)
    assert ask(simulator.ibc_port, command)[0].startswith("OK")
    assert connect(simulator).isConnected()


def test_control_logs_in_again(simulator: SimulatorHandle, connect: Any) -> None:
    simulator.control("logout", mode="refuse")
    simulator.control("login")
    assert connect(simulator).isConnected()


def test_ibc_commands(start: Any) -> None:
    simulator = start(ibc_port=0)
    assert ask(simulator.ibc_port, "reconnectdata", "", "ENABLEAPI", "NONSENSE", "EXIT", "RESTART") == [
        "OK ",
        "ERROR ENABLEAPI is not valid for the IB Gateway",
        "ERROR Command invalid",
        "OK Goodbye",
    ]


def test_ibc_stops_the_gateway(start: Any) -> None:
    simulator = start(ibc_port=0)
    assert ask(simulator.ibc_port, "STOP") == ["OK Shutting down: STOP command"]
    simulator.join(20)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", simulator.port), timeout=5)
