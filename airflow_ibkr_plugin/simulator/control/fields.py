"""How a control command is declared: its fields, what each may be, and how it is told to people."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.clock import parse_instant

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

Answer = dict[str, Any]

REQUIRED = object()


@dataclass(frozen=True)
class Kind:
    """What a field may be.

    :param text: for people: "a number from 0 to 5". :param read: JSON value -> value; ValueError, TypeError or
        ConfigError where it is not of this kind.
    """

    text: str
    read: Callable[[Any], Any]


@dataclass(frozen=True)
class Field:
    """A field of a command; without a default it must be given."""

    name: str
    kind: Kind
    meaning: str
    default: Any = REQUIRED

    def describe(self) -> Answer:
        """As `help` lists it."""
        told = {"name": self.name, "is": self.kind.text, "means": self.meaning}
        return told | ({"required": True} if self.default is REQUIRED else {"default": self.default})


@dataclass(frozen=True)
class Command:
    """A control command. `run` gets a value for each field."""

    name: str
    meaning: str
    example: Mapping[str, Any]
    run: Callable[[Simulator, dict[str, Any]], Awaitable[Answer] | Answer]
    fields: tuple[Field, ...] = ()

    def describe(self) -> Answer:
        """As `help` lists it."""
        return {
            "cmd": self.name,
            "means": self.meaning,
            "fields": [field.describe() for field in self.fields],
            "example": {"cmd": self.name, **self.example},
        }

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The command's values.

        :raises ConfigError: a field is unknown, missing, or not what it may be; names it.
        """
        known = [field.name for field in self.fields]
        for name in given:
            if name not in ("cmd", *known):
                fields = f"its fields are {', '.join(known)}" if known else "it has none"
                raise ConfigError(f"{self.name} has no field {name!r}; {fields}.")
        return {field.name: self._value(field, given) for field in self.fields}

    def _value(self, field: Field, given: Mapping[str, Any]) -> Any:
        if field.name not in given:
            if field.default is REQUIRED:
                raise ConfigError(f"{self.name} needs the field {field.name}: {field.meaning}.")
            return field.default
        try:
            return field.kind.read(given[field.name])
        except (ConfigError, TypeError, ValueError, OverflowError):
            shown = repr(given[field.name])[:60]
            raise ConfigError(f"{self.name}: {field.name} is {shown}; it must be {field.kind.text}.") from None


def integer(low: int, high: int = 2**31 - 1) -> Kind:
    """A whole number."""
    return Kind(f"a whole number from {low} to {high}", lambda value: _within(_exactly(value, int), low, high))


def number(low: float, high: float) -> Kind:
    """A finite number."""
    return Kind(f"a number from {low:g} to {high:g}", lambda value: _within(_exactly(value, int, float), low, high))


def text() -> Kind:
    """Any string."""
    return Kind("a string", lambda value: _exactly(value, str))


def flag() -> Kind:
    """A bool."""
    return Kind("true or false", lambda value: _exactly(value, bool))


def choice(*options: Any) -> Kind:
    """One of those."""
    return Kind(f"one of {', '.join(map(str, options))}", lambda value: options[options.index(value)])


def some_of(options: Collection[str]) -> Kind:
    """A list of any of those."""
    return Kind(f"a list of any of {', '.join(options)}", lambda value: [_member(item, options) for item in value])


def instant() -> Kind:
    """An ISO 8601 instant with its offset."""
    return Kind("an instant such as 2026-11-20T15:00:00+00:00", parse_instant)


def _exactly(value: Any, *types: type) -> Any:
    # True is an int to Python, and no number to people.
    if type(value) not in types:
        raise TypeError(value)
    return value


def _within(value: float, low: float, high: float) -> float:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(value)
    return value


def _member(value: Any, options: Collection[str]) -> str:
    if value not in options:
        raise ValueError(value)
    return str(value)
