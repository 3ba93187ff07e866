"""The async session with one gateway: connect, ask, hear. Runs on the session's private loop only.

Every await has a time-out. Requests go out one after the other: several of the protocol's requests have no id, so
two of a kind at once could not be told apart.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Hashable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow_ibkr_plugin.broker import library as libraries
from airflow_ibkr_plugin.broker.accounts import check_money, choose_account, source_of
from airflow_ibkr_plugin.broker.journal import Journal
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import (
    BrokerError,
    BrokerTimeout,
    ConfigError,
    GatewayUnavailable,
    OrderRejected,
    SessionInvalid,
)

# From this server version on, execution times carry their zone. Source: reference/tws-protocol.md.
_ZONED_EXECUTIONS = 174
# Account values that only the simulated gateway sends; the second is `false` while its clock is the real one.
_SIMULATOR_TAG = "Simulator"
_CLOCK_TAG = "SimulatedClock"


class Gateway:
    """One API connection. :meth:`log_in` is enough to check a session; :meth:`open` makes it ready to trade."""

    def __init__(self, spec: GatewaySpec, client_id: int) -> None:
        self.spec = spec
        self.client_id = client_id
        self.library = libraries.load()
        self.journal = Journal()
        self.account = ""
        self.simulated = False
        self.simulated_clock = False
        self.source = ""
        self._ib = self.library.IB()
        self._greeting = b""
        self._turn = asyncio.Lock()
        self._unanswered: set[Hashable] = set()
        self.journal.attach(self._ib)

    @property
    def client(self) -> Any:
        """The library's client: sends requests, hands out request ids."""
        return self._ib.client

    @property
    def wrapper(self) -> Any:
        """The library's wrapper: pairs answers with requests, holds what was subscribed to."""
        return self._ib.wrapper

    # --- connecting -----------------------------------------------------------------------------------

    async def log_in(self) -> tuple[str, ...]:
        """Connect and return the accounts that the login manages.

        :raises GatewayUnavailable: nobody listens, the gateway hung up, or does not speak the API.
        :raises ClientIdInUse: at once when the gateway says so.
        :raises SessionInvalid: the gateway is not logged in to IBKR.
        """
        spec = self.spec
        self.wrapper.clientId = self.client_id
        self.client.conn.hasData += self._keep_greeting
        # The library waits for the greeting even after an error (326) or a hang-up; hence the race.
        connecting = asyncio.ensure_future(
            self.client.connectAsync(spec.host, spec.port, self.client_id, 2 * spec.timeout)
        )
        try:
            async with asyncio.timeout(spec.timeout):
                while not connecting.done() and self.journal.failed is None:
                    await self.journal.message(spec.timeout, unless=connecting)
            if not connecting.done() and self.journal.failed is not None:
                raise self._refusal(self.journal.failed)
            await connecting
        except TimeoutError as error:
            raise self._silence() from error
        except OSError as error:
            raise GatewayUnavailable(
                f"No gateway at {spec.address}: {error}.",
                remedy="Start IB Gateway or TWS, enable its API socket, and check host and port of connection"
                f" {spec.conn_id!r}.",
            ) from error
        finally:
            self.client.conn.hasData -= self._keep_greeting
            if not connecting.done():
                connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        # Set on this object: the library's own way, a class attribute, would reach every user of it in the process.
        self._ib.TimezoneTWS = self._timezone()
        return tuple(self.client.getAccounts())

    def _refusal(self, failed: BrokerError) -> BrokerError:
        if self.journal.greeted and isinstance(failed, GatewayUnavailable):
            return SessionInvalid(
                f"The gateway at {self.spec.address} answers, but hung up before it started an API session.",
                remedy="See whether it waits for a login or a second factor, and whether it accepts API clients.",
            )
        where = f"Client id {self.client_id} at the gateway {self.spec.address}"
        return type(failed)(f"{where}: {failed.message}", remedy=failed.remedy, code=failed.code)

    def _silence(self) -> BrokerError:
        where, seconds = self.spec.address, self.spec.timeout
        if self.journal.greeted:
            return SessionInvalid(
                f"The gateway at {where} answers, but started no API session within {seconds:g} s.",
                remedy="See whether it waits for a login or a second factor.",
            )
        return GatewayUnavailable(
            f"The gateway at {where} did not answer the API handshake within {seconds:g} s.",
            remedy="Check that the port is its API port and that no dialog of it waits for an answer; restart it.",
        )

    def _keep_greeting(self, data: bytes) -> None:
        self._greeting = (self._greeting + data)[:256]

    def _timezone(self) -> str:
        return "" if self.client.serverVersion() >= _ZONED_EXECUTIONS else handshake_zone(self._greeting)

    async def open(self) -> None:
        """Log in, choose and check the account, subscribe to its values.

        Orders and executions are not asked for here, unlike in the library's own connect: that costs more the more
        orders the day has seen, and who needs them needs them fresh.

        :raises ConfigError, LiveTradingRefused: see `accounts.py`; and what :meth:`log_in` raises.
        """
        managed = await self.log_in()
        self.account = choose_account(self.spec, managed)
        await self.ask(
            "accountValues",
            lambda _: self.client.reqAccountUpdates(True, self.account),
            about=f"values of account {self.account}",
        )
        if self.journal.down is not None:
            raise self.journal.down
        values = {value.tag: value.value for value in self.wrapper.accountValues.values()}
        self.simulated = _SIMULATOR_TAG in values
        self.simulated_clock = values.get(_CLOCK_TAG, "false") != "false"
        self.source = source_of(self.spec, simulated=self.simulated)
        check_money(self.spec, self.account, simulated=self.simulated)

    async def close(self) -> None:
        """Hang up and wait until the socket is closed, so that the client id is free again."""
        self._ib.disconnect()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.spec.timeout):
                while self.client.conn.transport is not None:
                    await asyncio.sleep(0.001)

    # --- asking ---------------------------------------------------------------------------------------

    def check_connected(self) -> None:
        """:raises GatewayUnavailable: the connection is lost."""
        if not self.client.isReady():
            raise self._lost()

    def _lost(self) -> BrokerError:
        failed = self.journal.failed
        return GatewayUnavailable(
            f"The connection to the gateway at {self.spec.address} is lost{f': {failed.message}' if failed else '.'}",
            remedy="Open a new session and ask the broker what became of the work.",
            code=failed.code if failed else None,
        )

    async def ask(self, key: str, send: Callable[[Any], None], *, about: str, seconds: float | None = None) -> Any:
        """Send a request and return its whole answer.

        :param key: the library's name of a request that has no id; '' gives it one, which `send` is called with.
        :param about: what is asked, for the error's message.
        :param seconds: to wait; None for the spec's time-out.
        :raises BrokerTimeout: no (whole) answer in time; SessionInvalid where the gateway had said why.
        :raises GatewayUnavailable: the connection is lost.
        :raises BrokerError: what `codes.py` makes of the error that was answered.
        """
        wait = self.spec.timeout if seconds is None else seconds
        async with self._turn:
            self.check_connected()
            if key in self._unanswered:
                raise self._too_late(about, wait)
            request = key or self.client.getReqId()
            answer = self.wrapper.startReq(request)
            self.journal.requests[request] = answer
            # A late answer to a request without an id would pass for the (partial) answer to the next one of its kind.
            self._unanswered.add(request)
            try:
                send(request)
                result = await asyncio.wait_for(answer, wait)
                self._unanswered.remove(request)
                return result
            except TimeoutError as error:
                raise self.journal.down or self._too_late(about, wait) from error
            except ConnectionError as error:
                raise self._lost() from error
            except BrokerError as error:
                self._unanswered.remove(request)
                # A question that was refused must never read as an order that was.
                kind = BrokerError if isinstance(error, OrderRejected) else type(error)
                raise kind(f"{about}: {error.message}", remedy=error.remedy, code=error.code) from None
            finally:
                del self.journal.requests[request]

    def _too_late(self, about: str, seconds: float) -> BrokerError:
        return BrokerTimeout(
            f"The gateway at {self.spec.address} did not answer within {seconds:g} s: {about}.",
            remedy="Try again in a new session; restart the gateway if it goes on.",
        )

    async def next_order_id(self) -> int:
        """The gateway's offer at log-in, or what follows the ids that this session has used or seen since."""
        self.check_connected()
        offered: int = self.client.getReqId()
        return offered

    async def now(self) -> datetime:
        """The broker's clock, aware UTC, whole seconds."""
        time: datetime = await self.ask("currentTime", lambda _: self.client.reqCurrentTime(), about="current time")
        return time.astimezone(UTC)


def handshake_zone(greeting: bytes) -> str:
    """IANA zone of a gateway, from the first frame it sent: length, server version, `20261120 14:23:43 US/Eastern`.

    :raises ConfigError: the zone has no IANA name, so that the times it sends cannot be read.
    """
    (length,) = struct.unpack(">I", greeting[:4])
    _, _, told = greeting[4 : 4 + length].decode("ascii", "replace").partition("\0")
    name = told.rstrip("\0").partition(" ")[2].partition(" ")[2]
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(
            f"The gateway's time zone {name!r} is unknown, and its version sends execution times without a zone.",
            remedy="Upgrade the gateway to 10.19 or later, or log in with a time zone such as US/Eastern.",
        ) from error
