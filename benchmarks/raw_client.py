"""A socket that places market orders and counts their commission reports: a client that costs next to nothing."""

from __future__ import annotations

import itertools
import socket
import struct
import time

import ib_insync

_COMMISSION_REPORT = b"59"
# Orders on their way at once.
_WINDOW = 200


class RawClient:
    """Buys and sells SPY in turn, one share at a time."""

    def __init__(self, port: int, client_id: int, order_ref: str = "") -> None:
        """Connect and start the API.

        :param order_ref: of the orders; `ORDER_ID` in it becomes the order's id.
        """
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = bytearray()
        self._order_ids = itertools.count(1)
        self._sides = itertools.cycle([order_template("BUY", order_ref), order_template("SELL", order_ref)])
        self._socket.sendall(b"API\0" + struct.pack(">I", 9) + b"v157..176")
        self._next()
        self._socket.sendall(_frame(f"71\0002\0{client_id}\0\0".encode()))
        while not self._next().startswith(b"9\0"):
            pass

    def fill(self, count: int) -> float:
        """Place that many orders, a window of them at a time; seconds until the last commission has come."""
        started = time.perf_counter()
        sent = done = 0
        while done < count:
            batch = min(_WINDOW - (sent - done), count - sent)
            if batch:
                self._socket.sendall(b"".join(self._order() for _ in range(batch)))
                sent += batch
            message = self._next()
            if message.startswith(b"4\0002\0") and not message.startswith(b"4\0002\0-1\0"):
                raise RuntimeError(f"an order was refused: {message!r}")
            done += message.split(b"\0", 1)[0] == _COMMISSION_REPORT
        return time.perf_counter() - started

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _order(self) -> bytes:
        return _frame(next(self._sides).replace(b"ORDER_ID", str(next(self._order_ids)).encode()))

    def _next(self) -> bytes:
        while len(self._data) < 4 or len(self._data) < 4 + int.from_bytes(self._data[:4], "big"):
            received = self._socket.recv(1 << 16)
            if not received:
                raise ConnectionError("the gateway hung up")
            self._data += received
        end = 4 + int.from_bytes(self._data[:4], "big")
        message = bytes(self._data[4:end])
        del self._data[:end]
        return message


def order_template(action: str, order_ref: str = "") -> bytes:
    """What ib_insync sends for a market order of one share, `ORDER_ID` in place of its id."""
    captured: list[str] = []
    client = ib_insync.client.Client(ib_insync.wrapper.Wrapper(ib_insync.IB()))
    client.isConnected = lambda: True
    client._serverVersion = 176
    client.sendMsg = captured.append
    contract = ib_insync.Contract(conId=756733, symbol="SPY", secType="STK", exchange="SMART", currency="USD")
    client.placeOrder("ORDER_ID", contract, ib_insync.MarketOrder(action, 1, tif="DAY", orderRef=order_ref))
    return captured[0].encode()


def _frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload
