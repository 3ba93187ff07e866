"""Who gives a command, for the record."""

from __future__ import annotations

import getpass
import socket


def who() -> str:
    """`user@host`: the operating system's user, who may read the trading database, and so may do what it lets."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
