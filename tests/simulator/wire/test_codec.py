"""The codec: whatever a table declares comes back as it went in."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.wire import tables_out as out
from airflow_ibkr_plugin.simulator.wire.codec import decode, encode, text
from airflow_ibkr_plugin.simulator.wire.fields import Field, Item, MalformedMessage, Message, Repeat, When, table
from airflow_ibkr_plugin.simulator.wire.tables_in import REQUESTS
from airflow_ibkr_plugin.simulator.wire.tables_orders import COMPLETED_ORDER, OPEN_ORDER

MESSAGES = [
    *REQUESTS.values(),
    *(value for value in vars(out).values() if isinstance(value, Message)),
    OPEN_ORDER,
    COMPLETED_ORDER,
]

# No NUL, and none of the texts that stand for "not set".
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXTS,
    "ascii": st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"]), max_size=6),
    "int": st.integers(-(2**40), 2**40).filter(lambda number: number != 2**31 - 1),
    "float": st.integers(-(10**9), 10**9).map(lambda number: number / 1000),
    "dec": st.decimals(-(10**9), 10**9, places=4),
    "bool": st.booleans(),
}


# What the tables' conditions look for.
SPECIAL = {
    "secType": ["BAG"],
    "type": ["1", "3", "4", "5", "6", "7"],
    "orderType": ["PEG BEST", "PEG MID", "PEG BENCH"],
    "exchange": ["IBKRATS"],
    "competeAgainstBestOffset": ["Infinity"],
}


def scalar(field: Field) -> st.SearchStrategy[Any]:
    wanted = SPECIAL.get(field.name) if field.kind == "str" else None
    return st.sampled_from(wanted) | TEXTS if wanted else KINDS[field.kind]


def values_of(items: Iterable[Item]) -> st.SearchStrategy[dict[str, Any]]:
    """Values for the items: all that must be given, and any of the others."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    groups: list[st.SearchStrategy[dict[str, Any]]] = []
    for item in items:
        if isinstance(item, Field):
            if item.kind != "fixed":
                (required if item.default is None else optional)[item.name] = scalar(item)
        elif isinstance(item, Repeat):
            required[item.name] = st.lists(values_of(item.items), max_size=2)
            groups.append(values_of(item.tail))
        else:
            groups.append(values_of(item.items))
    own = st.fixed_dictionaries(required, optional=optional)
    return st.tuples(*groups, own).map(lambda parts: {key: value for part in parts for key, value in part.items()})


def flat(items: Iterable[Item]) -> Iterable[Item]:
    for item in items:
        yield item
        if isinstance(item, (Repeat, When)):
            yield from flat(item.items)


@given(st.data(), st.sampled_from(MESSAGES), st.integers(157, 176))
def test_values_come_back(data: st.DataObject, message: Message, version: int) -> None:
    values = data.draw(values_of(message.items))
    wire = encode(message, values, version)
    assert wire[0] == str(message.number)
    assert all("\0" not in field for field in wire)
    decoded = decode(message, wire, version)
    assert {name: value for name, value in decoded.items() if name in values} == {
        name: value for name, value in values.items() if name in decoded
    } | {name: entries_on_wire(decoded[name], values[name]) for name in decoded if isinstance(decoded[name], list)}


def entries_on_wire(decoded: list[dict[str, Any]], given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The given entries without what their own conditions leave out, and with what has a default."""
    return [entry | {k: v for k, v in mine.items() if k in entry} for entry, mine in zip(decoded, given, strict=True)]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_a_field_less_or_more_is_malformed(message: Message) -> None:
    wire = encode(message, least(message.items), 176)
    with pytest.raises(MalformedMessage, match="fields where"):
        decode(message, [*wire, ""], 176)
    if len(wire) > 1:
        with pytest.raises(MalformedMessage, match="ends before its field"):
            decode(message, wire[:-1], 176)


def least(items: Iterable[Item]) -> dict[str, Any]:
    return {item.name: "1" for item in flat(items) if isinstance(item, Field) and item.default is None}


def test_what_must_be_given_is_missed_by_name() -> None:
    with pytest.raises(KeyError, match="tickType"):
        encode(out.TICK_SIZE, {"reqId": 1, "size": 1}, 176)


def test_a_fixed_field_is_what_it_is() -> None:
    message = table(1, "x", "version==6 a=")
    assert encode(message, {"version": 7, "a": "y"}, 176) == ["1", "6", "y"]


def test_gates() -> None:
    message = table(1, "x", "a=1>=163 b=2<164 c=3>=163<164")
    assert [encode(message, {}, version)[1:] for version in (162, 163, 164)] == [["2"], ["1", "2", "3"], ["1"]]


def test_values_are_written_as_tws_writes_them() -> None:
    wanted = {
        True: "1",
        3: "3",
        2.5: "2.5",
        1e16: "1E16",
        1e-7: "1E-07",
        Decimal("1.50"): "1.5",
        Decimal("1E3"): "1000",
    }
    assert {value: text(value) for value in wanted} == wanted
    assert text(None) == ""
    assert text(np.float64(2.5)) == "2.5"


def test_escaped_fields_are_ascii_on_the_wire() -> None:
    wire = encode(out.ERROR, {"id": 1, "code": 2, "message": "Münchener 𝄞"}, 165)
    assert wire == ["4", "2", "1", "2", r"M\u00fcnchener \ud834\udd1e"]


def test_a_nul_in_a_value_cannot_shift_fields() -> None:
    message = table(1, "x", "a b")
    assert encode(message, {"a": "1\0002", "b": "3"}, 176) == ["1", "1 2", "3"]


def test_numbers_that_are_none() -> None:
    numbers = table(1, "x", "a:int b:float c:dec d:bool")
    assert decode(numbers, ["1", "2147483647", "1.7976931348623157e+308", "", "0"], 176) == {
        "a": None, "b": None, "c": None, "d": False,
    }  # fmt: skip
    for wrong in ("nan", "Infinite", "1e400", "x"):
        with pytest.raises(MalformedMessage):
            decode(numbers, ["1", "1", wrong, "1", "0"], 176)
