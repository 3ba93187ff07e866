"""Each fault, as an unmodified client meets it."""

from __future__ import annotations

import re
import socket
import struct
from typing import Any

import ib_insync as ibi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.control.order_news import REORDERINGS
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

OPEN_ORDER, ORDER_STATUS, EXEC_DETAILS, COMMISSION, COMPLETED = "5", "3", "11", "59", "101"
APPLE = ibi.Stock("AAPL", "SMART", "USD")


@pytest.fixture
def wire(ib: ibi.IB, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The messages that `ib` gets from now on, as they came."""
    seen: list[list[str]] = []
    interpret = ib.client.decoder.interpret

    def record(fields: list[str]) -> None:
        seen.append(list(fields))
        interpret(fields)

    monkeypatch.setattr(ib.client.decoder, "interpret", record)
    return seen


def news(wire: list[list[str]]) -> list[str]:
    """Numbers of the messages about orders."""
    return [fields[0] for fields in wire if fields[0] in (OPEN_ORDER, ORDER_STATUS, EXEC_DETAILS, COMMISSION)]


def statuses(wire: list[list[str]]) -> list[str]:
    return [fields[2] for fields in wire if fields[0] == ORDER_STATUS]


def buy(ib: ibi.IB, ref: str = "mine", **options: Any) -> ibi.Trade:
    return ib.placeOrder(APPLE, ibi.MarketOrder("BUY", 10, orderRef=ref, tif="DAY", **options))


def rest(ib: ibi.IB, ref: str = "mine") -> ibi.Trade:
    """An order that is not filled."""
    return ib.placeOrder(APPLE, ibi.LimitOrder("BUY", 10, 1.0, orderRef=ref, tif="DAY"))


def errors(ib: ibi.IB) -> list[tuple[int, int, str]]:
    seen: list[tuple[int, int, str]] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((request, code, text))
    return seen


def test_a_swallowed_order_is_never_heard_of(simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any) -> None:
    simulator.control("lose_order", order_ref="mine")
    trade = buy(ib)
    other = buy(ib, "other")
    until(other.isDone)
    assert trade.orderStatus.status == "PendingSubmit"
    assert [order["order_ref"] for order in simulator.control("orders")["orders"]] == ["other"]
    assert [found.order.orderRef for found in ib.reqCompletedOrders(False)] == ["other"]
    assert simulator.control("status")["faults"] == []


def test_an_order_without_acknowledgement_shows_when_it_is_asked_for(
    simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any
) -> None:
    simulator.control("missing_acknowledgement")
    trade = rest(ib)
    ib.reqCurrentTime()
    assert [order["status"] for order in simulator.control("orders")["orders"]] == ["Submitted"]
    assert news(wire) == []
    assert trade.orderStatus.status == "PendingSubmit"

    assert [found.order.orderRef for found in ib.reqAllOpenOrders()] == ["mine"]
    ib.cancelOrder(trade.order)
    until(trade.isDone)
    assert statuses(wire)[-1] == "Cancelled"


def test_a_status_comes_twice(simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any) -> None:
    simulator.control("duplicate_status", count=2)
    trade = rest(ib)
    until(lambda: len(statuses(wire)) == 4)
    assert statuses(wire) == ["PreSubmitted", "PreSubmitted", "Submitted", "Submitted"]
    assert trade.orderStatus.status == "Submitted"


def test_a_fill_comes_before_its_status(simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any) -> None:
    simulator.control("reorder", how="fill_before_status", client=1)
    trade = buy(ib)
    until(trade.isDone)
    assert news(wire)[:2] == [EXEC_DETAILS, COMMISSION]
    assert news(wire)[2:] == [OPEN_ORDER, ORDER_STATUS] * ((len(news(wire)) - 2) // 2)
    assert statuses(wire)[0] == "PreSubmitted"
    assert statuses(wire)[-1] == "Filled"
    assert len(trade.fills) == 1


def test_an_order_that_ends_unfilled_is_told_of_all_the_same(
    simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any
) -> None:
    simulator.control("reorder", how="fill_before_status")
    trade = rest(ib)
    ib.reqCurrentTime()
    assert news(wire) == []
    ib.cancelOrder(trade.order)
    until(trade.isDone)
    assert statuses(wire) == ["PreSubmitted", "Submitted", "Cancelled"]


def test_statuses_come_backwards(simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any) -> None:
    simulator.control("reorder", how="status_backwards")
    trade = rest(ib)
    ib.cancelOrder(trade.order)
    until(lambda: len(statuses(wire)) == 3)
    assert statuses(wire) == ["Cancelled", "Submitted", "PreSubmitted"]


def test_a_commission_comes_before_its_execution(simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any) -> None:
    simulator.control("reorder", how="commission_before_execution")
    buy(ib)
    until(lambda: EXEC_DETAILS in news(wire))
    assert [number for number in news(wire) if number in (EXEC_DETAILS, COMMISSION)] == [COMMISSION, EXEC_DETAILS]


def test_an_order_gets_a_second_perm_id(simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any) -> None:
    simulator.control("second_perm_id", order_ref="mine")
    trade = buy(ib)
    until(trade.isDone)
    sent = [int(fields[6]) for fields in wire if fields[0] == ORDER_STATUS]
    first, second = sent[0], sent[-1]
    assert set(sent[1:]) == {second}
    assert first != second
    assert [fill.execution.permId for fill in ib.reqExecutions()] == [second]
    assert [found.order.permId for found in ib.reqCompletedOrders(False)] == [second]
    other = buy(ib, "other")
    until(other.isDone)
    assert other.order.permId not in (first, second)


def test_a_fill_without_our_reference(simulator: SimulatorHandle, ib: ibi.IB, connect: Any, until: Any) -> None:
    simulator.control("unnamed_fill")
    trade = buy(ib)
    until(trade.isDone)
    assert [fill.execution.orderRef for fill in trade.fills] == [""]
    again = connect(simulator, 2)
    assert [(fill.execution.orderRef, fill.execution.shares) for fill in again.reqExecutions()] == [("", 10)]
    assert [found.order.orderRef for found in again.reqCompletedOrders(False)] == ["mine"]


def test_next_valid_id_is_rolled_back(simulator: SimulatorHandle, ib: ibi.IB, raw: Any, until: Any) -> None:
    for _ in range(7):
        until(buy(ib).isDone)
    ib.disconnect()
    right = int(raw(simulator, 1).until(9)[-1])
    simulator.control("roll_back_ids", by=3, client=4)
    simulator.control("roll_back_ids", by=5, count=2, client=1)
    client = raw(simulator, 5)
    client.until(9)
    simulator.control("drop")
    client = raw(simulator, 1)
    assert client.until(9)[-1] == str(right - 5)
    client.send(8, 1, 1)
    assert client.until(9)[-1] == str(right - 5)
    client.send(8, 1, 1)
    assert client.until(9)[-1] == str(right)
    assert raw(simulator, 4).until(9)[-1] == "1"


@pytest.mark.parametrize("keep_order", [True, False])
def test_a_message_is_delayed(simulator: SimulatorHandle, raw: Any, keep_order: bool) -> None:
    client = raw(simulator, 1)
    client.until(4)
    simulator.control("delay", messages=["currentTime"], seconds=0.3, keep_order=keep_order)
    client.send(49, 1)
    client.send(17, 1)
    client.send(17, 1)
    late = ["49", "15", "15"] if keep_order else ["15", "15", "49"]
    assert [found for found in (client.read()[0] for _ in range(5)) if found != "4"] == late
    client.send(49, 1)
    client.send(17, 1)
    assert [client.read()[0], client.read()[0]] == ["49", "15"]


def test_delayed_messages_keep_their_order_among_themselves(simulator: SimulatorHandle, raw: Any) -> None:
    client = raw(simulator, 1)
    client.until(4)
    simulator.control("delay", messages=["currentTime", "managedAccounts"], seconds=0.1, count=3)
    for number in (49, 17, 49, 17):
        client.send(number, 1)
    assert [found for found in (client.read()[0] for _ in range(6)) if found != "4"] == ["49", "15", "49", "15"]


def test_what_is_delayed_dies_with_its_connection(simulator: SimulatorHandle, ib: ibi.IB, raw: Any) -> None:
    simulator.control("delay", messages=["currentTime"], seconds=0.1, client=5)
    client = raw(simulator, 5)
    client.send(49, 1)
    client.until(9)
    client.socket.close()
    assert ib.reqCurrentTime()
    raw(simulator, 6).send(49, 1)
    assert simulator.control("status")["ok"]


@pytest.mark.parametrize("code", [162, 420])
def test_a_pacing_storm(simulator: SimulatorHandle, ib: ibi.IB, code: int) -> None:
    seen = errors(ib)
    simulator.control("pacing", count=2, code=code)
    wanted = (APPLE, "", "2 D", "1 day", "TRADES", True)
    assert [bool(ib.reqHistoricalData(*wanted)) for _ in range(3)] == [False, False, True]
    assert [(error, "pacing violation" in text) for _, error, text in seen] == [(code, True)] * 2


def test_one_message_too_many(simulator: SimulatorHandle, ib: ibi.IB, raw: Any) -> None:
    client = raw(simulator, 5)
    client.until(9)
    simulator.control("message_rate", client=5)
    client.send(49, 1)
    while (message := client.read())[3] != "100":
        assert message[0] == "4"
    assert client.hung_up()
    assert ib.reqCurrentTime()


def test_a_client_id_that_stays_in_use(simulator: SimulatorHandle, raw: Any) -> None:
    simulator.control("keep_client_id", client=5, seconds=0.5)
    first = raw(simulator, 5)
    first.until(9)
    # As when the client's process is killed: no end that the client would have said itself.
    first.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    first.socket.close()
    answers = []
    while not answers or answers[-1] == "4":
        client = raw(simulator, 5)
        answers.append(client.read()[0])
        client.socket.close()
    assert answers[0] == "4"
    assert answers[-1] == "15"


def test_a_restart_gives_stuck_client_ids_free(simulator: SimulatorHandle, raw: Any) -> None:
    simulator.control("keep_client_id", client=5, seconds=3600)
    raw(simulator, 5).until(9)
    simulator.control("drop")
    assert raw(simulator, 5).until(4)[3] == "326"
    simulator.control("restart")
    assert raw(simulator, 5).until(9)


def test_a_completed_order_that_nobody_asked_for(simulator: SimulatorHandle, ib: ibi.IB, wire: Any, until: Any) -> None:
    with pytest.raises(ValueError, match="no such order has ended today"):
        simulator.control("completed_order", client=1)
    until(buy(ib).isDone)
    until(buy(ib, "other").isDone)
    perm_id = simulator.control("completed_order", client=1, order_ref="mine")["perm_id"]
    until(lambda: COMPLETED in [fields[0] for fields in wire])
    assert str(perm_id) in next(fields for fields in wire if fields[0] == COMPLETED)
    with pytest.raises(ValueError, match="client 9 is not connected"):
        simulator.control("completed_order", client=9)


def test_faults_wait_for_their_client_and_order(
    simulator: SimulatorHandle, ib: ibi.IB, connect: Any, until: Any
) -> None:
    simulator.control("lose_order", client=2, order_ref="mine")
    other = connect(simulator, 2)
    assert until(buy(ib, "mine").isDone)
    assert until(buy(other, "yours").isDone)
    swallowed = buy(other, "mine")
    assert other.reqCurrentTime()
    assert not swallowed.isDone()
    assert simulator.control("status")["faults"] == []


def test_what_is_armed_is_listed_replaced_and_disarmed(simulator: SimulatorHandle) -> None:
    simulator.control("lose_order", count=3)
    simulator.control("lose_order", client=2)
    simulator.control("lose_order", count=2)
    simulator.control("delay", messages=["orderStatus"], seconds=2)
    simulator.control("mute", messages=["positionEnd"])
    status = simulator.control("status")
    assert status["faults"] == [
        {"fault": "lose_order", "count": 1, "client": 2},
        {"fault": "lose_order", "count": 2},
        {"fault": "delay", "count": 1, "messages": ["orderStatus"], "seconds": 2, "keep_order": True},
    ]
    assert status["muted"] == ["positionEnd"]
    assert simulator.control("lose_order", client=2, count=0)["armed"] == 0
    assert simulator.control("disarm", fault="lose_order")["disarmed"] == 1
    assert simulator.control("disarm")["disarmed"] == 2
    status = simulator.control("status")
    assert (status["faults"], status["muted"]) == ([], [])


def test_a_what_if_is_no_order_and_meets_no_order_fault(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    simulator.control("lose_order")
    assert float(ib.whatIfOrder(APPLE, ibi.MarketOrder("BUY", 1)).initMarginAfter) > 0
    assert len(simulator.control("status")["faults"]) == 1


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ({"cmd": "delay", "messages": ["orderStatus"]}, "delay needs the field seconds"),
        ({"cmd": "delay", "messages": ["x"], "seconds": 1}, "delay: messages is ['x']; it must be a list of any of"),
        ({"cmd": "delay", "messages": "orderStatus", "seconds": 1}, "delay: messages is 'orderStatus'"),
        ({"cmd": "delay", "messages": [], "seconds": float("nan")}, "delay: seconds is nan"),
        ({"cmd": "delay", "messages": [], "seconds": 1, "keep_order": 1}, "keep_order is 1; it must be true or false"),
        ({"cmd": "pacing", "code": 100}, "pacing: code is 100; it must be one of 162, 420"),
        ({"cmd": "pacing", "count": True}, "pacing: count is True; it must be a whole number"),
        ({"cmd": "pacing", "order_ref": "x"}, "pacing has no field 'order_ref'; its fields are code, count, client"),
        ({"cmd": "lose_order", "order_ref": 7}, "lose_order: order_ref is 7; it must be a string"),
        ({"cmd": "reorder"}, "reorder needs the field how"),
        ({"cmd": "login", "now": 1}, "login has no field 'now'; it has none"),
        ({"cmd": "disarm", "fault": "everything"}, "disarm: fault is 'everything'"),
        ({"cmd": "farm", "farm": "definitions", "state": "connecting"}, "IBKR has no message for"),
    ],
)
def test_a_field_that_cannot_be_is_named(simulator: SimulatorHandle, command: dict[str, Any], why: str) -> None:
    name = command.pop("cmd")
    with pytest.raises(ValueError, match=re.escape(why)):
        simulator.control(name, **command)


def test_an_order_that_somebody_enters_in_tws(simulator: SimulatorHandle, ib: ibi.IB, connect: Any, until: Any) -> None:
    perm_id = simulator.control("manual_order", symbol="AAPL", action="BUY", quantity=10, limit=1.0)["perm_id"]
    simulator.control("manual_order", symbol="MSFT", action="BUY", quantity=5)
    found = ib.reqAllOpenOrders()
    assert [(trade.order.permId, trade.order.clientId, trade.order.orderId) for trade in found] == [(perm_id, 0, 0)]
    assert found[0].order.orderRef == ""
    fills = [(fill.contract.symbol, fill.execution.shares, fill.execution.orderRef) for fill in ib.reqExecutions()]
    assert fills == [("MSFT", 5, "")]
    until(lambda: [held.position for held in ib.positions()] == [5])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"symbol": "NOSUCH"}, "0 contracts have the symbol NOSUCH"),
        ({"quantity": 10**9}, "manual_order: 201"),
        ({"limit": 1.001}, "manual_order: 110"),
    ],
)
def test_a_manual_order_that_cannot_be(simulator: SimulatorHandle, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        simulator.control("manual_order", **{"symbol": "AAPL", "action": "BUY", "quantity": 10, "limit": 1.0} | changes)


NEWS_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("missing_acknowledgement", {}),
    ("duplicate_status", {"count": 3}),
    *(("reorder", {"how": how}) for how in REORDERINGS),
    ("second_perm_id", {}),
    ("unnamed_fill", {}),
    ("delay", {"messages": ["orderStatus", "execDetails"], "seconds": 0.02, "count": 2, "keep_order": False}),
    ("delay", {"messages": ["openOrder"], "seconds": 0.02, "count": 2}),
    ("roll_back_ids", {"by": 1, "client": 2}),
]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(armed=st.lists(st.sampled_from(NEWS_FAULTS), max_size=5))
def test_faults_change_what_is_told_and_not_what_is(
    simulator: SimulatorHandle, connect: Any, armed: list[tuple[str, dict[str, Any]]]
) -> None:
    """Whatever news of an order is lost or garbled: the broker has the order, and says so when it is asked."""
    ref = f"try-{simulator.control('status')['orders']}"
    trader = connect(simulator, 1)
    for name, details in armed:
        simulator.control(name, **details)
    buy(trader, f"{ref}-filled")
    resting = rest(trader, f"{ref}-rests")
    trader.reqCurrentTime()
    simulator.control("disarm")
    trader.disconnect()
    asker = connect(simulator, 1)
    is_ours = [order for order in simulator.control("orders")["orders"] if order["order_ref"].startswith(f"{ref}-")]
    assert [(order["status"], order["filled"]) for order in is_ours] == [("Filled", "10"), ("Submitted", "0")]
    assert f"{ref}-rests" in [trade.order.orderRef for trade in asker.openTrades()]
    done = [trade.order.permId for trade in asker.reqCompletedOrders(False) if trade.order.orderRef == f"{ref}-filled"]
    assert len(done) == 1
    assert [fill.execution.shares for fill in asker.fills() if fill.execution.permId == done[0]] == [10]
    asker.cancelOrder(resting.order)
    asker.reqCurrentTime()
    asker.disconnect()
    assert simulator.control("orders", order_ref=f"{ref}-rests")["orders"][0]["status"] == "Cancelled"
