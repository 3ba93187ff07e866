"""Where a worker can die: each commit, each message it sends, each message it gets. Counted in the child, from outside.

The product knows nothing of this: the database dialect's commit and the client library's socket are wrapped after the
fork.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from airflow_ibkr_plugin.broker import library

PLACE_ORDER = "3"  # its number on the wire; source: TWS API, outgoing message ids

# Those that come, about orders: their status, errors, the orders themselves, ids, executions, commissions, their ends.
ABOUT_ORDERS = frozenset({3, 4, 5, 9, 11, 53, 55, 59, 101, 102})

COMMIT, SEND, RECEIVE, OTHER, PLACED = "commit", "send", "receive", "other message", "placed"


@dataclass(frozen=True)
class Trigger:
    """At the n-th passage of a boundary, before or after it, the process dies, or something happens at the gateway.

    :param boundary: `receive` counts messages about orders, `other message` the rest; `placed` placeOrder alone.
    :param command: a control command of the simulator; None: SIGKILL.
    """

    boundary: str
    at: int
    after: bool
    command: dict[str, Any] | None = None

    def __str__(self) -> str:
        what = f"{self.command['cmd']} " if self.command else ""
        return f"{what}{'after' if self.after else 'before'} {self.boundary} {self.at}"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Boundaries:
    """Counts what this process passes, and pulls the triggers.

    :param control: does a control command at the gateway. :param kill: ends this process.
    """

    def __init__(
        self, triggers: tuple[Trigger, ...], control: Callable[..., Any], kill: Callable[[], None] = die
    ) -> None:
        self.passed: Counter[str] = Counter()
        # The fault comes before the kill, where both are at one boundary.
        self._triggers = sorted(triggers, key=lambda trigger: trigger.command is None)
        self._control = control
        self._kill = kill

    def install(self) -> None:
        DefaultDialect.do_commit = self._wrap(DefaultDialect.do_commit, lambda *_: [COMMIT])  # type: ignore[method-assign]
        module = library.load()
        connection, decoder = module.client.Connection, module.decoder.Decoder
        connection.sendMsg = self._wrap(connection.sendMsg, _sent)
        decoder.interpret = self._wrap(decoder.interpret, _received)

    def _wrap(self, function: Callable[..., Any], boundaries: Callable[..., list[str]]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            here = boundaries(*arguments)
            self.passed.update(here)
            at = {boundary: self.passed[boundary] for boundary in here}
            self._pull(at, after=False)
            result = function(*arguments)
            self._pull(at, after=True)
            return result

        return wrapped

    def _pull(self, at: dict[str, int], *, after: bool) -> None:
        for trigger in self._triggers:
            if trigger.after is not after or at.get(trigger.boundary) != trigger.at:
                continue
            if trigger.command is None:
                self._kill()
            else:
                self._control(**trigger.command)


def _sent(_connection: Any, message: bytes) -> list[str]:
    return [SEND, PLACED] if message[4:].split(b"\0", 1)[0].decode() == PLACE_ORDER else [SEND]


def _received(_decoder: Any, fields: list[str]) -> list[str]:
    return [RECEIVE if int(fields[0]) in ABOUT_ORDERS else OTHER]
