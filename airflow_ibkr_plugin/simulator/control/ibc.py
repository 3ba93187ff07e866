"""IBC's command server, which logs a gateway in again: one command a line, answered `OK ...` or `ERROR ...`.

Commands and answers are those of IBC 3.24 (github.com/IbcAlpha/IBC: CommandDispatcher, StopTask, RestartTask,
CommandChannel). Prompt and INFO lines are off by default there and here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

log = logging.getLogger(__name__)


class CommandServer:
    """Answers IBC commands; with `ibc_verbose` as with IBC's CommandPrompt=> and SuppressInfoMessages=no."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._verbose = simulator.options.ibc_verbose

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until EXIT, STOP, RESTART, PAUSE, or its end."""
        channel = _Channel(writer, verbose=self._verbose)
        try:
            await channel.say("INFO", "IBC Command Server")
            while line := await reader.readline():
                command = line.decode("ascii", "replace").rstrip("\r\n")
                if command.strip():
                    log.info("IBC command: %r", command[:40])
                    try:
                        if await self._execute(command.upper(), channel):
                            break
                    except ConfigError as error:  # the API port cannot be opened again
                        await channel.say("ERROR", str(error))
                await channel.prompt()
        except (ConnectionError, ValueError) as error:
            # ValueError: a line longer than the reader's limit.
            log.warning("IBC connection ended: %s", error)

    async def _execute(self, command: str, channel: _Channel) -> bool:
        """Answer a command; whether the connection ends with it."""
        entrance = self._simulator.entrance
        match command:
            case "EXIT":
                await channel.say("OK", "Goodbye")
                return True
            case "STOP":
                await channel.say("INFO", "Closing IBC")
                await channel.say("OK", "Shutting down: STOP command")
                await self._simulator.stop()
                return True
            case "RESTART":
                await channel.say("INFO", "Restarting TWS")
                await channel.say("OK", "RESTART in progress")
                await entrance.restart(self._simulator.options.restart_seconds)
                return True
            case "PAUSE":
                # TWS ends and IBC's script waits for its own end: nothing comes back by itself.
                await channel.say("INFO", "Pausing TWS")
                await channel.say("OK", "PAUSE in progress")
                await self._simulator.stop()
                return True
            case "RECONNECTACCOUNT":
                await entrance.reconnect()
                await channel.say("OK", "")
            case "RECONNECTDATA":
                self._simulator.reconnect_farms()
                await channel.say("OK", "")
            case "ENABLEAPI":
                await channel.say("ERROR", "ENABLEAPI is not valid for the IB Gateway")
            case _:
                await channel.say("ERROR", "Command invalid")
        return False


class _Channel:
    def __init__(self, writer: asyncio.StreamWriter, *, verbose: bool) -> None:
        self._writer = writer
        self._verbose = verbose

    async def say(self, kind: str, text: str) -> None:
        if kind != "INFO" or self._verbose:
            self._writer.write(f"{kind} {text}\n".encode())
            await self._writer.drain()

    async def prompt(self) -> None:
        if self._verbose:
            self._writer.write(b">")
            await self._writer.drain()
