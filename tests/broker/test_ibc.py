import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from airflow_ibkr_plugin.broker.ibc import RESTART, send_command
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, GatewayUnavailable

CHATTER = "INFO still about it\r\n"


@contextmanager
def command_server(*says: str | None) -> Iterator[tuple[int, list[str]]]:
    """A TCP server that reads one line and says something; None: it stays silent; `CHATTER`: for 5 s."""
    heard: list[str] = []
    done = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            heard.append(self.rfile.readline().decode().strip())
            for text in says:
                if text is None:
                    done.wait()
                elif text is CHATTER:
                    with suppress(ConnectionError):
                        for _ in range(500):
                            self.wfile.write(text.encode())
                            done.wait(0.01)
                else:
                    self.wfile.write(text.encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], heard
        finally:
            done.set()
            server.shutdown()
            thread.join()


def test_a_command_is_one_line_and_its_answer_comes_back() -> None:
    with command_server("INFO IBC Command Server, OK?\r\nIBC> OK Restart in progress\r\n") as (port, heard):
        assert send_command("127.0.0.1", port, RESTART, timeout=5) == "Restart in progress"
    assert heard == ["RESTART"]


def test_a_refusal_is_an_error() -> None:
    with (
        command_server("ERROR Command invalid\n") as (port, _),
        pytest.raises(BrokerError, match="Command invalid"),
    ):
        send_command("127.0.0.1", port, RESTART, timeout=5)


def test_silence_and_a_hang_up_are_told_apart() -> None:
    with command_server(None) as (port, _), pytest.raises(BrokerTimeout):
        send_command("127.0.0.1", port, RESTART, timeout=0.2)
    with command_server() as (port, _), pytest.raises(GatewayUnavailable, match="hung up"):
        send_command("127.0.0.1", port, RESTART, timeout=5)


def test_one_that_talks_on_without_an_answer_is_not_listened_to_for_longer() -> None:
    with command_server(CHATTER) as (port, _), pytest.raises(BrokerTimeout, match=r"within 0\.5 s"):
        send_command("127.0.0.1", port, RESTART, timeout=0.5)


def test_nobody_listens() -> None:
    with command_server() as (port, _):
        pass
    with pytest.raises(GatewayUnavailable, match=str(port)):
        send_command("127.0.0.1", port, RESTART, timeout=5)
