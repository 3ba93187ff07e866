"""The simulator: a gateway behind sockets."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from airflow_ibkr_plugin.errors import BrokerError, ConfigError, IBKRPluginError, StoreError
from airflow_ibkr_plugin.simulator.api import (
    requests_account,
    requests_contracts,
    requests_history,
    requests_orders,
    requests_quotes,
)
from airflow_ibkr_plugin.simulator.api.session import Handler, Session
from airflow_ibkr_plugin.simulator.clients import Clients
from airflow_ibkr_plugin.simulator.control.commands import Control
from airflow_ibkr_plugin.simulator.control.ibc import CommandServer
from airflow_ibkr_plugin.simulator.control.incoming import with_faults
from airflow_ibkr_plugin.simulator.control.order_news import OrderNews
from airflow_ibkr_plugin.simulator.entrance import Entrance
from airflow_ibkr_plugin.simulator.gateway import Gateway, Options
from airflow_ibkr_plugin.simulator.link import Farm, FarmState, Notice
from airflow_ibkr_plugin.simulator.orders.desk import Desk
from airflow_ibkr_plugin.simulator.ports import LocalPort

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_TICKS_PER_QUOTE = 4

T = TypeVar("T")

HANDLERS: dict[str, Handler] = with_faults(
    requests_contracts.HANDLERS
    | requests_quotes.HANDLERS
    | requests_history.HANDLERS
    | requests_orders.HANDLERS
    | requests_account.HANDLERS
)


class Simulator:
    """Start it with :meth:`start`, on a running loop; it serves until :meth:`stop`.

    :ivar clients: who is connected. :ivar entrance: the API port, and the gateway's login.
    :ivar control_port, ibc_port: where it listens besides, once started.
    :ivar stopped: set when it has stopped, by itself (IBC's STOP, an unwritable state file) or by :meth:`stop`.
    :ivar failure: why it stopped by itself, None if it was asked to.
    """

    def __init__(self, options: Options) -> None:
        """Load everything.

        :raises ConfigError: replay or state files that cannot be used.
        """
        self.options = options
        self.gateway = Gateway(options)
        self.clients = Clients(self.gateway.faults)
        self.entrance = Entrance(self.gateway, self.clients, lambda: Session(self, HANDLERS), self._fail)
        self.desk = Desk(self.gateway, OrderNews(self.gateway, self.clients, self._books_changed))
        self.control = Control(self)
        self.control_port: int | None = None
        self.ibc_port: int | None = None
        self._local_ports: list[LocalPort] = []
        self._stall = 0.0
        self._beat = time.monotonic()
        self.stopped = asyncio.Event()
        self.failure: IBKRPluginError | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(1, "simulated-history")
        self._ticker: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self.entrance.port

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the ports.

        :raises ConfigError: a port is taken or not allowed; names it.
        """
        try:
            await self.entrance.open()
            if self.options.control_port is not None:
                control = LocalPort(self.control.connection, name="control", option="--control-port")
                self._local_ports.append(control)
                self.control_port = await control.open(self.options.control_port)
            if self.options.ibc_port is not None:
                commands = LocalPort(CommandServer(self).connection, name="IBC command", option="--ibc-port")
                self._local_ports.append(commands)
                self.ibc_port = await commands.open(self.options.ibc_port)
        except ConfigError:
            await self.stop()
            raise
        self._ticker = asyncio.create_task(self._run())
        self._ticker.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Close all connections and ports, and the state."""
        if self._ticker is not None:
            self._ticker.cancel()
        self.entrance.close()
        for port in self._local_ports:
            port.close()
        self.clients.drop("the simulator stops")
        self._worker.shutdown(wait=False, cancel_futures=True)
        if self.gateway.store is not None and not isinstance(self.failure, StoreError):
            self.gateway.store.close()
        # One turn of the loop, in which the transports close.
        await asyncio.sleep(0)
        self.stopped.set()

    # --- the link to IBKR ------------------------------------------------------------------------

    def lose_servers(self) -> None:
        """IBKR is out of reach: clients stay, and hear nothing of the market or their orders."""
        self.desk.step()
        self.tell_all(self.gateway.link.lose())

    def restore_servers(self, *, data_lost: bool) -> None:
        """IBKR is in reach again; what has happened to orders meanwhile is learnt now.

        :param data_lost: market data subscriptions are gone.
        """
        notices = self.gateway.link.restore(data_lost=data_lost)
        if data_lost:
            for session in self.clients.started:
                session.subscriptions.lose()
        self.tell_all(notices)
        self.desk.step()

    def reconnect_farms(self) -> None:
        """Data farms that are down come up again, if IBKR is in reach."""
        link = self.gateway.link
        if link.online:
            down = [farm for farm, state in link.farms.items() if state is not FarmState.OK]
            self.tell_all([link.set_farm(farm, FarmState.OK) for farm in down])
            self.flush()

    def tell_all(self, notices: Iterable[Notice]) -> None:
        """Send notices to all clients."""
        for notice in notices:
            for session in self.clients.started:
                session.error(-1, *notice)

    # --- sessions --------------------------------------------------------------------------------

    @property
    def stalled(self) -> float:
        """Seconds for which this process did not get to read its sockets just before."""
        return max(self._stall, self._late())

    def _late(self) -> float:
        return max(time.monotonic() - self._beat - 2 * _TICK_SECONDS, 0.0)

    def in_background(
        self, session: Session, work: Callable[[], T], answer: Callable[[T], None], values: dict[str, Any]
    ) -> None:
        """Do slow work in a thread, then answer the session with its result, unless it has gone."""

        def finish(future: asyncio.Future[T]) -> None:
            if session in self.clients and not future.cancelled():
                session.answer(lambda: answer(future.result()), values)
                self.flush()

        asyncio.get_running_loop().run_in_executor(self._worker, work).add_done_callback(finish)

    def flush(self) -> None:
        """Make what has happened durable, then let the clients know."""
        for session in self.clients.started:
            session.push(session.account_subscriptions.send_changes)
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
        for session in self.clients.connections:
            session.flush()

    # --- inside ----------------------------------------------------------------------------------

    def _books_changed(self, con_id: int) -> None:
        for session in self.clients.started:
            session.account_subscriptions.books_changed(con_id)

    async def _run(self) -> None:
        ticks = 0
        self._beat = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            ticks += 1
            self._stall = self._late()
            self._beat = time.monotonic()
            if self.entrance.restart_is_due():
                await self.entrance.restart(self.options.restart_seconds)
            self.desk.step()
            if ticks % _TICKS_PER_QUOTE == 0:
                self._send_quotes()
            self.flush()

    def _send_quotes(self) -> None:
        link = self.gateway.link
        if link.online and link.farms[Farm.MARKET] is not FarmState.BROKEN:
            for session in self.clients.started:
                session.push(session.subscriptions.tick)

    def _ended(self, ticker: asyncio.Task[None]) -> None:
        if ticker.cancelled() or (error := ticker.exception()) is None:
            return
        if isinstance(error, ConfigError):  # the API port cannot be opened again after the nightly restart
            self._fail(error)
        else:
            log.error("the market has stopped", exc_info=error)
            self._fail(BrokerError(f"The market has stopped: {error!r}.", remedy="Report this as a defect."))

    def _fail(self, failure: IBKRPluginError) -> None:
        """Nothing may be acknowledged any more: end."""
        if self.failure is not None:
            return
        self.failure = failure
        log.error("%s", failure)
        for session in self.clients.connections:
            session.abort(failure.message)
        self._stopping = asyncio.get_running_loop().create_task(self.stop())
