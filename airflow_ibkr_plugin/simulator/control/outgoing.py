"""One client's messages on their way out, through the faults of messages: muted, delayed, or changed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.wire.codec import encode
from airflow_ibkr_plugin.simulator.wire.fields import Message
from airflow_ibkr_plugin.simulator.wire.framing import frame

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session
    from airflow_ibkr_plugin.simulator.control.faults import Armed, Faults


class Outgoing:
    """Hands a client's messages on as bytes, at once or later."""

    def __init__(self, session: Session, put: Callable[[bytes], None]) -> None:
        """`put` takes what is to be sent now."""
        self._session = session
        self._put = put
        # Messages that wait behind a delayed one, with the loop's time at which each may go.
        self._queue: deque[tuple[float, bytes]] = deque()

    def send(self, message: Message, values: dict[str, Any]) -> None:
        """Send a message, as the armed faults want it."""
        faults = self._session.gateway.faults
        if message.name in faults.muted:
            return
        data = frame(encode(message, _changed(message.name, values, faults, self._session), self._session.version))
        fault = faults.armed and faults.take(
            "delay", client=self._session.client_id, when=lambda details: message.name in details["messages"]
        )
        if fault:
            self._delay(data, fault)
        elif self._queue:
            self._queue.append((0.0, data))
        else:
            self._put(data)

    def _delay(self, data: bytes, fault: Armed) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + fault.details["seconds"]
        if not fault.details["keep_order"]:
            loop.call_at(due, self._late, data)
            return
        self._queue.append((due, data))
        if len(self._queue) == 1:
            loop.call_at(due, self._release)

    def _late(self, data: bytes) -> None:
        self._put(data)
        self._session.simulator.flush()

    def _release(self) -> None:
        loop = asyncio.get_running_loop()
        # A timer can ring within the clock's resolution ahead of its time.
        self._put(self._queue.popleft()[1])
        while self._queue and self._queue[0][0] <= loop.time():
            self._put(self._queue.popleft()[1])
        if self._queue:
            loop.call_at(self._queue[0][0], self._release)
        self._session.simulator.flush()


def _changed(name: str, values: dict[str, Any], faults: Faults, session: Session) -> dict[str, Any]:
    """The message's values, with what faults have done to orders and ids."""
    if faults.perm_ids and values.get("permId") in faults.perm_ids:
        values = values | {"permId": faults.perm_ids[values["permId"]]}
    if faults.unnamed and values.get("execId") in faults.unnamed:
        values = values | {"orderRef": ""}
    if name == "nextValidId" and (fault := faults.take("roll_back_ids", client=session.client_id)) is not None:
        values = values | {"orderId": max(1, values["orderId"] - fault.details["by"])}
    return values
