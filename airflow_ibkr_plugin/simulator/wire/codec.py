"""Encode and decode any message by its table.

A table is compiled once for each server version: its gates are decided then, and fields that follow one another become
one :class:`_Run`. So the large order messages cost what their set values cost, not what their 140 fields would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
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
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
# More entries than that in one list is no order or contract that IBKR would take.
_MAX_REPEAT = 1000


@dataclass(frozen=True, slots=True)
class _Run:
    """Fields that follow one another.

    :ivar defaults: their texts where no value is given; None where one must be.
    :ivar required: places of the fields that must be given.
    :ivar places: where a field's value goes; without the fixed fields.
    :ivar escaped: places of the fields that are written in ASCII.
    :ivar readers: what makes a value of a text; None where the text is the value.
    """

    names: tuple[str, ...]
    defaults: list[str | None]
    required: tuple[int, ...]
    places: dict[str, int]
    escaped: tuple[int, ...]
    readers: tuple[Callable[[str], Any] | None, ...]


@dataclass(frozen=True, slots=True)
class _List:
    name: str
    entry: tuple[_Step, ...]
    tail: tuple[_Step, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    condition: Callable[[Values], bool]
    steps: tuple[_Step, ...]


_Step = _Run | _List | _Choice


def encode(message: Message, values: Values, version: int) -> list[str]:
    """The fields of the message for a client of that server version, its number first.

    Values that the message has no field for, or none at that version, are left out.

    :raises KeyError: a field without default is not in `values`.
    """
    out = [str(message.number)]
    _encode(_compiled(message, version), values, out)
    return out


def decode(message: Message, wire: Sequence[str], version: int) -> dict[str, Any]:
    """Values of a message by field name; the wire's first field is the message number.

    Unset numbers are None, money and quantities of kind `dec` are Decimal.

    :raises MalformedMessage: a field is missing, cannot be read, or is one too many.
    """
    values: dict[str, Any] = {}
    position = _decode(message, _compiled(message, version), wire, 1, values)
    if position != len(wire):
        raise MalformedMessage(f"{message.name} has {len(wire)} fields where {position} are expected")
    return values


def text(value: object) -> str:
    """A value as TWS writes it: `1`/`0` for bool, Java's notation for float, plain digits for Decimal."""
    return _WRITERS.get(type(value), _write_other)(value)


def _write_other(value: object) -> str:
    """Kinds of text and number that are not Python's own: an enumeration, a float of numpy."""
    return next((write for kind, write in _WRITERS.items() if isinstance(value, kind)), str)(value)


def _write_text(value: str) -> str:
    # A NUL would end the field early and shift all that follow.
    return value.replace("\0", " ") if "\0" in value else str(value)


def _write_float(value: float) -> str:
    plain = float.__repr__(value)
    return plain.replace("e+", "E").replace("e", "E") if "e" in plain else plain


def _write_decimal(value: Decimal) -> str:
    plain = format(value, "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


# A bool is an int too: it comes before.
_WRITERS: dict[type, Callable[[Any], str]] = {
    str: _write_text,
    bool: lambda value: "1" if value else "0",
    int: str,
    float: _write_float,
    Decimal: _write_decimal,
    type(None): lambda value: "",
}


# --- compiling -----------------------------------------------------------------------------------


@cache
def _compiled(message: Message, version: int) -> tuple[_Step, ...]:
    return _steps(message.items, version)


def _steps(items: Iterable[Item], version: int) -> tuple[_Step, ...]:
    steps: list[_Step] = []
    run: list[Field] = []
    for item in items:
        if isinstance(item, Field):
            if item.since <= version < item.until:
                run.append(item)
            continue
        if run:
            steps.append(_run(run))
            run = []
        if isinstance(item, Repeat):
            steps.append(_List(item.name, _steps(item.items, version), _steps(item.tail, version)))
        else:
            steps.append(_Choice(item.condition, _steps(item.items, version)))
    if run:
        steps.append(_run(run))
    return tuple(steps)


def _run(fields: Sequence[Field]) -> _Run:
    return _Run(
        tuple(field.name for field in fields),
        [field.default for field in fields],
        tuple(place for place, field in enumerate(fields) if field.default is None),
        {field.name: place for place, field in enumerate(fields) if field.kind != "fixed"},
        tuple(place for place, field in enumerate(fields) if field.kind == "ascii"),
        tuple(_READERS[field.kind] for field in fields),
    )


# --- encoding ------------------------------------------------------------------------------------


def _encode(steps: tuple[_Step, ...], values: Values, out: list[str]) -> None:
    for step in steps:
        if isinstance(step, _Run):
            if len(step.required) == len(step.names) and not step.escaped:
                given = [values[name] for name in step.names]
                out += [_WRITERS.get(type(value), _write_other)(value) for value in given]
                continue
            part = step.defaults.copy()
            places = step.places
            for name, value in values.items():
                if (place := places.get(name)) is not None:
                    part[place] = _WRITERS.get(type(value), _write_other)(value)
            for place in step.required:
                if part[place] is None:
                    raise KeyError(step.names[place])
            for place in step.escaped:
                part[place] = _escaped(part[place])
            out += part  # type: ignore[arg-type]  # no None is left
        elif isinstance(step, _List):
            entries = values.get(step.name) or ()
            out.append(str(len(entries)))
            for entry in entries:
                _encode(step.entry, entry, out)
            if entries:
                _encode(step.tail, values, out)
        elif step.condition(values):
            _encode(step.steps, values, out)


def _escaped(value: str | None) -> str:
    """The text in ASCII, all else as Java's escapes: IBKR's clients take such a field for that since version 153."""
    if value is None or value.isascii():
        return value or ""
    units = value.encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


# --- decoding ------------------------------------------------------------------------------------


def _decode(
    message: Message, steps: tuple[_Step, ...], wire: Sequence[str], position: int, values: dict[str, Any]
) -> int:
    for step in steps:
        if isinstance(step, _Run):
            end = position + len(step.names)
            if end > len(wire):
                raise _short(message, step.names[len(wire) - position])
            try:
                for name, reader, raw in zip(step.names, step.readers, wire[position:end], strict=True):
                    values[name] = raw if reader is None else reader(raw)
            except (ValueError, InvalidOperation):
                raise _unreadable(message, name, raw) from None
            position = end
        elif isinstance(step, _List):
            if position >= len(wire):
                raise _short(message, step.name)
            entries: list[dict[str, Any]] = []
            count = _count(message, step.name, wire[position])
            position += 1
            for _ in range(count):
                entry: dict[str, Any] = {}
                position = _decode(message, step.entry, wire, position, entry)
                entries.append(entry)
            values[step.name] = entries
            if entries:
                position = _decode(message, step.tail, wire, position, values)
        elif step.condition(values):
            position = _decode(message, step.steps, wire, position, values)
    return position


def _short(message: Message, name: str) -> MalformedMessage:
    return MalformedMessage(f"{message.name} ends before its field {name}")


def _unreadable(message: Message, name: str, raw: str) -> MalformedMessage:
    return MalformedMessage(f"{message.name}: {name} is {raw[:40]!r}, not a usable number")


def _count(message: Message, name: str, raw: str) -> int:
    try:
        count = _integer(raw) or 0
    except ValueError:
        raise _unreadable(message, name, raw) from None
    if not 0 <= count <= _MAX_REPEAT:
        raise MalformedMessage(f"{message.name}: {name} counts {count}")
    return count


def _integer(raw: str) -> int | None:
    if raw in _UNSET:
        return None
    number = int(raw)
    # TWS reads them into Java's long.
    if number.bit_length() > 63:
        raise ValueError(raw)
    return number


def _decimal(raw: str) -> Decimal | None:
    if raw in _UNSET:
        return None
    number = Decimal(raw)
    # "Infinite" is what clients write for an offset without bound; no field that is read as a number may be so.
    if not number.is_finite() or abs(number.adjusted()) > 30:
        raise ValueError(raw)
    return number


def _float(raw: str) -> float | None:
    number = _decimal(raw)
    return None if number is None else float(number)


def _unescaped(raw: str) -> str:
    codes = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), raw)
    # Two escapes of one character beyond 16 bits are a pair of surrogates.
    return codes.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")


def _bool(raw: str) -> bool:
    return raw in ("1", "true", "True")


_READERS: dict[str, Callable[[str], Any] | None] = {
    "str": None,
    "ascii": _unescaped,
    "fixed": None,
    "int": _integer,
    "float": _float,
    "dec": _decimal,
    "bool": _bool,
}
