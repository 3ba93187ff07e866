"""Every message that the simulator can send, with as few and with as many values as its table allows."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any

from airflow_ibkr_plugin.simulator import wire
from airflow_ibkr_plugin.simulator.wire.fields import Field, Item, Message, Repeat, When
from airflow_ibkr_plugin.simulator.wire.tables_in import REQUESTS

#: Fields that clients do more with than keep their number, by name and kind; taken in turn.
_SPECIAL: dict[tuple[str, str], tuple[object, ...]] = {
    ("time", "str"): ("20261120 11:00:00 US/Eastern",),
    ("date", "str"): ("20261120",),
    ("completedTime", "str"): ("20261120 11:00:00 US/Eastern",),
    ("tickType", "int"): (1,),
    ("kind", "int"): (1, 2),
}
#: How many entries lists have in the variants of :func:`full`.
VARIANTS = range(4)


def _server_messages() -> dict[str, Message]:
    """The messages that are no requests, by the names that they have in the modules of tables."""
    tables = (module.name for module in pkgutil.iter_modules(wire.__path__) if module.name.startswith("tables_"))
    requests = set(REQUESTS.values())
    return {
        name: value
        for table in tables
        for name, value in vars(importlib.import_module(f"{wire.__name__}.{table}")).items()
        if isinstance(value, Message) and value not in requests
    }


SERVER_MESSAGES = _server_messages()


def least(message: Message) -> dict[str, Any]:
    """Only what must be given."""
    return {item.name: _value(item, 1, 0) for item in _scalars(message.items) if item.default is None}


def full(message: Message, variant: int, version: int) -> dict[str, Any]:
    """All that can be given, each field another number; lists have as many entries as the variant says.

    Prices have a fraction; quantities have one from version 163 on, when IBKR's clients began to read them.
    """
    kinds = {"float", "dec"} if version >= 163 else {"float"}
    return _full(message.items, variant, itertools.count(11), kinds)


def _full(items: Iterable[Item], variant: int, numbers: Iterator[int], fractions: set[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        if isinstance(item, Repeat):
            values[item.name] = [_full(item.items, variant, numbers, fractions) for _ in range(variant)]
            values |= _full(item.tail, variant, numbers, fractions)
        elif isinstance(item, When):
            values |= _full(item.items, variant, numbers, fractions)
        elif item.kind != "fixed":
            number = next(numbers)
            values[item.name] = f"{number}.5" if item.kind in fractions else _value(item, number, variant)
    return values


def _scalars(items: Iterable[Item]) -> Iterator[Field]:
    for item in items:
        if isinstance(item, Field):
            yield item
        elif isinstance(item, When):
            yield from _scalars(item.items)


def _value(field: Field, number: int, variant: int) -> object:
    special = _SPECIAL.get((field.name, field.kind))
    return special[variant % len(special)] if special else number if field.kind == "int" else str(number)
