"""Which server version a client gets."""

from __future__ import annotations

#: All gates of the tables lie between these two. A version above 176 would need messages that no table has; 201 and
#: above speak protobuf.
LOWEST, HIGHEST = 157, 176
# ib_insync reads openOrder's duration from 159 on, IBKR's own clients from 158 on: at 158 one of them would misread it.
_NEVER = 158


def negotiated(lowest: int, highest: int) -> int | None:
    """The server version for a client that speaks `lowest` to `highest`; None: there is none in common."""
    version = min(highest, HIGHEST)
    if version == _NEVER:
        version -= 1
    return version if version >= max(lowest, LOWEST) else None
