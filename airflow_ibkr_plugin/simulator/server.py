"""The simulator: a gateway behind sockets."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from airflow_ibkr_plugin.errors import BrokerError, ConfigError, IBKRPluginError, StoreError
from airflow_ibkr_plugin.simulator.api import requests_account, requests_data, requests_orders
from airflow_ibkr_plugin.simulator.api.session import Handler, Session
from airflow_ibkr_plugin.simulator.control.commands import Control
from airflow_ibkr_plugin.simulator.control.faults import Login
from airflow_ibkr_plugin.simulator.control.ibc import CommandServer
from airflow_ibkr_plugin.simulator.gateway import Gateway, Options
from airflow_ibkr_plugin.simulator.orders.book import Execution, Order
from airflow_ibkr_plugin.simulator.orders.desk import Desk

log = logging.getLogger(__name__)

#: Clients at once. Source: TWS API documentation.
MAX_CLIENTS = 32
_TICK_SECONDS = 0.25
_TICKS_PER_QUOTE = 4

T = TypeVar("T")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HANDLERS: dict[str, Handler] = requests_data.HANDLERS | requests_orders.HANDLERS | requests_account.HANDLERS


class Simulator:
    """Start it with :meth:`start`, on a running loop; it serves until :meth:`stop`.

    :ivar port, control_port, ibc_port: where it listens once started.
    :ivar stopped: set when it has stopped, by itself (IBC's STOP, an unwritable state file) or by :meth:`stop`.
    :ivar failure: why it stopped by itself, None if it was asked to.
    """

    def __init__(self, options: Options) -> None:
        """Load everything.

        :raises ConfigError: replay or state files that cannot be used.
        """
        self.options = options
        self.gateway = Gateway(options)
        self.desk = Desk(self.gateway, self)
        self.control = Control(self)
        self.port = options.port
        self.control_port: int | None = None
        self.ibc_port: int | None = None
        self._stall = 0.0
        self._beat = time.monotonic()
        self.stopped = asyncio.Event()
        self.stop_wanted = False
        self.failure: IBKRPluginError | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._sessions: set[Session] = set()
        self._clients: dict[int, Session] = {}
        self._worker = ThreadPoolExecutor(1, "simulated-history")
        self._api: asyncio.Server | None = None
        self._others: list[asyncio.Server] = []
        self._ticker: asyncio.Task[None] | None = None

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the ports.

        :raises ConfigError: a port is taken or not allowed; names it.
        """
        try:
            await self._listen_api()
            # Commands that change what the gateway does are for this machine only, whatever the API's host is.
            if self.options.control_port is not None:
                self.control_port = await self._listen(self.control.connection, "control", self.options.control_port)
            if self.options.ibc_port is not None:
                commands = CommandServer(self)
                self.ibc_port = await self._listen(commands.connection, "IBC command", self.options.ibc_port)
        except ConfigError:
            await self.stop()
            raise
        self._ticker = asyncio.create_task(self._run())
        self._ticker.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Close all connections and ports, and the state."""
        if self._ticker is not None:
            self._ticker.cancel()
        for server in (self._api, *self._others):
            if server is not None:
                server.close()
        self.drop("the simulator stops")
        self._api, self._others = None, []
        self._worker.shutdown(wait=False, cancel_futures=True)
        if self.gateway.store is not None and self.failure is None:
            self.gateway.store.close()
        # One turn of the loop, in which the transports close.
        await asyncio.sleep(0)
        self.stopped.set()

    async def log_out(self, how: Login) -> None:
        """Lose the session with IBKR: connections drop, and new ones are answered as `how` says."""
        self.gateway.faults.login = how
        for session in list(self._clients.values()):
            session.error(-1, 1100, "Connectivity between IBKR and Trader Workstation has been lost.")
        self.drop("the gateway is logged out")
        if how is Login.REFUSE and self._api is not None:
            self._api.close()
            self._api = None

    async def log_in(self) -> None:
        """Have a valid session again."""
        self.gateway.faults.login = Login.VALID
        if self._api is None:
            await self._listen_api()

    async def restart(self) -> None:
        """What IBC's RESTART does: connections drop, and the session is valid afterwards."""
        self.drop("the gateway restarts")
        await self.log_in()

    def drop(self, reason: str) -> int:
        """Cut all connections off; returns how many."""
        dropped = list(self._sessions)
        for session in dropped:
            session.close(reason)
        return len(dropped)

    @property
    def stalled(self) -> float:
        """Seconds for which this process did not get to read its sockets just before."""
        return max(self._stall, self._late())

    def _late(self) -> float:
        return max(time.monotonic() - self._beat - 2 * _TICK_SECONDS, 0.0)

    # --- sessions --------------------------------------------------------------------------------

    @property
    def clients(self) -> list[int]:
        """Ids of the connected clients."""
        return sorted(self._clients)

    def client(self, client_id: int) -> Session | None:
        """The session of a client id."""
        return self._clients.get(client_id)

    def opened(self, session: Session) -> None:
        """A connection was accepted."""
        self._sessions.add(session)

    def closed(self, session: Session) -> None:
        """A connection has ended."""
        self._sessions.discard(session)
        if session.client_id is not None and self._clients.get(session.client_id) is session:
            del self._clients[session.client_id]

    def admit(self, session: Session, client_id: int) -> tuple[int, str] | None:
        """Give a client its id; or the error that it gets."""
        if client_id in self._clients:
            return 326, "Unable to connect as the client id is already in use. Retry with a unique client id."
        if len(self._clients) >= MAX_CLIENTS:
            return 507, f"The maximum of {MAX_CLIENTS} API clients is connected."
        self._clients[client_id] = session
        return None

    def in_background(
        self, session: Session, work: Callable[[], T], answer: Callable[[T], None], values: dict[str, Any]
    ) -> None:
        """Do slow work in a thread, then answer the session with its result, unless it has gone."""

        def finish(future: asyncio.Future[T]) -> None:
            if session not in self._sessions or future.cancelled():
                return
            session.answer(lambda: answer(future.result()), values)
            self.flush()

        asyncio.get_running_loop().run_in_executor(self._worker, work).add_done_callback(finish)

    def flush(self) -> None:
        """Make what has happened durable, then let the clients know."""
        for session in list(self._clients.values()):
            session.account_subscriptions.send_changes()
        try:
            self.gateway.commit()
        except sqlite3.Error as error:
            self._fail(
                StoreError(
                    f"The state file {self.options.state} cannot be written: {error}.",
                    remedy="Free some space, then start the simulator again; what was acknowledged is in the file.",
                )
            )
            return
        for session in list(self._sessions):
            session.flush()

    # --- desk.Audience -----------------------------------------------------------------------------

    def order_changed(self, order: Order, execution: Execution | None = None) -> None:
        """Tell the order's owner."""
        if (owner := self._clients.get(order.client_id)) is not None:
            owner.order_changed(order, execution)

    def executed(self, execution: Execution) -> None:
        """Tell the order's owner."""
        if (owner := self._clients.get(execution.client_id)) is not None:
            owner.executed(execution)

    def commissioned(self, execution: Execution) -> None:
        """Tell the order's owner."""
        if (owner := self._clients.get(execution.client_id)) is not None:
            owner.commissioned(execution)

    def order_error(self, client_id: int, order_id: int, code: int, message: str) -> None:
        """Tell the order's owner."""
        if (owner := self._clients.get(client_id)) is not None:
            owner.error(order_id, code, message)

    def books_changed(self, con_id: int) -> None:
        """Tell all who subscribed to the account."""
        for session in self._clients.values():
            session.account_subscriptions.books_changed(con_id)

    # --- inside --------------------------------------------------------------------------------

    async def _listen_api(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._api = await loop.create_server(lambda: Session(self, HANDLERS), self.options.host, self.port)
        except OSError as error:
            raise _port_error(error, "API", self.options.host, self.port) from error
        self.port = self._api.sockets[0].getsockname()[1]

    async def _listen(self, serve: Serve, name: str, port: int) -> int:
        try:
            server = await asyncio.start_server(serve, "127.0.0.1", port)
        except OSError as error:
            raise _port_error(error, name, "127.0.0.1", port) from error
        self._others.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _run(self) -> None:
        ticks = 0
        self._beat = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            ticks += 1
            self._stall = self._late()
            self._beat = time.monotonic()
            self.desk.step()
            if ticks % _TICKS_PER_QUOTE == 0:
                for session in list(self._clients.values()):
                    session.subscriptions.tick()
            self.flush()

    def _ended(self, ticker: asyncio.Task[None]) -> None:
        if not ticker.cancelled() and (error := ticker.exception()) is not None:
            log.error("the market has stopped", exc_info=error)
            self._fail(BrokerError(f"The market has stopped: {error!r}.", remedy="Report this as a defect."))

    def _fail(self, failure: IBKRPluginError) -> None:
        """Nothing may be acknowledged any more: end."""
        if self.failure is not None:
            return
        self.failure = failure
        log.error("%s", failure)
        for session in list(self._sessions):
            session.abort(failure.message)
        self._stopping = asyncio.get_running_loop().create_task(self.stop())


def _port_error(error: OSError, name: str, host: str, port: int) -> ConfigError:
    option = {"API": "--port", "control": "--control-port"}.get(name, "--ibc-port")
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"Port {port} on {host} is taken; the {name} port cannot be opened.",
            remedy=f"Stop what listens there, or choose another port with {option} (0 picks a free one).",
        )
    return ConfigError(
        f"The {name} port {port} on {host} cannot be opened: {error.strerror}.", remedy=f"Choose another with {option}."
    )
