"""Opening ports, with errors that say what to do about one that cannot be opened."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

from airflow_ibkr_plugin.errors import ConfigError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def open_port(
    make: Callable[[], asyncio.Protocol], *, name: str, option: str, host: str, port: int
) -> asyncio.Server:
    """Listen there; `make` makes the protocol of each connection.

    :param name, option: what the port is for, and the command-line option that moves it.
    :raises ConfigError: it cannot be opened.
    """
    try:
        return await asyncio.get_running_loop().create_server(make, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"Port {port} on {host} is taken; the {name} port cannot be opened.",
                remedy=f"Stop what listens there, or choose another port with {option} (0 picks a free one).",
            ) from error
        raise ConfigError(
            f"The {name} port {port} on {host} cannot be opened: {error.strerror}.",
            remedy=f"Choose another with {option}.",
        ) from error


class LocalPort:
    """A port for commands that change what the gateway does: for this machine only, whatever the API's host is."""

    def __init__(self, serve: Serve, *, name: str, option: str) -> None:
        self._serve = serve
        self._name, self._option = name, option
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, port: int) -> int:
        """Listen; returns the port, which differs from a `port` of 0.

        :raises ConfigError: it cannot be opened.
        """
        self._server = await open_port(
            self._protocol, name=self._name, option=self._option, host="127.0.0.1", port=port
        )
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop listening, and end all connections but the one that asks for it."""
        if self._server is not None:
            self._server.close()
        for task in self._connections - {asyncio.current_task()}:
            task.cancel()

    def _protocol(self) -> asyncio.Protocol:
        reader = asyncio.StreamReader()
        return asyncio.StreamReaderProtocol(reader, self._connected)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()
