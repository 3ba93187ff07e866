"""Random bytes, frames and fields, and clients that do not read: a client loses at most its own connection.

After each test nothing unexpected may have been logged, and another client must still trade.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import ib_insync as ibi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator import server
from airflow_ibkr_plugin.simulator.api import session
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.simulator.wire.framing import MAX_FRAME, frame
from airflow_ibkr_plugin.simulator.wire.tables_in import NOT_SERVED, REQUESTS

HELLO = b"API\0" + struct.pack(">I", 9) + b"v157..176"
START = HELLO + frame(["71", "2", "9", ""])
APPLE = ibi.Stock("AAPL", "SMART", "USD")

fuzzing = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def simulator(start: Any) -> SimulatorHandle:
    """No meter: it would end most of these clients before they have said much."""
    return start(message_rate=0)


@pytest.fixture(autouse=True)
def bystander(simulator: SimulatorHandle, connect: Any, until: Any, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Another client that trades before and after, and a log without a defect."""
    caplog.set_level("INFO", "airflow_ibkr_plugin.simulator")
    ib = connect(simulator, 1)
    yield
    trade = ib.placeOrder(APPLE, ibi.MarketOrder("BUY", 1))
    until(trade.isDone)
    assert trade.orderStatus.status == "Filled"
    ours = [record for record in caplog.get_records("call") if not record.name.startswith("ib_insync")]
    assert [record.getMessage() for record in ours if record.exc_info or record.levelno >= logging.ERROR] == []


def say(simulator: SimulatorHandle, data: bytes) -> list[list[str]]:
    """Send all of that and hang up; the messages that came back behind the server's hello."""
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=20) as stranger:
        with contextlib.suppress(OSError):  # it may have been hung up on before it has said all
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
        got = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := stranger.recv(65536):
                got += part
    messages = []
    while len(got) >= 4 and len(got) >= (end := 4 + int.from_bytes(got[:4], "big")):
        messages.append(got[4:end].decode()[:-1].split("\0"))
        del got[:end]
    return messages[1:]


# --- bytes -------------------------------------------------------------------------------------------


@fuzzing
@given(st.binary(max_size=300), st.sampled_from([b"", b"API\0", HELLO, START]))
def test_any_bytes(simulator: SimulatorHandle, data: bytes, before: bytes) -> None:
    say(simulator, before + data)


@fuzzing
@given(st.integers(0, 2**32 - 1) | st.integers(MAX_FRAME - 1, MAX_FRAME + 1), st.binary(max_size=100))
def test_any_length(simulator: SimulatorHandle, length: int, data: bytes) -> None:
    say(simulator, START + struct.pack(">I", length) + data)


@fuzzing
@given(st.data(), st.lists(st.integers(1, 60), max_size=8))
def test_frames_in_any_pieces(simulator: SimulatorHandle, data: st.DataObject, cuts: list[int]) -> None:
    """A stream means the same however it is cut; cut short, it ends that client."""
    whole = START + frame(["49", "1"]) * 2
    end = data.draw(st.integers(0, len(whole)))
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=20) as stranger:
        stranger.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rest = whole[:end]
        for cut in [*cuts, len(rest)]:
            stranger.sendall(rest[:cut])
            rest = rest[cut:]
        stranger.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: stranger.recv(65536), b""))
    assert got.count(b"49\x001\x00") == (2 if end == len(whole) else 1 if end >= len(whole) - 9 else 0)


# --- fields ------------------------------------------------------------------------------------------

NASTY = [
    "", "0", "1", "-1", "2", "2147483647", "2147483648", "-2147483649", "9223372036854775807", "9" * 400, "9" * 5000,
    "1.7976931348623157E308", "1e-320", "1e30", "1e31", "0." + "1" * 400, "nan", "inf", "-inf", "Infinity", "1_0", "+1",
    "\u0661", "\u00e9", "\U0001f4a5", "\u2028", "true", "BUY", "MKT", "STK", "BAG", "AAPL", "SMART",
    "20261120-16:00:00", "99991231 23:59:59 US/Eastern", "20260101 25:61:61 Nowhere/Land", "1 D", "9999999999 Y",
    "1 min", "TRADES", " ",
]  # fmt: skip
texts = st.sampled_from(NASTY) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@pytest.mark.parametrize("number", sorted(REQUESTS | NOT_SERVED))
def test_any_fields_of_every_message(simulator: SimulatorHandle, number: int) -> None:
    @settings(fuzzing, max_examples=25)
    @given(st.lists(texts, max_size=40))
    def check(values: list[str]) -> None:
        say(simulator, START + frame([str(number), *values]) + frame(["49", "1"]))

    check()


@pytest.fixture
def spoken(simulator: SimulatorHandle, connect: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Requests of every kind, as ib_insync writes them."""
    ib = connect(simulator, 2)
    made: list[list[str]] = []
    send = ib.client.send

    def record(*fields: Any, **options: Any) -> None:
        monkeypatch.setattr(ib.client, "sendMsg", lambda text: made.append(text.split("\0")[:-1]))
        send(*fields, **options)

    monkeypatch.setattr(ib.client, "send", record)
    client, trade_filter, condition = ib.client, ibi.ExecutionFilter(), ibi.PriceCondition(conId=265598, exch="SMART")
    client.reqMktData(11, APPLE, "233", False, False, [])
    client.reqMktData(12, APPLE, "", True, False, [])
    client.reqContractDetails(13, APPLE)
    client.reqHistoricalData(14, APPLE, "", "2 D", "1 day", "TRADES", True, 1, False, [])
    client.reqExecutions(15, trade_filter)
    client.reqAccountSummary(16, "All", "NetLiquidation,$LEDGER:ALL")
    client.reqAccountUpdates(True, "DU1234567")
    client.reqAccountUpdatesMulti(17, "DU1234567", "", False)
    client.reqPnL(18, "DU1234567", "")
    client.reqPnLSingle(19, "DU1234567", "", 265598)
    client.placeOrder(20, APPLE, ibi.LimitOrder("BUY", 10, 1.0, tif="GTC", orderRef="x"))
    client.placeOrder(21, APPLE, ibi.StopLimitOrder("SELL", 10, 1.0, 2.0, whatIf=True))
    client.placeOrder(22, APPLE, ibi.Order("BUY", orderType="TRAIL", totalQuantity=1, trailingPercent=1.0))
    client.placeOrder(23, APPLE, ibi.Order("BUY", orderType="MKT", totalQuantity=1, conditions=[condition]))
    client.placeOrder(24, APPLE, ibi.Order("BUY", orderType="MKT", totalQuantity=1, ocaGroup="g", parentId=20))
    client.cancelOrder(20, "")
    assert len(made) == 16
    return made


def test_any_change_of_real_requests(simulator: SimulatorHandle, spoken: list[list[str]]) -> None:
    """Some fields of real requests replaced, left out or doubled: each is answered, or ends its client."""
    change = st.tuples(st.integers(1, 130), texts | st.none() | st.just(2))

    @settings(fuzzing, max_examples=600)
    @given(st.lists(st.tuples(st.sampled_from(spoken), st.lists(change, max_size=3)), min_size=1, max_size=3))
    def check(made: list[tuple[list[str], list[tuple[int, Any]]]]) -> None:
        frames = [frame(_changed(fields, changes)) for fields, changes in made]
        say(simulator, START + b"".join(frames) + frame(["49", "1"]))

    check()


def _changed(fields: Sequence[str], changes: list[tuple[int, Any]]) -> list[str]:
    changed = list(fields)
    for position, value in changes:
        at = 1 + position % max(len(changed) - 1, 1)
        if value is None:
            del changed[at : at + 1]
        elif value == 2:
            changed[at:at] = changed[at : at + 1]
        else:
            changed[at : at + 1] = [value]
    return changed


# --- clients that do not read ------------------------------------------------------------------------


def _ask_for_much(simulator: SimulatorHandle, times: int) -> socket.socket:
    """A client that asks for years of bars, and has not read any yet."""
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stranger.settimeout(20)
    stranger.connect(("127.0.0.1", simulator.port))
    contract = ["0", "AAPL", "STK", "", "0", "", "", "SMART", "", "USD", "", ""]
    asked = ["0", "", "1 day", "5 Y", "1", "TRADES", "1", "0", ""]
    frames = [frame(["20", str(request), *contract, *asked]) for request in range(1, times + 1)]
    stranger.sendall(START + b"".join(frames))
    return stranger


def test_who_does_not_read_is_cut_off(
    simulator: SimulatorHandle, until: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "MAX_UNREAD", 64 * 1024)
    monkeypatch.setattr(session, "CATCH_UP_SECONDS", 0.3)
    with _ask_for_much(simulator, 100):
        until(lambda: "it does not read what it asked for" in caplog.text)
        assert simulator.control("status")["clients"] == [1]


def test_who_reads_slowly_gets_everything(
    simulator: SimulatorHandle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "MAX_UNREAD", 64 * 1024)
    with _ask_for_much(simulator, 30) as stranger:
        got = bytearray()
        while _histories(got) < 30:
            part = stranger.recv(4096)
            assert part, caplog.text
            got += part


def _histories(got: bytearray) -> int:
    """How many whole history messages are there."""
    position = found = 0
    while len(got) >= (start := position + 4):
        position = start + int.from_bytes(got[position:start], "big")
        found += len(got) >= position and got[start : start + 3] == b"17\0"
    return found


# --- defects -----------------------------------------------------------------------------------------


def _fail(*_: Any) -> None:
    raise RuntimeError("broken")


def _fail_in_background(client: session.Session, values: dict[str, Any]) -> None:
    client.simulator.in_background(client, _fail, _fail, values)


@pytest.mark.parametrize("handler", [_fail, _fail_in_background])
def test_a_defect_ends_its_client_with_an_answer(
    simulator: SimulatorHandle,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    handler: Any,
) -> None:
    monkeypatch.setitem(server.HANDLERS, "reqPnL", handler)
    client = raw(simulator, 5)
    client.send(92, 77, "DU1234567", "")
    while (message := client.until(4))[3] != "322":
        pass
    assert message[2:5] == ["77", "322", "Error processing request:RuntimeError('broken')"]
    assert client.hung_up()
    assert "client 5 at" in caplog.text
    assert "a defect of the simulator" in caplog.text
    caplog.clear()


def test_a_defect_outside_of_requests_ends_only_its_client(
    simulator: SimulatorHandle, raw: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = raw(simulator, 5)
    client.until(9)
    monkeypatch.setattr(session.Session, "_received", _fail)
    client.send(49, 1)
    assert client.hung_up()
    monkeypatch.undo()
    assert "a defect: RuntimeError('broken')" in caplog.text
    caplog.clear()
