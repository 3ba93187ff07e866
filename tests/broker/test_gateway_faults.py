"""Gateways that do not work, or not as the simulated one does, as plain sockets: one clear error each, in time."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import pytest

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import BrokerError, ClientIdInUse, ConfigError, GatewayUnavailable, SessionInvalid

E = TypeVar("E", bound=Exception)
GREETING = "176\x0020261120 14:23:43 US/Eastern\0"


def frame(text: str) -> bytes:
    return len(text).to_bytes(4, "big") + text.encode()


@contextmanager
def listener(
    *,
    after_hello: str = "",
    after_start: tuple[str, ...] = (),
    then: tuple[tuple[str, ...], ...] = (),
    hang_up: bool = False,
) -> Iterator[int]:
    """Accept one client; answer its hello, its startApi and its next requests, then hang up or stay silent."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            server.settimeout(10)
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(4096)
                if after_hello:
                    connection.sendall(frame(after_hello))
                    connection.recv(4096)
                for text in after_start:
                    connection.sendall(frame(text))
                for answer in then:
                    connection.recv(4096)
                    for text in answer:
                        connection.sendall(frame(text))
                if not hang_up:
                    ended.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()


def spec(port: int, timeout: float = 30.0) -> GatewaySpec:
    return GatewaySpec(
        conn_id="ibkr_test", host="127.0.0.1", port=port, client_ids=range(10, 12), account="", timeout=timeout
    )


def refused_with(kind: type[E], port: int, timeout: float = 30.0) -> E:
    with pytest.raises(kind) as caught:
        BrokerSession.open(spec(port, timeout), client_id=10)
    return caught.value


def refusal(port: int, timeout: float = 30.0) -> BrokerError:
    return refused_with(BrokerError, port, timeout)


def test_a_closed_port_names_itself_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    error = refusal(port)

    assert type(error) is GatewayUnavailable
    assert f"127.0.0.1:{port}" in error.message
    assert "ibkr_test" in error.remedy


def test_an_unknown_host_is_unavailable() -> None:
    unknown = GatewaySpec(conn_id="c", host="gateway.invalid", port=4002, client_ids=range(1, 2), account="")
    with pytest.raises(GatewayUnavailable, match=r"gateway\.invalid"):
        BrokerSession.open(unknown, client_id=1)


def test_a_listener_that_never_answers_is_given_up_in_time() -> None:
    with listener() as port:
        error = refusal(port, timeout=0.3)
    assert type(error) is GatewayUnavailable
    assert "0.3 s" in error.message


def test_a_gateway_that_hangs_up_is_noticed_at_once() -> None:
    # The time-out of these is far beyond the test's own: waiting for it would fail.
    with listener(hang_up=True) as port:
        assert type(refusal(port, timeout=1000)) is GatewayUnavailable


def test_a_taken_client_id_is_noticed_at_once() -> None:
    taken = "4\x002\x00-1\x00326\x00Unable to connect as the client id is already in use.\0\0"
    with listener(after_hello=GREETING, after_start=(taken,)) as port:
        error = refusal(port, timeout=1000)
    assert type(error) is ClientIdInUse
    assert error.code == 326


def test_a_gateway_without_accounts_is_not_logged_in() -> None:
    with listener(after_hello=GREETING, after_start=("15\x001\x00\0",)) as port:
        assert type(refusal(port, timeout=1000)) is SessionInvalid


def test_a_gateway_that_greets_and_hangs_up_is_not_logged_in() -> None:
    with listener(after_hello=GREETING, hang_up=True) as port:
        assert type(refusal(port, timeout=1000)) is SessionInvalid


def test_a_gateway_that_starts_no_session_is_not_logged_in() -> None:
    with listener(after_hello=GREETING) as port:
        error = refusal(port, timeout=0.3)
    assert type(error) is SessionInvalid


def test_no_thread_stays_behind_a_refused_connection() -> None:
    with listener(hang_up=True) as port:
        refusal(port)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ibkr-")]


LOGGED_IN = ("15\x001\x00DU1234567\0", "9\x001\x001\0")
REFUSED = "4\x002\x00-1\x00201\x00Order rejected\0\0"


def test_the_zone_of_a_gateway_matters_only_where_its_times_have_none() -> None:
    strange = GREETING.replace("US/Eastern", "China Standard Time")
    with listener(after_hello=strange.replace("176", "173"), after_start=LOGGED_IN) as port:
        error: Exception = refused_with(ConfigError, port)
    assert "China Standard Time" in str(error)
    with listener(after_hello=strange.replace("176", "174"), after_start=LOGGED_IN, then=((REFUSED,),)) as port:
        error = refusal(port)
    assert "Order rejected" in str(error)  # it went on to ask for the account


def test_a_refused_question_never_reads_as_a_refused_order() -> None:
    with listener(after_hello=GREETING, after_start=LOGGED_IN, then=((REFUSED,),)) as port:
        error = refusal(port)
    assert type(error) is BrokerError
    assert error.code == 201


def test_of_a_login_with_several_accounts_only_the_connections_own_counts() -> None:
    def position(account: str, symbol: str, quantity: int) -> str:
        fields = (
            "61",
            "3",
            account,
            "756733",
            symbol,
            "STK",
            "",
            "0",
            "",
            "",
            "",
            "USD",
            symbol,
            symbol,
            quantity,
            "99.5",
        )
        return "".join(f"{field}\0" for field in fields)

    accounts = "15\x001\x00DU1234567,DU7654321\0"
    mine, other = position("DU1234567", "SPY", 5), position("DU7654321", "QQQ", 7)
    gone = position("DU1234567", "IBM", 0)
    answers = (("54\x001\x00DU1234567\0",), (other, mine, gone, "62\x001\0"))
    with listener(after_hello=GREETING, after_start=(accounts, LOGGED_IN[1]), then=answers) as port:
        chosen = replace(spec(port), account="DU1234567")
        with BrokerSession.open(chosen, client_id=10) as session:
            assert [(p.account, p.symbol, p.quantity) for p in session.positions()] == [("DU1234567", "SPY", 5)]
