"""IBC's command server, which logs a gateway in again: one command a line, answered `OK ...` or `ERROR ...`.

Commands and answers are those of IBC (github.com/IbcAlpha/IBC, CommandDispatcher) with its default settings: no
prompt, no INFO lines.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

log = logging.getLogger(__name__)


class CommandServer:
    """Answers IBC commands."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until EXIT, STOP, RESTART, or its end."""
        try:
            while line := await reader.readline():
                command = line.decode("ascii", "replace").strip().upper()
                if not command:
                    continue
                log.info("IBC command: %s", command[:40])
                answer, last = await self._execute(command)
                writer.write(f"{answer}\n".encode())
                await writer.drain()
                if last:
                    break
        except (ConnectionError, ValueError) as error:
            # ValueError: a line longer than the reader's limit.
            log.warning("IBC connection ended: %s", error)
        finally:
            writer.close()
        if self._simulator.stop_wanted:
            await self._simulator.stop()

    async def _execute(self, command: str) -> tuple[str, bool]:
        """The answer, and whether the connection ends with it."""
        match command:
            case "EXIT":
                return "OK Goodbye", True
            case "STOP":
                self._simulator.stop_wanted = True
                return "OK Shutting down", True
            case "RESTART":
                await self._simulator.restart()
                return "OK Restart in progress", True
            case "RECONNECTACCOUNT":
                await self._simulator.log_in()
                return "OK ", False
            case "RECONNECTDATA":
                return "OK ", False
            case "ENABLEAPI":
                return "ERROR ENABLEAPI is not valid for the IB Gateway", False
            case _:
                return "ERROR Command invalid", False
