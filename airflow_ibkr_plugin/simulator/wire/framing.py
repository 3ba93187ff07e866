"""Frames of the TWS protocol: a big-endian u32 length, then fields that each end with a NUL byte."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

from airflow_ibkr_plugin.simulator.wire.fields import MalformedMessage

#: The longest frame that is read; the largest real request (an order with many legs) is below 16 KiB.
MAX_FRAME = 256 * 1024
PREAMBLE = b"API\0"

_LENGTH = struct.Struct(">I")
_VERSIONS = re.compile(r"v(\d{1,5})(?:\.\.(\d{1,5}))?(?: .*)?", re.DOTALL)


def frame(fields: Sequence[str]) -> bytes:
    """One frame of the given fields."""
    payload = "\0".join((*fields, "")).encode()
    return _LENGTH.pack(len(payload)) + payload


def version_range(text: str) -> tuple[int, int]:
    """The lowest and highest version of the client's hello, `v157..176[ options]`.

    :raises MalformedMessage: it is not a hello.
    """
    found = _VERSIONS.fullmatch(text)
    if found is None:
        raise MalformedMessage(f"the hello {text[:40]!r} names no versions")
    return int(found[1]), int(found[2] or found[1])


class FrameReader:
    """Cuts a byte stream into frames: first the preamble and the hello, then messages.

    :ivar hello: the client's hello once it has come, until then None.
    """

    def __init__(self) -> None:
        self.hello: str | None = None
        self._greeted = False
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[list[str]]:
        """Take bytes; yield the fields of each complete message. The hello is kept in :attr:`hello`, not yielded.

        :raises MalformedMessage: the bytes are no TWS stream; it cannot be read on from here.
        """
        self._data += data
        if not self._greeted:
            start = bytes(self._data[: len(PREAMBLE)])
            if not PREAMBLE.startswith(start):
                raise MalformedMessage(f"the stream starts with {start!r} and not with the API preamble")
            if len(start) < len(PREAMBLE):
                return
            del self._data[: len(PREAMBLE)]
            self._greeted = True
        while (payload := self._next()) is not None:
            try:
                text = payload.decode()
            except UnicodeDecodeError as error:
                raise MalformedMessage(f"a frame is not UTF-8: {error.reason} at byte {error.start}") from None
            if self.hello is None:
                self.hello = text
                continue
            if not text.endswith("\0"):
                raise MalformedMessage("a frame does not end with a NUL byte")
            yield text[:-1].split("\0")

    def _next(self) -> bytes | None:
        if len(self._data) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data)
        if not 0 < length <= MAX_FRAME:
            raise MalformedMessage(f"a frame claims {length} bytes; 1 to {MAX_FRAME} are possible")
        end = _LENGTH.size + length
        if len(self._data) < end:
            return None
        payload = bytes(self._data[_LENGTH.size : end])
        del self._data[:end]
        return payload
