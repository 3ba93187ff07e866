"""YAML as people write it and as other programs leave it: read as YAML 1.2 says, or refused at its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.workflows.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse

GOOD = """\
id: small
symbols: [SPY]
risk: {max: 1000}
"""


def told(text: str | bytes) -> list[str]:
    _, faults = parse(text if isinstance(text, bytes) else text.encode())
    return [f"{fault.line}:{fault.column}: {fault.message}" for fault in faults]


def data(text: str | bytes) -> Any:
    assert told(text) == []
    document, _ = parse(text if isinstance(text, bytes) else text.encode())
    assert document is not None
    return document.data


def item(text: str) -> Any:
    return data(f"[{text}]")[0]


FAULTS = {
    "empty": ("", "1:1: the file is empty"),
    "only a comment": ("# nothing yet\n", "1:1: the file is empty"),
    "syntax": (GOOD.replace("[SPY]", "[SPY"), "3:5: expected ',' or ']'"),
    "tab": (GOOD + "tasks:\n\ta: 1\n", "5:1: a tab stands where YAML wants spaces"),
    "not UTF-8": (GOOD.encode().replace(b"SPY", b"S\xffY"), "2:12: byte 0xff is not UTF-8"),
    "not UTF-8 behind a mark": (b"\xef\xbb\xbfid: \xff", "1:5: byte 0xff is not UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "1:1: byte 0xff is not UTF-8"),
    "control character": (GOOD.replace("SPY", "S\x07Y"), "2:12: the character U+0007"),
    "line ends of old Macs": (GOOD.replace("SPY", "S\x07Y").replace("\n", "\r"), "2:12: the character U+0007"),
    "line end of YAML 1.1": (GOOD.replace("small", "a  # b\u2028c"), "1:11: the character U+2028 ends a line for YAML"),
    "escaped control character": (GOOD + 'owner: "a\\0b"\n', "4:8: the text has the character U+0000"),
    "control character in a key": (GOOD + '"a\\0b": 1\n', "4:1: the text has the character U+0000"),
    "half a surrogate pair": (GOOD + 'owner: "\\uD800"\n', "4:8: the text has the character U+D800"),
    "two documents": (GOOD + "---\na: 1\n", "4:1: a second document begins"),
    "duplicate key": (GOOD + "id: other\n", "4:1: the key 'id' is here twice (first on line 1)"),
    "duplicate key, nested": (GOOD.replace("1000", "1, max: 2"), "3:16: the key 'max' is here twice (first on line 3)"),
    "python tag": (GOOD.replace("[SPY]", "!!python/name:os.system x"), "2:10: the tag !!python/name:os.system is not"),
    "tag of a list": (GOOD.replace("[SPY]", "!!set {SPY}"), "2:10: the tag !!set is not allowed"),
    "tag that lies": (GOOD.replace("1000", "!!float abc"), "3:13: the tag !!float is not allowed"),
    "tag of YAML 1.1's booleans": (GOOD + "owner: !!bool yes\n", "4:8: the tag !!bool is not allowed"),
    "merge key": (GOOD.replace("{max", "{<<: {}, max"), "3:8: merge keys (<<)"),
    "number as key": (GOOD + "1: {}\n", "4:1: a key must be text"),
    "nothing as key": (GOOD + "~: {}\n", "4:1: a key must be text"),
    "list as key": (GOOD + "? [a]\n: 1\n", "4:3: a key must be text"),
    "infinity": (GOOD.replace("1000", "-.inf"), "3:13: -.inf is not a finite number"),
    "no number": (GOOD.replace("1000", ".nan"), "3:13: .nan is not a finite number"),
    "beyond floats": (GOOD.replace("1000", "1e400"), "3:13: 1e400 is not a finite number"),
    "too many digits": (GOOD.replace("1000", "1" * 16), "3:13: a number may have at most 15 digits"),
    "unknown alias": (GOOD.replace("[SPY]", "*spy"), "2:10: found undefined alias 'spy'"),
    "same anchor": (GOOD.replace("[SPY]", "&a [&a SPY]"), "2:14: an anchor of this name stands before"),
    "alias to itself": (GOOD.replace("[SPY]", "&a [*a]"), "2:10: the aliases refer to themselves"),
    "too deep": (GOOD.replace("[SPY]", "[" * 40 + "]" * 40), f"2:{10 + MAX_DEPTH - 1}: values are nested"),
    "too many values": ("- 1\n" * (MAX_VALUES + 1), f"{MAX_VALUES}:3: the file has more than {MAX_VALUES} values"),
    "too large": (GOOD + "#" * MAX_BYTES, f"1:1: the file has {MAX_BYTES + len(GOOD)} bytes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_once_with_its_place(name: str) -> None:
    text, expected = FAULTS[name]
    (line,) = told(text)
    assert line.startswith(expected)


@pytest.mark.parametrize(("levels", "aliases"), [(9, 9), (MAX_DEPTH + 1, 1)], ids=["wide", "deep"])
def test_exploding_aliases_end_soon(levels: int, aliases: int) -> None:
    text = "".join(f"l{n + 1}: &l{n + 1} [{', '.join([f'*l{n}'] * aliases)}]\n" for n in range(levels))
    (line,) = told(f"l0: &l0 [x, x, x, x, x, x, x, x, x]\n{text}")
    assert f"expand to more than {MAX_VALUES} values or {MAX_DEPTH} levels" in line


def test_an_alias_is_the_value_it_names() -> None:
    assert data("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    "text", ["ON", "NO", "Y", "yes", "9:35", "1:30:00", "2024-01-01", "0x1F", "0o17", "1_000", "NaN"]
)
def test_what_yaml_1_1_takes_for_booleans_numbers_and_times_is_text(text: str) -> None:
    assert item(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("0777", 777),
        ("+5", 5),
        ("-0", 0),
        ("9" * 15, 10**15 - 1),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("'true'", "true"),
        ('"1"', "1"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = item(text)
    assert (found, type(found)) == (value, type(value))


def test_a_byte_order_mark_and_the_line_ends_of_windows_change_nothing() -> None:
    marked = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    assert parse(marked) == parse(GOOD.encode())


def test_a_place_is_that_of_the_value_or_of_its_key_or_of_what_is_around_it() -> None:
    document, _ = parse(b"a:\n  b: [x, {c: 1}]\n")
    assert document is not None
    assert document.locate(("a", "b", 1, "c")) == (2, 14)
    assert document.locate(("a", "b", 1, "c"), key=True) == (2, 11)
    assert document.locate(("a", "b", 1, "d", "e")) == (2, 10)
    assert document.locate(("z",)) == (1, 1)


@given(st.binary(max_size=200) | st.text(alphabet="abi:d[]{}&*!#-'\"\n\t ,1|>%@`~.<?\\", max_size=60).map(str.encode))
def test_whatever_the_bytes_there_is_data_or_a_fault_and_no_exception(content: bytes) -> None:
    document, faults = parse(content)
    assert document is not None or faults
    assert all(fault.line >= 1 and fault.column >= 1 and fault.message for fault in faults)
