"""The decoder of ib_insync and ib_async takes every field of every message, no more and no less."""

from __future__ import annotations

import logging
import sys
from datetime import UTC
from types import FrameType
from typing import Any

import pytest
from driver_insync import library
from samples import SERVER_MESSAGES, VARIANTS, full, least

from airflow_ibkr_plugin.simulator.wire.codec import encode
from airflow_ibkr_plugin.simulator.wire.fields import Message

#: 158 is never negotiated; see docs/simulator-protocol.md.
VERSIONS = [version for version in range(157, 177) if version != 158]


IB = library.IB()


class Callbacks:
    """Stands where the library's wrapper is, and counts its callbacks."""

    def __init__(self) -> None:
        self.ib = IB
        self.defaultTimezone = UTC
        self.called = 0

    def __getattr__(self, name: str) -> Any:
        return self._call

    def _call(self, *arguments: object) -> None:
        self.called += 1


class Leftover:
    """A profiler that sees what a handler of the decoder leaves of a message.

    The handlers cut their fields off the front of `fields`, read them by `get`, or pair them with `types`.
    """

    def __init__(self) -> None:
        self.fields: list[str] = []

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event != "return" or not frame.f_code.co_filename.endswith("decoder.py") or "fields" not in frame.f_locals:
            return
        seen = frame.f_locals
        if "types" in seen:
            self.fields = seen["fields"][seen["skip"] + len(seen["types"]) :]
        elif "get" in seen:
            self.fields = list(seen["get"].__self__)
        else:
            self.fields = seen["fields"]


def take(message: Message, wire: list[str], version: int) -> list[str]:
    """Let the library's decoder take the message; returns what it leaves."""
    callbacks = Callbacks()
    handler = library.decoder.Decoder(callbacks, version).handlers[message.number]
    leftover = Leftover()
    before = sys.getprofile()
    sys.setprofile(leftover)
    try:
        handler(list(wire))
    finally:
        sys.setprofile(before)
    assert callbacks.called
    return leftover.fields


def surplus(message: Message, wire: list[str], version: int) -> list[str]:
    """What is left of the message when it has one field more than it should."""
    try:
        return take(message, [*wire, "one too many"], version)
    except ValueError as error:
        # Handlers that take all fields at once leave it to Python to count them.
        return ["one too many"] if "too many values to unpack" in str(error) else [str(error)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("message", SERVER_MESSAGES.values(), ids=SERVER_MESSAGES)
def test_every_field_is_taken(message: Message, version: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for values in (least(message), *(full(message, variant, version) for variant in VARIANTS)):
        wire = encode(message, values, version)
        take(message, wire, version)
        assert surplus(message, wire, version) == ["one too many"]
    assert not caplog.records, "the library logged an error"
