"""How a wire message is declared: one table of fields, each with its kind, default and version gate.

A table is written as text, one word a field::

    name[:kind][=default][>=version][<version]
    name==text[>=version][<version]

kind is `str` (left out), `ascii` (text whose other characters are escaped), `int`, `float`, `dec` or `bool`; a field
with no default must be given when it is encoded. The second form is a field that always carries that text: a message's
own version, a count of what is never sent.
Groups follow in :class:`Repeat` and :class:`When`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: What a real TWS sends for a double or an integer that is not set.
UNSET_DOUBLE = "1.7976931348623157E308"
UNSET_INT = "2147483647"

Values = Mapping[str, Any]

_WORD = re.compile(r"(\w+)(?::(str|ascii|int|float|dec|bool))?(?:(==?)([^<>=]*))?(?:>=(\d+))?(?:<(\d+))?")


class MalformedMessage(Exception):
    """Bytes or fields of a client that are no message of the protocol."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field. It is on the wire for `since <= version < until`."""

    name: str
    kind: str = "str"
    default: str | None = None
    since: int = 0
    until: int = 10_000


@dataclass(frozen=True, slots=True)
class Repeat:
    """A count, then that many times the fields; the value is a list of mappings under `name`.

    :param tail: fields that follow the list only where it is not empty.
    """

    name: str
    items: tuple[Item, ...]
    tail: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class When:
    """Fields that are on the wire only where the message's earlier values satisfy a condition."""

    condition: Callable[[Values], bool]
    items: tuple[Item, ...]


Item = Field | Repeat | When


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A message: the number it starts with on the wire, its name, its fields."""

    number: int
    name: str
    items: tuple[Item, ...]


def fields(text: str) -> tuple[Item, ...]:
    """Fields from their declaration.

    :raises ValueError: a word that declares no field.
    """
    declared = []
    for word in text.split():
        found = _WORD.fullmatch(word)
        if found is None:
            raise ValueError(f"{word!r} declares no field")
        name, kind, sign, default, since, until = found.groups()
        declared.append(
            Field(
                name,
                "fixed" if sign == "==" else kind or "str",
                {"MAX": UNSET_DOUBLE, "IMAX": UNSET_INT}.get(default, default),
                since=int(since or 0),
                until=int(until or 10_000),
            )
        )
    return tuple(declared)


def table(number: int, name: str, *parts: str | Repeat | When) -> Message:
    """A message from declarations and groups, in wire order.

    :raises ValueError: a word that declares no field, or a name that is declared twice.
    """
    items: list[Item] = []
    for part in parts:
        if isinstance(part, str):
            items.extend(fields(part))
        else:
            items.append(part)
    names = [item.name for item in items if not isinstance(item, When)]
    if len(set(names)) != len(names):
        raise ValueError(f"{name} declares {max(names, key=names.count)} twice")
    return Message(number, name, tuple(items))


def given(name: str) -> Callable[[Values], bool]:
    """Condition: the named value is set."""
    return lambda values: bool(values.get(name))


def positive(name: str) -> Callable[[Values], bool]:
    """Condition: the named number is set and above zero."""
    return lambda values: float(values.get(name) or 0) > 0


def equals(name: str, *wanted: object) -> Callable[[Values], bool]:
    """Condition: the named value is one of those."""
    return lambda values: values.get(name) in wanted
