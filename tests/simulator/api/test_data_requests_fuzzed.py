"""Requests for data with any fields are answered or refused, and the connection lives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.wire.fields import Field, Message
from airflow_ibkr_plugin.simulator.wire.tables_data import DATA_REQUESTS
from airflow_ibkr_plugin.simulator.wire.tables_in import REQUESTS

MESSAGES = [*DATA_REQUESTS, *(REQUESTS[number] for number in (1, 2, 9, 20, 25, 59))]
NASTY = ("", "0", "1", "-1", "2147483647", "1.7976931348623157E308", "x", "é", "99991231-23:59:59", "00010101-00:00:00",
         "23:59:59 America", "20261119-16:00:00", "20261119 16:00:00 US/Eastern", "../../etc/passwd", "," * 20,
         "9" * 30)  # fmt: skip
LIKELY = {
    "conId": ("0", "265598", "12087792"),
    "symbol": ("AAPL", "EUR", "SHOP", ""),
    "secType": ("STK", "CASH", "BAG", ""),
    "exchange": ("SMART", "IDEALPRO", "NASDAQ", ""),
    "currency": ("USD", ""),
    "secIdType": ("", "ISIN"),
    "whatToShow": ("TRADES", "MIDPOINT", "BID_ASK", "SCHEDULE", "ADJUSTED_LAST"),
    "barSize": ("1 min", "5 secs", "1 day", "1W", "5"),
    "duration": ("1800 S", "1 D", "1 M", "68 Y", "999999999 S"),
    "formatDate": ("1", "2", "3"),
    "tickType": ("Last", "AllLast", "BidAsk", "MidPoint"),
    "genericTicks": ("", "233,236", "999", "mdoff,292:", "165"),
    "numberOfTicks": ("0", "10", "1000", "100000"),
    "reqId": ("1", "2", "-5", ""),
    "deltaNeutral": ("0",),
    "legs": ("0",),
}


def fields(message: Message) -> st.SearchStrategy[list[str]]:
    """Its fields at server version 176, mostly sensible; legs and the like only as their count."""
    one = []
    for item in message.items:
        if isinstance(item, Field) and item.since <= 176 < item.until:
            likely = LIKELY.get(item.name, ("0", "1"))
            one.append(st.sampled_from(likely) | st.sampled_from((*likely, *NASTY)))
    return st.tuples(*one).map(list)


@pytest.fixture
def client(start: Any, raw: Any) -> Any:
    connected = raw(start(message_rate=0), 7)
    for _ in range(3):
        connected.until(4)
    return connected


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MESSAGES).flatmap(lambda message: st.tuples(st.just(message.number), fields(message))))
def test_any_fields(client: Any, caplog: pytest.LogCaptureFixture, sent: tuple[int, list[str]]) -> None:
    number, values = sent
    client.send(number, *values)
    client.send(49, 1)
    assert client.until(49)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
