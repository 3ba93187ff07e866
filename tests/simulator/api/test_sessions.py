"""Sessions: client ids, the gateway's link to IBKR, and its restarts."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

APPLE = ibi.Stock("AAPL", "SMART", "USD")
BEFORE_THE_OPEN = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)  # 09:00 in New York

Errors = list[tuple[int, int, str]]


def errors(ib: ibi.IB) -> Errors:
    seen: Errors = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((request, code, text))
    return seen


def notices(client: Any) -> list[str]:
    """Codes of what a raw client is told up to now."""
    client.send(49, 1)
    codes = []
    while (message := client.read())[0] != "49":
        if message[0] == "4":
            codes.append(message[3])
    return codes


def refused(simulator: SimulatorHandle) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", simulator.port), timeout=5).close()
        return False
    return True


# --- client ids ------------------------------------------------------------------------------------


def test_who_connects_is_told_its_account_its_next_id_and_the_farms(simulator: SimulatorHandle, raw: Any) -> None:
    client = raw(simulator, 7)
    assert client.read() == ["15", "1", "DU1234567"]
    assert client.read() == ["9", "1", "1"]
    assert [client.read()[3:] for _ in range(3)] == [
        ["2104", "Market data farm connection is OK:simfarm", ""],
        ["2106", "HMDS data farm connection is OK:simhmds", ""],
        ["2158", "Sec-def data farm connection is OK:simsecdef", ""],
    ]


def test_a_client_id_in_use_is_refused_at_once(simulator: SimulatorHandle, ib: ibi.IB, raw: Any, connect: Any) -> None:
    second = raw(simulator, 1)
    message = second.read()
    assert message[2:5] == [
        "-1",
        "326",
        "Unable to connect as the client id is already in use. Retry with a unique client id.",
    ]
    assert second.hung_up()
    assert ib.reqCurrentTime()
    ib.disconnect()
    assert connect(simulator, 1).reqCurrentTime()


def test_32_clients_at_once_each_with_its_own_orders(simulator: SimulatorHandle, raw: Any, connect: Any) -> None:
    first, second = connect(simulator, 1), connect(simulator, 2)
    others = [raw(simulator, number) for number in range(3, 33)]
    assert all(client.until(9) for client in others)
    assert simulator.control("status")["clients"] == list(range(1, 33))
    one_more = raw(simulator, 33)
    assert one_more.read()[3] == "507"
    assert one_more.hung_up()
    mine = first.placeOrder(APPLE, ibi.LimitOrder("BUY", 1, 1.0))
    yours = second.placeOrder(APPLE, ibi.LimitOrder("BUY", 1, 1.0))
    assert mine.order.orderId == yours.order.orderId
    assert {trade.order.clientId for trade in first.reqOpenOrders()} == {1}
    assert {trade.order.clientId for trade in first.reqAllOpenOrders()} == {1, 2}


def test_who_does_not_say_hello_is_hung_up_on(
    start: Any, raw: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "airflow_ibkr_plugin.simulator")
    monkeypatch.setattr("airflow_ibkr_plugin.simulator.api.session.HELLO_SECONDS", 0.2)
    simulator = start()
    patient = raw(simulator, 1)
    assert patient.until(9)
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=10) as silent:
        assert silent.recv(1) == b""
    assert raw(simulator).hung_up()  # a hello, and no startApi
    assert caplog.text.count("no startApi within 0.2 s") == 2
    patient.send(49, 1)
    assert patient.until(49)


def test_connections_that_say_nothing_do_not_pile_up(
    simulator: SimulatorHandle, raw: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "airflow_ibkr_plugin.simulator")
    monkeypatch.setattr("airflow_ibkr_plugin.simulator.clients.MAX_CONNECTIONS", 3)
    client = raw(simulator, 1)
    with contextlib.ExitStack() as strangers:
        for _ in range(2):
            strangers.enter_context(socket.create_connection(("127.0.0.1", simulator.port), timeout=10))
        client.send(49, 1)
        assert client.until(49)
        with contextlib.suppress(ConnectionResetError):
            one_more = strangers.enter_context(socket.create_connection(("127.0.0.1", simulator.port), timeout=10))
            assert one_more.recv(1) == b""
    assert "closed: too many connections" in caplog.text
    client.send(49, 1)
    assert client.until(49)


def test_who_ends_only_its_own_half_is_gone(simulator: SimulatorHandle, raw: Any, ib: ibi.IB) -> None:
    client = raw(simulator, 5)
    client.until(9)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.hung_up()
    assert ib.reqCurrentTime()
    assert simulator.control("status")["clients"] == [1]


# --- the link to IBKR --------------------------------------------------------------------------------


def test_connectivity_is_lost_and_restored(simulator: SimulatorHandle, raw: Any) -> None:
    client = raw(simulator, 1)
    assert notices(client) == ["2104", "2106", "2158"]
    simulator.control("connectivity", state="lost")
    assert notices(client) == ["1100", "2103", "2105", "2157"]
    assert notices(raw(simulator, 2)) == ["2110", "2103", "2105", "2157"]
    simulator.control("connectivity", state="restored")
    assert notices(client) == ["1102", "2104", "2106", "2158"]
    simulator.control("connectivity", state="lost")
    simulator.control("connectivity", state="restored_data_lost")
    assert notices(client) == ["1100", "2103", "2105", "2157", "1101", "2104", "2106", "2158"]


def test_what_happened_to_an_order_meanwhile_is_learnt_afterwards(start: Any, connect: Any, until: Any) -> None:
    simulator = start(clock=BEFORE_THE_OPEN)
    ib = connect(simulator)
    trade = ib.placeOrder(APPLE, ibi.MarketOrder("BUY", 10, orderRef="waits"))
    until(lambda: trade.orderStatus.status == "PreSubmitted")
    simulator.control("connectivity", state="lost")
    simulator.control("clock", set="2026-11-20T15:00:00+00:00")
    assert not ib.reqExecutions()
    assert trade.orderStatus.status == "PreSubmitted"
    simulator.control("connectivity", state="restored")
    until(trade.isDone)
    assert trade.fills[0].execution.time == datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


def test_an_order_meanwhile_is_not_taken(simulator: SimulatorHandle, ib: ibi.IB, until: Any) -> None:
    resting = ib.placeOrder(APPLE, ibi.LimitOrder("BUY", 10, 1.0, tif="GTC"))
    until(lambda: resting.orderStatus.status == "Submitted")
    seen = errors(ib)
    simulator.control("connectivity", state="lost")
    trade = ib.placeOrder(APPLE, ibi.MarketOrder("BUY", 10, orderRef="no"))
    ib.cancelOrder(resting.order)
    until(lambda: [code for request, code, _ in seen if request == -1].count(1100) == 3)
    assert simulator.control("orders", order_ref="no")["orders"] == []
    assert not trade.isDone()
    simulator.control("connectivity", state="restored")
    assert [found.orderStatus.status for found in ib.reqOpenOrders()] == ["Submitted"]


@pytest.mark.parametrize(("state", "again"), [("restored", True), ("restored_data_lost", False)])
def test_quotes_afterwards(simulator: SimulatorHandle, ib: ibi.IB, until: Any, state: str, again: bool) -> None:
    ticker = ib.reqMktData(APPLE)
    until(lambda: ticker.last == ticker.last)
    simulator.control("connectivity", state="lost")
    simulator.control("connectivity", state=state)
    seen = errors(ib)
    ib.cancelMktData(APPLE)
    ib.reqCurrentTime()
    assert (300 not in [code for _, code, _ in seen]) is again
    fresh = ib.reqMktData(APPLE)
    until(lambda: fresh.last == fresh.last)


def test_quotes_stop_while_connectivity_is_lost(simulator: SimulatorHandle, ib: ibi.IB, until: Any) -> None:
    ticker = ib.reqMktData(APPLE)
    until(lambda: ticker.last == ticker.last)
    simulator.control("connectivity", state="lost")
    before = ticker.last
    simulator.control("clock", advance=600)
    other = ib.reqMktData(ibi.Stock("MSFT", "SMART", "USD"))
    ib.reqCurrentTime()
    assert (ticker.last, other.last == other.last) == (before, False)
    simulator.control("connectivity", state="restored")
    until(lambda: ticker.last != before)


@pytest.mark.parametrize(
    ("farm", "codes"),
    [
        ("market", {"broken": "2103", "inactive": "2108", "connecting": "2119", "ok": "2104"}),
        ("history", {"broken": "2105", "inactive": "2107", "ok": "2106"}),
        ("definitions", {"broken": "2157", "ok": "2158"}),
    ],
)
def test_farms(simulator: SimulatorHandle, raw: Any, farm: str, codes: dict[str, str]) -> None:
    client = raw(simulator, 1)
    notices(client)
    for state in codes:
        simulator.control("farm", farm=farm, state=state)
    assert notices(client) == list(codes.values())
    simulator.control("farm", farm=farm, state="broken")
    assert codes["broken"] in notices(raw(simulator, 2))
    assert simulator.control("status")["farms"][farm] == "broken"


def test_a_broken_history_farm_refuses_and_an_inactive_one_comes_up(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    seen = errors(ib)
    wanted = (APPLE, "", "2 D", "1 day", "TRADES", True)
    simulator.control("farm", farm="history", state="broken")
    assert not ib.reqHistoricalData(*wanted)
    assert 162 in [code for _, code, _ in seen]
    simulator.control("farm", farm="history", state="inactive")
    assert ib.reqHistoricalData(*wanted)
    assert simulator.control("status")["farms"]["history"] == "ok"


# --- restarts ----------------------------------------------------------------------------------------


def test_a_restart_drops_the_clients_and_keeps_the_orders(
    simulator: SimulatorHandle, ib: ibi.IB, connect: Any, until: Any
) -> None:
    resting = ib.placeOrder(APPLE, ibi.LimitOrder("BUY", 10, 1.0, tif="GTC", orderRef="stays"))
    until(lambda: resting.orderStatus.status == "Submitted")
    simulator.control("restart", seconds=3600)
    with pytest.raises(ConnectionError):
        until(lambda: False)
    assert refused(simulator)
    assert simulator.control("status")["login"] == "restarting"
    simulator.control("login")
    again = connect(simulator)
    assert [trade.order.orderRef for trade in again.openTrades()] == ["stays"]


def test_a_restart_that_wants_a_second_factor_waits_for_a_person(
    simulator: SimulatorHandle, ib: ibi.IB, connect: Any, until: Any
) -> None:
    seen = errors(ib)
    assert simulator.control("restart", second_factor=True)["login"] == "second_factor"
    with pytest.raises(ConnectionError):
        until(lambda: False)
    assert 1100 not in [code for _, code, _ in seen]
    simulator.control("restart")
    assert refused(simulator)
    simulator.control("login")
    assert connect(simulator).isConnected()


def test_a_restarted_gateway_comes_back_by_itself(simulator: SimulatorHandle, connect: Any, until: Any) -> None:
    simulator.control("restart", seconds=0.3)
    until(lambda: simulator.control("status")["login"] == "valid")
    assert connect(simulator).isConnected()


def test_a_restart_that_finds_its_port_taken_ends_the_simulator(
    simulator: SimulatorHandle, until: Any, caplog: pytest.LogCaptureFixture, loop: None
) -> None:
    simulator.control("restart", seconds=0.3)
    with socket.create_server(("127.0.0.1", simulator.port)):
        simulator.join(20)
    assert f"Port {simulator.port} on 127.0.0.1 is taken" in caplog.text


def test_a_gateway_that_restarts_each_night(start: Callable[..., SimulatorHandle], connect: Any, until: Any) -> None:
    simulator = start(restart_at=time(23, 45))
    ib = connect(simulator)
    simulator.control("clock", set="2026-11-21T04:44:59+00:00")  # 23:44:59 in New York
    assert ib.reqCurrentTime()
    simulator.control("clock", advance=1)
    with pytest.raises(ConnectionError):
        until(lambda: False)
    again = connect(simulator)
    simulator.control("clock", advance=3600)
    assert again.reqCurrentTime()
    simulator.control("clock", advance=24 * 3600)
    with pytest.raises(ConnectionError):
        until(lambda: False)


def test_a_nightly_restart_that_finds_its_port_taken_ends_the_simulator(
    start: Callable[..., SimulatorHandle], caplog: pytest.LogCaptureFixture
) -> None:
    simulator = start(restart_at=time(23, 45))
    simulator.control("logout", mode="refuse")
    with socket.create_server(("127.0.0.1", simulator.port)):
        simulator.control("clock", set="2026-11-21T04:45:00+00:00")
        simulator.join(20)
    assert f"Port {simulator.port} on 127.0.0.1 is taken" in caplog.text
    assert "the market has stopped" not in caplog.text
