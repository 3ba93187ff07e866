"""IBC's command server: one text command a line over TCP, answered with `OK ...` or `ERROR ...`.

Source: IBC, user guide, "Command server"; `INFO` lines and a prompt may come before the answer.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, GatewayUnavailable

RECONNECT = "RECONNECTACCOUNT"  # log in again to IBKR's account server
RESTART = "RESTART"  # restart the gateway with its saved login: no second factor, within the week

_ANSWER = re.compile(r"^(?!INFO\b).*?\b(OK|ERROR)\b\s*(.*)$")


def send_command(host: str, port: int, command: str, *, timeout: float) -> str:
    """Send one command and return what the server said behind its `OK`.

    :param timeout: seconds for all of it, whatever the server says meanwhile.
    :raises GatewayUnavailable: nobody listens, or it hung up without an answer.
    :raises BrokerTimeout: no answer. :raises BrokerError: it answered `ERROR`.
    """
    deadline = time.monotonic() + timeout
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(f"{command}\r\n".encode("ascii"))
            lines = _lines(connection, deadline)
            answer = next((found for line in lines if (found := _ANSWER.match(line.strip()))), None)
    except TimeoutError as error:
        raise BrokerTimeout(
            f"IBC's command server at {host}:{port} did not answer {command} within {timeout:g} s.",
            remedy="Check IBC on the gateway's host.",
        ) from error
    except OSError as error:
        raise GatewayUnavailable(
            f"No IBC command server at {host}:{port}: {error}.",
            remedy="Check the connection's IBC port, and CommandServerPort and BindAddress in IBC's config.ini.",
        ) from error
    if answer is None:
        raise GatewayUnavailable(
            f"IBC's command server at {host}:{port} hung up without an answer to {command}.",
            remedy="Check ControlFrom in IBC's config.ini: it names the hosts that may send commands.",
        )
    if answer[1] == "ERROR":
        raise BrokerError(
            f"IBC's command server at {host}:{port} refused {command}: {answer[2]}.",
            remedy="Log in to the gateway by hand.",
        )
    return answer[2]


def _lines(connection: socket.socket, deadline: float) -> Iterator[str]:
    """What the server says until it hangs up. :raises TimeoutError: it has not by `deadline`, of time.monotonic."""
    rest = b""
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        said = connection.recv(4096)
        if not said:
            yield rest.decode("utf-8", "replace")
            return
        *lines, rest = (rest + said).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
    raise TimeoutError
