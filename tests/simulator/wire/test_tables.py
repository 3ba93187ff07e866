"""The field tables against messages that real TWS sessions sent, and the framing against anything."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.api.order_messages import (
    completed_order_fields,
    execution_fields,
    open_order_fields,
    status_fields,
)
from airflow_ibkr_plugin.simulator.market.catalogue import Catalogue, Instrument, synthetic
from airflow_ibkr_plugin.simulator.orders.book import Execution, Order
from airflow_ibkr_plugin.simulator.wire import tables_out as out
from airflow_ibkr_plugin.simulator.wire.codec import decode, encode
from airflow_ibkr_plugin.simulator.wire.fields import MalformedMessage, Message, fields, table
from airflow_ibkr_plugin.simulator.wire.framing import MAX_FRAME, FrameReader, frame, version_range
from airflow_ibkr_plugin.simulator.wire.tables_in import NOT_SERVED, REQUESTS
from airflow_ibkr_plugin.simulator.wire.tables_orders import COMPLETED_ORDER, OPEN_ORDER

#: Messages that real TWS sessions sent; the file says where they come from.
RECORDED = dict(
    line.split(": ", 1)
    for line in Path(__file__).with_name("tws-recorded.txt").read_text().splitlines()
    if not line.startswith("#")
)

# 2023-02-24 12:04:56 and 2025-03-12 14:13:48 in New York.
FILLED_AT, CANCELLED_AT = 1677258296, 1741803228


def recorded(name: str) -> list[str]:
    """A recorded message's fields; completedOrder was recorded without the NUL that ends its last one."""
    text = RECORDED[name]
    return (text if name == "completedOrder" else text.removesuffix("|")).split("|")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(synthetic(2026))


def instrument(catalogue: Catalogue, con_id: int) -> Instrument:
    found = catalogue.get(con_id)
    assert found is not None
    return found


def tesla_order() -> Order:
    return Order(
        perm_id=1376327563, client_id=100, order_id=13, con_id=76792991, action="BUY", quantity=Decimal(100),
        order_type="MKT", limit_price=None, stop_price=None, tif="DAY", outside_hours=False, fields={},
        placed=FILLED_AT, checked=FILLED_AT,
    )  # fmt: skip


def test_open_order_is_the_recorded_one(catalogue: Catalogue) -> None:
    values = open_order_fields(tesla_order(), instrument(catalogue, 76792991), "DU1236109")
    assert encode(OPEN_ORDER, values, 164) == recorded("openOrder")


def test_order_status_is_the_recorded_one() -> None:
    assert encode(out.ORDER_STATUS, status_fields(tesla_order()), 164) == recorded("orderStatus")


def test_execution_and_commission_are_the_recorded_ones(catalogue: Catalogue) -> None:
    fill = Execution(
        exec_id="00025b46.63f8f39c.01.01", perm_id=1376327563, client_id=100, order_id=13, con_id=76792991, side="BOT",
        shares=Decimal(100), price=Decimal("196.52"), time=FILLED_AT, order_ref="", cumulative=Decimal(100),
        avg_price=Decimal("196.52"), commission=Decimal("1.00"), commission_currency="USD", exchange="ISLAND",
    )  # fmt: skip
    values = execution_fields(fill, instrument(catalogue, 76792991), "DU1236109", 164)
    assert encode(out.EXEC_DETAILS, {"reqId": -1} | values, 164) == recorded("execDetails")
    commission = {"execId": fill.exec_id, "commission": float(fill.commission), "currency": fill.commission_currency}
    assert encode(out.COMMISSION_REPORT, commission, 164) == recorded("commissionReport")


def test_completed_order_is_the_recorded_one(catalogue: Catalogue) -> None:
    order = Order(
        perm_id=1451120741, client_id=1, order_id=7, con_id=756733, action="SELL", quantity=Decimal(100),
        order_type="STP", limit_price=Decimal("549.97"), stop_price=Decimal("550.0"), tif="DAY", outside_hours=False,
        fields={"ocaGroup": "close_135"}, placed=CANCELLED_AT, checked=CANCELLED_AT, status="Cancelled",
        ended=CANCELLED_AT, end_reason="Cancelled by Trader",
    )  # fmt: skip
    values = completed_order_fields(order, instrument(catalogue, 756733), "DUD193105")
    assert encode(COMPLETED_ORDER, values, 178) == recorded("completedOrder")


@pytest.mark.parametrize("message", [OPEN_ORDER, out.ORDER_STATUS, out.EXEC_DETAILS, out.COMMISSION_REPORT])
def test_tables_read_every_recorded_field(message: Message) -> None:
    assert decode(message, recorded(message.name), 164)


def test_the_table_of_completed_orders_reads_every_recorded_field() -> None:
    assert decode(COMPLETED_ORDER, recorded("completedOrder"), 178)


@pytest.mark.parametrize("version", range(157, 177))
def test_gates_grow_messages_as_clients_expect_them(version: int) -> None:
    """Field counts by the gates of ib_insync's decoder; 158 is never negotiated."""
    base = {"orderId": 1, "conId": 1, "quantity": Decimal(1), "clientId": 1, "permId": 1, "filledQuantity": Decimal(0)}
    texts = ("symbol", "secType", "exchange", "currency", "localSymbol", "tradingClass", "action", "orderType", "tif",
             "account", "sharesAllocation", "status", "completedTime", "completedStatus")  # fmt: skip
    values = base | dict.fromkeys(texts, "x")
    added = (version >= 159) + (version >= 160) + (version >= 162) + 5 * (version >= 170)
    if version != 158:
        assert len(encode(OPEN_ORDER, values, version)) == 128 + added
    assert len(encode(COMPLETED_ORDER, values, version)) == 96 + 5 * (version >= 170)
    error = {"id": 1, "code": 2, "message": "x"}
    assert len(encode(out.ERROR, error, version)) == 5 + (version >= 166)


def test_every_request_of_the_protocol_is_known() -> None:
    gaps = {26, 27, 28, *range(29, 49), 60, 3} - REQUESTS.keys()
    assert set(range(1, 105)) - REQUESTS.keys() - NOT_SERVED.keys() - gaps == set()
    assert not REQUESTS.keys() & NOT_SERVED.keys()


@given(
    st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20), min_size=1)
)
def test_frames_come_back_however_they_are_cut(values: list[str]) -> None:
    reader = FrameReader()
    stream = b"API\0\0\0\0\x09v157..176" + frame(values) + frame(values)
    got = [message for byte in stream for message in reader.feed(bytes([byte]))]
    assert got == [values, values]
    assert reader.hello == "v157..176"


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_malformed(data: bytes) -> None:
    reader = FrameReader()
    try:
        for message in reader.feed(b"API\0" + data):
            request = REQUESTS.get(int(message[0])) if message[0].isdecimal() else None
            if request is not None:
                decode(request, message, 176)
    except MalformedMessage:
        pass


@given(st.sampled_from(sorted(REQUESTS)), st.lists(st.text(max_size=8), max_size=150), st.integers(157, 176))
def test_any_fields_are_a_request_or_malformed(number: int, values: list[str], version: int) -> None:
    with contextlib.suppress(MalformedMessage):
        decode(REQUESTS[number], [str(number), *values], version)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "preamble"),
        (b"API\0" + (MAX_FRAME + 1).to_bytes(4, "big"), "claims"),
        (b"API\0" + b"\xff\xff\xff\xff", "claims"),
        (b"API\0" + b"\0\0\0\0", "claims"),
        (b"API\0\0\0\0\x02\xff\xfe", "UTF-8"),
        (b"API\0\0\0\0\x01v\0\0\0\x0249", "NUL"),
    ],
)
def test_broken_streams_are_named(data: bytes, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        list(FrameReader().feed(data))


def test_hello() -> None:
    assert version_range("v157..176 +PACEAPI") == (157, 176)
    assert version_range("v176") == (176, 176)
    with pytest.raises(MalformedMessage):
        version_range("157..176")


def test_declarations_that_declare_nothing() -> None:
    with pytest.raises(ValueError, match="declares no field"):
        fields("a:complex")
    with pytest.raises(ValueError, match="declares a twice"):
        table(1, "x", "a b", "a")
