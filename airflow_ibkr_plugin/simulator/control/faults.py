"""What the control port has armed. Nothing here happens by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Login(StrEnum):
    """The gateway's own session with IBKR."""

    VALID = "valid"
    CLOSE = "close"  # the port answers the handshake, then hangs up
    REFUSE = "refuse"  # nothing listens, as while a gateway waits at its login window


@dataclass
class Faults:
    """Armed faults; counters are used up one order or request at a time.

    :param muted: names of End messages that are not sent.
    """

    lose_next_order: int = 0
    drop_after_accept: int = 0
    pacing: int = 0
    muted: set[str] = field(default_factory=set)
    login: Login = Login.VALID

    def take(self, name: str) -> bool:
        """Whether that counted fault is armed; uses it up by one."""
        left = int(getattr(self, name))
        if left > 0:
            setattr(self, name, left - 1)
        return left > 0
