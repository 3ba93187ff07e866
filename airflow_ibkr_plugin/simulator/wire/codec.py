"""Encode and decode any message by its table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from airflow_ibkr_plugin.simulator.wire.fields import (
    UNSET_DOUBLE,
    UNSET_INT,
    Field,
    Item,
    MalformedMessage,
    Message,
    Repeat,
    Values,
)

_UNSET = frozenset({"", UNSET_INT, UNSET_DOUBLE, "1.7976931348623157e+308", "9223372036854775807"})
# More entries than that in one list is no order or contract that IBKR would take.
_MAX_REPEAT = 1000


def encode(message: Message, values: Values, version: int) -> list[str]:
    """The fields of the message for a client of that server version, its number first.

    :raises KeyError: a field without default is not in `values`.
    """
    out = [str(message.number)]
    _encode(message.items, values, version, out)
    return out


def decode(message: Message, wire: Sequence[str], version: int) -> dict[str, Any]:
    """Values of a message by field name; the wire's first field is the message number.

    Unset numbers are None, money and quantities of kind `dec` are Decimal.

    :raises MalformedMessage: a field is missing, cannot be read, or is one too many.
    """
    values: dict[str, Any] = {}
    position = _decode(message, message.items, wire, 1, version, values)
    if position != len(wire) and not message.open_ended:
        raise MalformedMessage(f"{message.name} has {len(wire)} fields where {position} are expected")
    return values


def text(value: object) -> str:
    """A value as TWS writes it: `1`/`0` for bool, Java's notation for float, plain digits for Decimal."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return repr(value).replace("e+", "E").replace("e", "E")
    if isinstance(value, Decimal):
        plain = format(value, "f")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    return str(value)


def _encode(items: Iterable[Item], values: Values, version: int, out: list[str]) -> None:
    for item in items:
        if isinstance(item, Field):
            if item.since <= version < item.until:
                value = values.get(item.name, item.default) if item.default is not None else values[item.name]
                # A NUL would end the field early and shift all that follow.
                out.append(text(value).replace("\0", " "))
        elif isinstance(item, Repeat):
            entries = values.get(item.name) or ()
            out.append(str(len(entries)))
            for entry in entries:
                _encode(item.items, entry, version, out)
            if entries:
                _encode(item.tail, values, version, out)
        elif item.condition(values):
            _encode(item.items, values, version, out)


def _decode(
    message: Message, items: Iterable[Item], wire: Sequence[str], position: int, version: int, values: dict[str, Any]
) -> int:
    for item in items:
        if isinstance(item, Field):
            if item.since <= version < item.until:
                values[item.name] = _value(message, item, _at(message, wire, position, item.name))
                position += 1
        elif isinstance(item, Repeat):
            raw = _at(message, wire, position, item.name)
            count = _value(message, Field(item.name, "int"), raw) or 0
            if not 0 <= count <= _MAX_REPEAT:
                raise MalformedMessage(f"{message.name}: {item.name} counts {count}")
            position += 1
            entries: list[dict[str, Any]] = []
            for _ in range(count):
                entry: dict[str, Any] = {}
                position = _decode(message, item.items, wire, position, version, entry)
                entries.append(entry)
            values[item.name] = entries
            if entries:
                position = _decode(message, item.tail, wire, position, version, values)
        elif item.condition(values):
            position = _decode(message, item.items, wire, position, version, values)
    return position


def _at(message: Message, wire: Sequence[str], position: int, name: str) -> str:
    if position >= len(wire):
        raise MalformedMessage(f"{message.name} ends before its field {name}")
    return wire[position]


def _value(message: Message, field: Field, raw: str) -> Any:
    if field.kind == "str":
        return raw
    if field.kind == "bool":
        return raw.lower() in ("1", "true")
    if raw in _UNSET:
        return None
    try:
        if field.kind == "int":
            return int(raw)
        number = Decimal(raw)
    except (ValueError, InvalidOperation):
        raise MalformedMessage(f"{message.name}: {field.name} is {raw[:40]!r}, not a number") from None
    # "Infinite" is what clients write for an offset without bound; no other field may be so.
    if not number.is_finite() or abs(number.adjusted()) > 30:
        raise MalformedMessage(f"{message.name}: {field.name} is {raw[:40]!r}, not a usable number")
    return number if field.kind == "dec" else float(number)
