"""The control port: one JSON object a line in, one out, from this machine only. See docs/simulator-faults.md."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.api.session import MAX_VERSION
from airflow_ibkr_plugin.simulator.clock import parse_instant
from airflow_ibkr_plugin.simulator.control.faults import Login
from airflow_ibkr_plugin.simulator.wire.tables_out import END_MESSAGES

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

log = logging.getLogger(__name__)

# Enough for any calendar; a longer jump would walk working orders through decades of sessions.
_MAX_ADVANCE = 366 * 24 * 3600.0

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Control:
    """Answers control commands."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._commands: dict[str, Command] = {
            "status": self._status,
            "orders": self._orders,
            "clock": self._clock,
            "drop": self._drop,
            "lose_next_order": self._counted,
            "drop_after_accept": self._counted,
            "pacing": self._counted,
            "error": self._error,
            "mute": self._mute,
            "logout": self._logout,
            "login": self._login,
        }

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        peer = writer.get_extra_info("peername")
        try:
            if not ipaddress.ip_address(peer[0]).is_loopback:
                log.warning("control connection from %s refused", peer)
                return
            while line := await reader.readline():
                writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as error:
            # ValueError: a line longer than the reader's limit.
            log.warning("control connection from %s ended: %s", peer, error)
        finally:
            writer.close()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one line."""
        try:
            command = json.loads(line)
        except ValueError as error:
            return {"ok": False, "error": f"not JSON: {error}"}
        return await self.execute(command)

    async def execute(self, command: Any) -> dict[str, Any]:
        """Execute `{"cmd": name, ...}`: `{"ok": true, ...}`, or `{"ok": false, "error": why}`."""
        name = command.get("cmd") if isinstance(command, dict) else None
        run = self._commands.get(name) if isinstance(name, str) else None
        if run is None:
            return {"ok": False, "error": f"cmd is one of {', '.join(self._commands)}"}
        log.info("control: %s", command)
        try:
            answer = await run(command)
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            why = f"{name} needs {error}" if isinstance(error, KeyError) else str(error)
            return {"ok": False, "error": why}
        self._simulator.flush()
        return {"ok": True} | answer

    async def _status(self, command: dict[str, Any]) -> dict[str, Any]:
        gateway = self._simulator.gateway
        return {
            "server_version": MAX_VERSION,
            "account": gateway.account,
            "clients": self._simulator.clients,
            "clock": self._clock_state(),
            "orders": len(gateway.book),
            "working_orders": len(gateway.book.working()),
            "executions": gateway.book.execution_count,
            "login": gateway.faults.login.value,
            "faults": {
                "lose_next_order": gateway.faults.lose_next_order,
                "drop_after_accept": gateway.faults.drop_after_accept,
                "pacing": gateway.faults.pacing,
                "muted": sorted(gateway.faults.muted),
            },
        }

    async def _orders(self, command: dict[str, Any]) -> dict[str, Any]:
        wanted = command.get("order_ref")
        gateway = self._simulator.gateway
        return {
            "orders": [
                {
                    "order_ref": order.order_ref,
                    "perm_id": order.perm_id,
                    "client_id": order.client_id,
                    "order_id": order.order_id,
                    "symbol": gateway.instrument(order.con_id).symbol,
                    "action": order.action,
                    "quantity": str(order.quantity),
                    "order_type": order.order_type,
                    "status": order.status,
                    "filled": str(order.filled),
                    "avg_price": str(order.avg_price),
                }
                for order in gateway.book.all_orders()
                if wanted is None or order.order_ref == wanted
            ]
        }

    async def _clock(self, command: dict[str, Any]) -> dict[str, Any]:
        clock, book = self._simulator.gateway.clock, self._simulator.gateway.book
        # First, so that set and freeze in one command stand exactly there.
        if "freeze" in command:
            if command["freeze"]:
                clock.freeze()
            else:
                clock.resume()
        if "set" in command:
            instant = parse_instant(command["set"])
            if instant.timestamp() < book.last_time:
                last = datetime.fromtimestamp(book.last_time, UTC).isoformat()
                raise ConfigError(
                    f"{instant.isoformat()} is before the last event at {last}.", remedy="Set a later time."
                )
            clock.set(instant)
        if "advance" in command:
            seconds = float(command["advance"])
            if not 0 <= seconds <= _MAX_ADVANCE:
                raise ConfigError(f"advance is {seconds:g}.", remedy=f"Use 0 to {_MAX_ADVANCE:g} seconds.")
            clock.advance(seconds)
        if command.keys() & {"set", "advance", "freeze"}:
            self._simulator.gateway.save_clock()
            self._simulator.desk.step()
        return self._clock_state()

    def _clock_state(self) -> dict[str, Any]:
        clock = self._simulator.gateway.clock
        return {"now": clock.now().isoformat(), "simulated": clock.simulated, "frozen": clock.frozen}

    async def _drop(self, command: dict[str, Any]) -> dict[str, Any]:
        return {"dropped": self._simulator.drop("control: drop")}

    async def _counted(self, command: dict[str, Any]) -> dict[str, Any]:
        count = int(command.get("count", 1))
        if count < 0:
            raise ConfigError("count is negative.", remedy="Use 0 to disarm.")
        setattr(self._simulator.gateway.faults, command["cmd"], count)
        return {"armed": count}

    async def _error(self, command: dict[str, Any]) -> dict[str, Any]:
        session = self._simulator.client(int(command["client"]))
        if session is None:
            raise ConfigError(f"client {command['client']} is not connected.")
        session.error(int(command["id"]), int(command["code"]), str(command.get("message", "sent by control")))
        return {}

    async def _mute(self, command: dict[str, Any]) -> dict[str, Any]:
        names = set(command["messages"])
        if unknown := names - END_MESSAGES.keys():
            raise ConfigError(f"no End messages: {', '.join(sorted(unknown))}; there are {', '.join(END_MESSAGES)}.")
        self._simulator.gateway.faults.muted = names
        return {"muted": sorted(names)}

    async def _logout(self, command: dict[str, Any]) -> dict[str, Any]:
        how = Login(command.get("mode", Login.CLOSE))
        if how is Login.VALID:
            raise ConfigError("mode is close or refuse.")
        await self._simulator.log_out(how)
        return {"login": how.value}

    async def _login(self, command: dict[str, Any]) -> dict[str, Any]:
        await self._simulator.log_in()
        return {"login": Login.VALID.value}
