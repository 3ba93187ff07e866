"""IBKR's own decoder takes every field of every message of the simulator, no more and no less, and as what it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from ibapi import server_versions
from ibapi.decoder import Decoder
from ibapi.wrapper import EWrapper
from landing import collected, lost
from samples import SERVER_MESSAGES, VARIANTS, full, least

from airflow_ibkr_plugin.simulator.wire.codec import decode, encode
from airflow_ibkr_plugin.simulator.wire.fields import Message
from airflow_ibkr_plugin.simulator.wire.tables_out import CONTRACT_DETAILS, ERROR

#: The older library knows no gate of the ones the simulator has; the newer one is decoded with at each of them.
VERSIONS = range(157, min(server_versions.MAX_CLIENT_VER, 176) + 1)
KNOWN = {name: message for name, message in SERVER_MESSAGES.items() if message.number in Decoder.msgId2handleInfo}


class Recorder(EWrapper):
    """Notes each callback with its arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, dict[str, Any]]] = []


def _noted(name: str, signature: inspect.Signature) -> Any:
    def callback(self: Recorder, *args: Any) -> None:
        self.calls.append((name, dict(list(signature.bind(self, *args).arguments.items())[1:])))

    return callback


for _name, _method in inspect.getmembers(EWrapper, inspect.isfunction):
    if not _name.startswith("_"):
        setattr(Recorder, _name, _noted(_name, inspect.signature(_method)))


class Fields(tuple[bytes, ...]):
    """Fields of a message; `reading` is what the decoder reads them by."""

    reading: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        self.reading = super().__iter__()
        return self.reading


@cache
def decoder_of(version: int) -> Decoder:
    return Decoder(None, version)


def decoded(message: Message, values: dict[str, Any], version: int) -> list[tuple[str, dict[str, Any]]]:
    wire = [field.encode() for field in encode(message, values, version)]
    recorder = Recorder()
    decoder = decoder_of(version)
    decoder.wrapper = recorder
    number = int(wire[0])
    if "msgId" in inspect.signature(decoder.interpret).parameters:
        fields = Fields(wire[1:])
        decoder.interpret(fields, number)
    else:
        fields = Fields(wire)
        decoder.interpret(fields)
    if decoder.msgId2handleInfo[number].processMeth is not None:
        assert fields.reading is not None
        assert list(fields.reading) == [], "fields are left"
    # Otherwise the decoder compares the number of fields itself, and calls nothing where it differs.
    assert recorder.calls, "the message is not taken"
    return recorder.calls


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("message", KNOWN.values(), ids=KNOWN)
def test_every_field_is_taken_as_what_it_is(message: Message, version: int) -> None:
    decoded(message, least(message), version)
    for variant in VARIANTS:
        values = full(message, variant, version)
        calls = decoded(message, values, version)
        on_wire = decode(message, encode(message, values, version), version)
        assert lost(values, on_wire, collected(item for _, arguments in calls for item in arguments.items())) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_text_beyond_ascii_arrives(version: int) -> None:
    details = least(CONTRACT_DETAILS) | {"longName": "Münchener Rück"}
    [(_, heard)] = decoded(CONTRACT_DETAILS, details, version)
    assert heard["contractDetails"].longName == "Münchener Rück"
    [(_, heard)] = decoded(ERROR, {"id": 1, "code": 200, "message": "kein Geld: 5 €"}, version)
    assert heard["errorString"] == "kein Geld: 5 €"


def test_no_message_is_unknown_to_the_library() -> None:
    """historicalSchedule came with version 165; at 157 nothing can ask for one."""
    assert SERVER_MESSAGES.keys() - KNOWN.keys() == ({"HISTORICAL_SCHEDULE"} if max(VERSIONS) < 165 else set())
