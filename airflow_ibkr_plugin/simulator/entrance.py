"""The API port: open while the gateway has a session with IBKR, closed while it has none or restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, time, timedelta

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.clients import Clients
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.link import LOST, Login
from airflow_ibkr_plugin.simulator.market.hours import EASTERN
from airflow_ibkr_plugin.simulator.ports import open_port

log = logging.getLogger(__name__)


class Entrance:
    """Lets clients in, or not.

    :ivar port: where it listens once opened; it stays the same.
    """

    def __init__(
        self,
        gateway: Gateway,
        clients: Clients,
        make_session: Callable[[], asyncio.Protocol],
        failed: Callable[[ConfigError], None],
    ) -> None:
        """`failed` is told when the port could not be opened again."""
        self._gateway = gateway
        self._link = gateway.link
        self._clients = clients
        self._make_session = make_session
        self._failed = failed
        self.port = gateway.options.port
        self._server: asyncio.Server | None = None
        self._return: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._logged_in = asyncio.Event()
        self._looked = gateway.clock.time()

    async def open(self) -> None:
        """Listen.

        :raises ConfigError: the port cannot be opened.
        """
        self._link.login = Login.VALID
        self._logged_in.set()
        if self._server is None:
            self._server = await open_port(
                self._make_session, name="API", option="--port", host=self._gateway.options.host, port=self.port
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop listening; connections stay."""
        if self._return is not None:
            self._return.cancel()
            self._return = None
        if self._server is not None:
            self._server.close()
            self._server = None

    async def log_out(self, how: Login) -> None:
        """Lose the session with IBKR: connections drop, and new ones are answered as `how` says.

        :raises ConfigError: see :meth:`open`.
        """
        if how is Login.CLOSE:
            await self.open()
        for session in self._clients.started:
            session.error(-1, *LOST)
        self._clients.drop("the gateway is logged out")
        self._leave(how)

    async def log_in(self) -> None:
        """A person logs in.

        :raises ConfigError: see :meth:`open`.
        """
        if self._return is not None:
            self._return.cancel()
            self._return = None
        await self.open()

    async def reconnect(self) -> None:
        """What IBC's RECONNECTACCOUNT does; returns when the gateway is logged in.

        IBC waits for the gateway's main window, which is not there before a login is complete.
        """
        if self._link.login not in (Login.SECOND_FACTOR, Login.RESTARTING):
            await self.log_in()
        await self._logged_in.wait()

    async def restart(self, seconds: float, *, second_factor: bool = False) -> None:
        """Drop all connections, be away for that many real seconds, and then be logged in: IBC's RESTART, and each
        night's. A gateway that waits for a second factor goes on waiting.

        :param second_factor: the login after it wants one, as once a week.
        :raises ConfigError: see :meth:`open`.
        """
        self._clients.drop("the gateway restarts")
        self._clients.free_stuck()
        if second_factor or self._link.login is Login.SECOND_FACTOR:
            self._leave(Login.SECOND_FACTOR)
            return
        if not seconds:
            await self.log_in()
            return
        self._leave(Login.RESTARTING)
        self._return = asyncio.get_running_loop().call_later(seconds, self._come_back)

    def restart_is_due(self) -> bool:
        """Whether the clock has passed the time of the nightly restart since the last call."""
        at, now = self._gateway.options.restart_at, self._gateway.clock.time()
        if at is None:
            return False
        # A clock that was set back has that night before it once more.
        due = self._looked <= now and _next(at, self._looked) <= now
        self._looked = now
        return due

    def _leave(self, how: Login) -> None:
        self._link.login = how
        self._logged_in.clear()
        if how is not Login.CLOSE:
            self.close()

    def _come_back(self) -> None:
        self._return = None
        self._opening = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        try:
            await self.open()
        except ConfigError as error:
            self._failed(error)


def _next(at: time, now: float) -> float:
    moment = datetime.fromtimestamp(now, EASTERN)
    day = moment.date() if moment.time() < at else moment.date() + timedelta(days=1)
    return datetime.combine(day, at, EASTERN).timestamp()
