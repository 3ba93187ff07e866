"""One client's connection: reads its frames, answers through the handlers, tells it what happens to its orders."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.api import order_messages
from airflow_ibkr_plugin.simulator.api.account_subscriptions import AccountSubscriptions
from airflow_ibkr_plugin.simulator.api.meter import Meter
from airflow_ibkr_plugin.simulator.api.subscriptions import Subscriptions
from airflow_ibkr_plugin.simulator.control.outgoing import Outgoing
from airflow_ibkr_plugin.simulator.link import LOST, NEEDS_SERVER, Login
from airflow_ibkr_plugin.simulator.market.hours import EASTERN, tws_time
from airflow_ibkr_plugin.simulator.orders.book import Execution, Order
from airflow_ibkr_plugin.simulator.orders.checks import Refusal
from airflow_ibkr_plugin.simulator.wire import tables_out as out
from airflow_ibkr_plugin.simulator.wire.codec import decode
from airflow_ibkr_plugin.simulator.wire.fields import MalformedMessage, Message
from airflow_ibkr_plugin.simulator.wire.framing import FrameReader, frame, version_range
from airflow_ibkr_plugin.simulator.wire.tables_in import NOT_SERVED, REQUESTS, START_API
from airflow_ibkr_plugin.simulator.wire.versions import HIGHEST, LOWEST, negotiated

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

log = logging.getLogger(__name__)

#: Above this many bytes that a client has not read, its requests wait; it must have caught up in time.
MAX_UNREAD = 8 * 1024 * 1024
CATCH_UP_SECONDS = 30.0
#: A client that has still more waiting is cut off at once.
MUCH_UNREAD = 512 * 1024 * 1024
#: A connection must have said who it is within this many seconds.
HELLO_SECONDS = 20.0
_LINGER_SECONDS = 1.0
# Of a number or id, which is an int to the clients.
_MAX_DIGITS = 10

Handler = Callable[["Session", dict[str, Any]], None]


class Session(asyncio.Protocol):
    """A client from its hello to its end.

    :ivar client_id: its id once it has started the API, until then None.
    """

    def __init__(self, simulator: Simulator, handlers: dict[str, Handler]) -> None:
        self.simulator = simulator
        self.gateway = simulator.gateway
        self.desk = simulator.desk
        self.client_id: int | None = None
        self.version = 0
        self.subscriptions = Subscriptions(self)
        self.account_subscriptions = AccountSubscriptions(self)
        self._handlers = handlers
        self._reader = FrameReader()
        self._meter = Meter(time.monotonic(), simulator.options.message_rate)
        self._transport: asyncio.Transport | None = None
        self._unsent = bytearray()
        self._outgoing = Outgoing(self, self._put)
        self._peer = "?"
        self._deadline: asyncio.TimerHandle | None = None
        self._slow: asyncio.TimerHandle | None = None

    def ended(self) -> bool:
        """Whether the connection is over; what it still sends is not read."""
        return self._transport is None

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(MAX_UNREAD)
        self._peer = str(transport.get_extra_info("peername"))
        self._deadline = asyncio.get_running_loop().call_later(
            HELLO_SECONDS, self.close, f"no startApi within {HELLO_SECONDS:g} s"
        )
        if not self.simulator.clients.opened(self):
            self.abort("too many connections")

    def data_received(self, data: bytes) -> None:
        if not self.ended():
            self.push(lambda: self._read(data))
            self.simulator.flush()

    def pause_writing(self) -> None:
        """Called by asyncio: the client does not read as fast as it is answered."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._slow = asyncio.get_running_loop().call_later(
                CATCH_UP_SECONDS, self.abort, "it does not read what it asked for"
            )

    def resume_writing(self) -> None:
        """Called by asyncio: the client has caught up."""
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self.close(str(exc) if exc else "the client hung up")

    # --- sending ---------------------------------------------------------------------------------

    def send(self, message: Message, /, **values: Any) -> None:
        """Send a message when the state is durable (see `Simulator.flush`)."""
        self._outgoing.send(message, values)

    def error(self, request: int, code: int, text: str) -> None:
        """Send an error or notice; `request` is a request or order id, -1 for none."""
        self.send(out.ERROR, id=request, code=code, message=text)

    def answer(self, handle: Callable[[], None], values: dict[str, Any]) -> None:
        """Handle a request; a refusal goes to its id. Whatever else goes wrong ends this client, and only this one."""
        request = values.get("reqId", values.get("orderId", -1))
        try:
            handle()
        except Refusal as refusal:
            self.error(request, refusal.code, refusal.message)
        except Exception as error:  # noqa: BLE001  (a defect: logged whole, and the client is told)
            self._failed(error, request)

    def push(self, send: Callable[[], None]) -> None:
        """Do something for this client that no request stands behind; what goes wrong ends it, and only it."""
        try:
            send()
        except Exception as error:  # noqa: BLE001  (a defect: logged whole, and the client is told)
            self._failed(error, -1)

    def _failed(self, error: Exception, request: int) -> None:
        log.error("client %s at %s: a defect of the simulator", self.client_id, self._peer, exc_info=error)
        self.error(request, 322, f"Error processing request:{error!r}")
        self.refuse(f"a defect: {error!r}")

    def flush(self) -> None:
        """Hand what was sent to the socket."""
        if self._transport is None or not self._unsent:
            return
        self._transport.write(bytes(self._unsent))
        self._unsent.clear()
        if self._transport.get_write_buffer_size() > MUCH_UNREAD:
            self.abort("it does not read what it asked for")

    def close(self, reason: str) -> None:
        """End the connection; what was sent still goes out, if the client reads it in time."""
        if (transport := self._leave(reason)) is not None:
            transport.write(bytes(self._unsent))
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(CATCH_UP_SECONDS, transport.abort)

    def abort(self, reason: str) -> None:
        """End the connection; what was not sent yet is dropped."""
        if (transport := self._leave(reason)) is not None:
            transport.abort()

    def refuse(self, reason: str) -> None:
        """End the connection so that the client still reads why: a close with unread input would reset it."""
        if (transport := self._leave(reason)) is not None:
            transport.write(bytes(self._unsent))
            transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, transport.abort)

    def _put(self, data: bytes) -> None:
        self._unsent += data

    def _leave(self, reason: str) -> asyncio.Transport | None:
        transport, self._transport = self._transport, None
        if transport is not None:
            log.info("client %s at %s closed: %s", self.client_id, self._peer, reason)
            for timer in (self._deadline, self._slow):
                if timer is not None:
                    timer.cancel()
            self.simulator.clients.closed(self)
        return transport

    # --- receiving -------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        try:
            for wire in self._reader.feed(data):
                if self.ended():
                    return
                self._received(wire)
            if self.version == 0 and self._reader.hello is not None:
                self._greet(self._reader.hello)
        except MalformedMessage as error:
            self.refuse(f"malformed: {error}")

    def _greet(self, hello: str) -> None:
        lowest, highest = version_range(hello)
        version = negotiated(lowest, highest)
        if version is None:
            self.refuse(f"no common version: it speaks {lowest} to {highest}, this {LOWEST} to {HIGHEST} but not 158")
            return
        self.version = version
        # ibapi discards what comes in the same segment as this frame: nothing more until startApi.
        self._unsent += frame([str(self.version), tws_time(self.gateway.clock.time(), EASTERN, "US/Eastern")])
        if self.gateway.link.login is Login.CLOSE:
            self.refuse("the gateway is logged out")

    def _received(self, wire: list[str]) -> None:
        if self.version == 0:
            assert self._reader.hello is not None
            self._greet(self._reader.hello)
            if self.ended():
                return
        within = self._meter.take(time.monotonic(), self.simulator.stalled)
        if not within or self.gateway.faults.take("message_rate", client=self.client_id):
            rate = self.simulator.options.message_rate
            self.error(-1, 100, f"Max rate of messages per second has been exceeded:max={rate} rec={rate + 1} (1)")
            self.refuse(f"more than {rate} messages a second")
            return
        number = _number(wire[0])
        message = REQUESTS.get(number)
        if message is None:
            self._not_served(number, wire)
            return
        if message is START_API:
            self._start(decode(message, wire, self.version))
        elif self.client_id is None:
            self.refuse(f"{message.name} before startApi")
        else:
            self._serve(message, wire)

    def _serve(self, message: Message, wire: list[str]) -> None:
        try:
            values = decode(message, wire, self.version)
        except MalformedMessage as error:
            self.error(_request_id(message, wire), 320, f"Error reading request:{error}")
            return
        log.debug("client %s: %s", self.client_id, message.name)
        if message.name in NEEDS_SERVER and not self.gateway.link.online:
            self.error(-1, *LOST)
            return
        self.answer(lambda: self._handlers[message.name](self, values), values)

    def _not_served(self, number: int, wire: list[str]) -> None:
        if number not in NOT_SERVED:
            raise MalformedMessage(f"unknown message {wire[0][:20]!r}")
        name, position = NOT_SERVED[number]
        asked = wire[position] if 0 < position < len(wire) else ""
        self.error(_number(asked), 321, f"{name} is not served by this simulator")

    def _start(self, values: dict[str, Any]) -> None:
        wanted = values["clientId"]
        if self.client_id is not None or wanted is None or wanted < 0:
            self.refuse(f"a second or unusable startApi (client id {wanted})")
            return
        if self._deadline is not None:
            self._deadline.cancel()
        refused = self.simulator.clients.admit(self, wanted)
        if refused is not None:
            code, text = refused
            self.error(-1, code, text)
            self.refuse(text)
            return
        self.client_id = wanted
        log.info("client %s at %s started, version %s", wanted, self._peer, self.version)
        self.send(out.MANAGED_ACCOUNTS, accounts=",".join(self.gateway.accounts))
        self.send(out.NEXT_VALID_ID, orderId=self.gateway.book.next_id(wanted))
        for notice in self.gateway.link.welcome():
            self.error(-1, *notice)

    # --- what happens to its orders (see desk.Audience) ----------------------------------------

    def order_changed(self, order: Order, execution: Execution | None = None) -> None:
        """Tell it of its order."""
        order_messages.send_open_order(self, order, execution)

    def executed(self, execution: Execution) -> None:
        """Tell it of its fill."""
        order_messages.send_execution(self, execution, request=-1)

    def commissioned(self, execution: Execution) -> None:
        """Tell it of its commission."""
        order_messages.send_commission(self, execution)

    def bound(self, order: Order) -> None:
        """Tell it of the order id that a manual order has got."""
        order_messages.send_order_bound(self, order)


def _request_id(message: Message, wire: list[str]) -> int:
    for position, item in enumerate(message.items[:2], start=1):
        if getattr(item, "name", "") in ("reqId", "orderId") and position < len(wire):
            return _number(wire[position])
    return -1


def _number(text: str) -> int:
    """The message number or id that a field holds, -1 if it holds none."""
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else -1
