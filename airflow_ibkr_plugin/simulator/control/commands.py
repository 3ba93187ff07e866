"""The control port: one JSON object a line in, one out, from this machine only. See docs/simulator-faults.md."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import json
import logging
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.control.arming import ARMING, DISARM
from airflow_ibkr_plugin.simulator.control.corporate import CORPORATE
from airflow_ibkr_plugin.simulator.control.data import DATA
from airflow_ibkr_plugin.simulator.control.fields import Answer, Command, Field, choice
from airflow_ibkr_plugin.simulator.control.order_commands import ORDERS
from airflow_ibkr_plugin.simulator.control.world import WORLD

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

log = logging.getLogger(__name__)


def _help(simulator: Simulator, values: dict[str, Any]) -> Answer:
    return {
        "commands": [command.describe() for command in COMMANDS.values() if values["about"] in (None, command.name)]
    }


_LISTED = (*WORLD, *ORDERS, *DATA, *CORPORATE, *ARMING, DISARM)
_ABOUT = Field("about", choice("help", *(command.name for command in _LISTED)), "only this command", None)
HELP = Command("help", "all commands, with their fields and an example", {"about": "clock"}, _help, (_ABOUT,))

#: All commands, by name.
COMMANDS: dict[str, Command] = {command.name: command for command in (HELP, *_LISTED)}


class Control:
    """Answers control commands."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        peer = writer.get_extra_info("peername")
        try:
            if not peer or not ipaddress.ip_address(peer[0]).is_loopback:
                log.warning("control connection from %s refused: it is not from this machine", peer)
                return
            while line := await reader.readline():
                writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as error:
            # ValueError: a line longer than the reader's limit.
            log.warning("control connection from %s ended: %s", peer, error)
        finally:
            writer.close()

    async def answer(self, line: bytes) -> Answer:
        """The answer to one line."""
        try:
            command = json.loads(line)
        except (ValueError, RecursionError) as error:
            return {"ok": False, "error": f"not JSON: {error}"}
        return await self.execute(command)

    async def execute(self, given: Any) -> Answer:
        """Execute `{"cmd": name, ...}`: `{"ok": true, ...}`, or `{"ok": false, "error": why}`."""
        name = given.get("cmd") if isinstance(given, dict) else None
        command = COMMANDS.get(name) if isinstance(name, str) else None
        if command is None:
            return {"ok": False, "error": f"cmd is one of {', '.join(COMMANDS)}"}
        log.info("control: %s", given)
        try:
            answer = command.run(self._simulator, command.read(given))
            if inspect.isawaitable(answer):
                answer = await answer
        except ConfigError as error:
            return {"ok": False, "error": str(error)}
        self._simulator.flush()
        return {"ok": True} | answer
