"""Delivery to real receivers on loopback: HTTP and SMTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_string, policy

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from airflow_ibkr_plugin.alerts import sender
from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.alerts.sender import NO_TARGET, DeliveryResult, back_off, deliver_due
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database

NOW = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)


def store(database: Database, key: str = "k1", title: str = "Run failed") -> bool:
    message = AlertMessage(severity=Severity.ERROR, title=title, summary="order failed: no margin")
    with database.write() as session:
        row = enqueue(session, message, dedupe_key=key, strategy="s", dag_id="d", run_id="r", at=NOW)
        return row is not None


class Receiver:
    """An HTTP receiver whose answer can be changed."""

    def __init__(self, server: HTTPServer) -> None:
        self.status = 200
        self.titles: list[str] = []
        server.expect_request("/alerts", method="POST").respond_with_handler(self.answer)
        self.url = f"json://127.0.0.1:{server.port}/alerts"

    def answer(self, request: Request) -> Response:
        if self.status == 200:
            self.titles.append(request.get_json()["title"])
        return Response("", self.status)


@pytest.fixture
def receiver(httpserver: HTTPServer) -> Receiver:
    return Receiver(httpserver)


def test_delivered_once(database: Database, receiver: Receiver) -> None:
    assert store(database)
    assert not store(database)
    assert deliver_due(database, [receiver.url], now=NOW) == DeliveryResult(1, 0, None)
    assert deliver_due(database, [receiver.url], now=NOW + timedelta(days=1)) == DeliveryResult(0, 0, None)
    assert receiver.titles == ["Run failed"]


def test_receiver_down_then_up(database: Database, receiver: Receiver) -> None:
    receiver.status = 500
    store(database)
    down = deliver_due(database, [receiver.url], now=NOW)
    assert (down.delivered, down.waiting) == (0, 1)
    assert down.error is not None
    assert "did not take the alert" in down.error
    receiver.status = 200
    assert deliver_due(database, [receiver.url], now=NOW) == DeliveryResult(0, 1, None)  # rests
    assert deliver_due(database, [receiver.url], now=NOW + back_off(1)) == DeliveryResult(1, 0, None)
    assert deliver_due(database, [receiver.url], now=NOW + timedelta(days=1)) == DeliveryResult(0, 0, None)
    assert receiver.titles == ["Run failed"]


def test_an_alert_that_nobody_took_rests_half_a_minute_and_then_longer(database: Database, receiver: Receiver) -> None:
    receiver.status = 500
    store(database)
    due = NOW
    for seconds in (30, 60, 120):
        assert deliver_due(database, [receiver.url], now=due).error is not None
        due += timedelta(seconds=seconds)
        assert deliver_due(database, [receiver.url], now=due - timedelta(seconds=1)) == DeliveryResult(0, 1, None)


def test_back_off_doubles_up_to_an_hour() -> None:
    assert [back_off(n).total_seconds() for n in (0, 1, 6, 7, 5000)] == [30, 60, 1920, 3600, 3600]


@pytest.mark.parametrize(
    ("severity", "kind"),
    [
        (Severity.INFO, "info"),
        (Severity.WARNING, "warning"),
        (Severity.ERROR, "failure"),
        (Severity.CRITICAL, "failure"),
    ],
)
def test_the_severity_arrives(database: Database, httpserver: HTTPServer, severity: Severity, kind: str) -> None:
    httpserver.expect_request("/alerts", method="POST").respond_with_data("")
    message = AlertMessage(severity=severity, title="t", summary="1 < 2 & <b>3</b>")
    with database.write() as session:
        enqueue(session, message, dedupe_key="k", strategy="s", dag_id="d", run_id="r", at=NOW)
    deliver_due(database, [f"json://127.0.0.1:{httpserver.port}/alerts"], now=NOW)
    ((request, _),) = httpserver.log
    assert (request.get_json()["type"], request.get_json()["message"]) == (kind, "1 < 2 & <b>3</b>")


def test_while_one_sends_an_alert_nobody_else_takes_it_up_for_two_minutes(
    database: Database, httpserver: HTTPServer
) -> None:
    free: list[int] = []

    def answer(request: Request) -> Response:
        with database.read() as session:
            free.extend(len(Alerts(session).due(NOW + timedelta(seconds=n))) for n in (119, 120))
        return Response("")

    httpserver.expect_request("/alerts", method="POST").respond_with_handler(answer)
    store(database)
    assert deliver_due(database, [f"json://127.0.0.1:{httpserver.port}/alerts"], now=NOW).delivered == 1
    assert free == [0, 1]


def test_the_oldest_go_first_and_no_more_than_a_batch(database: Database, receiver: Receiver) -> None:
    for n in range(sender.BATCH + 1):
        store(database, f"k{n}", f"alert {n}")
    assert deliver_due(database, [receiver.url], now=NOW) == DeliveryResult(sender.BATCH, 1, None)
    assert receiver.titles == [f"alert {n}" for n in range(sender.BATCH)]


def test_a_fault_of_a_target_is_told_once_for_all_alerts(database: Database, receiver: Receiver) -> None:
    receiver.status = 500
    store(database, "k1")
    store(database, "k2")
    error = deliver_due(database, [receiver.url], now=NOW).error
    assert error is not None
    assert error.count("did not take the alert") == 1


def test_nobody_listens(database: Database) -> None:
    store(database)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        with_secret = f"json://user:s3cretpw@127.0.0.1:{bound.getsockname()[1]}/nowhere"
        result = deliver_due(database, [with_secret], now=NOW)
    assert (result.delivered, result.waiting) == (0, 1)
    assert result.error is not None
    assert "s3cretpw" not in result.error


def test_no_target(database: Database) -> None:
    store(database)
    assert deliver_due(database, [], now=NOW) == DeliveryResult(0, 1, NO_TARGET)


def test_one_target_of_two_fails(
    database: Database, receiver: Receiver, httpserver: HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    httpserver.expect_request("/broken").respond_with_response(Response("", 500))
    store(database)
    with caplog.at_level(logging.ERROR):
        result = deliver_due(database, [f"json://127.0.0.1:{httpserver.port}/broken", receiver.url], now=NOW)
    assert (result.delivered, result.waiting) == (1, 0)
    assert result.error is not None
    assert result.error == f"alert URL number 1 (json://127.0.0.1:{httpserver.port}/...) did not take the alert"
    assert result.error in caplog.text
    assert receiver.titles == ["Run failed"]


def test_every_invalid_url_is_named_without_its_secrets(
    database: Database, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    store(database)
    with caplog.at_level(logging.ERROR):
        result = deliver_due(database, ["nosuch://s3cret@host", receiver.url, "s3cret"], now=NOW)
    assert result.delivered == 1
    faults = [
        "alert URL number 1 (nosuch://...) is not a valid Apprise URL",
        "alert URL number 3 (no scheme://...) is not a valid Apprise URL",
    ]
    assert result.error == "; ".join(faults)
    assert [record.getMessage() for record in caplog.records] == [f"alerts: {fault}" for fault in faults]


def test_with_only_invalid_urls_the_alert_waits(database: Database) -> None:
    store(database)
    result = deliver_due(database, ["nosuch://host"], now=NOW)
    assert (result.delivered, result.waiting) == (0, 1)


def test_two_senders_at_once_send_once(database: Database, receiver: Receiver) -> None:
    for n in range(5):
        store(database, f"k{n}", f"alert {n}")
    threads = [
        threading.Thread(target=deliver_due, args=(database, [receiver.url]), kwargs={"now": NOW}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(receiver.titles) == [f"alert {n}" for n in range(5)]


class SmtpReceiver:
    """As much of RFC 5321 as a client needs to hand over a message."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SmtpReceiver:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._talk, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(server.wait_closed())

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test\r\n")
        while line := (await reader.readline()).decode().strip():
            verb = line.upper().split(" ")[0]
            if verb == "DATA":
                writer.write(b"354 go\r\n")
                text = (await reader.readuntil(b"\r\n.\r\n")).decode()
                self.messages.append(text)
            writer.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
            if verb == "QUIT":
                break
        await writer.drain()
        writer.close()


@pytest.fixture
def smtp() -> Iterator[SmtpReceiver]:
    with SmtpReceiver() as receiver:
        yield receiver


def test_by_email(database: Database, smtp: SmtpReceiver) -> None:
    store(database, title="[IBKR] momentum: run failed")
    url = f"mailto://127.0.0.1:{smtp.port}/ops@example.com?from=airflow@example.com&mode=insecure&format=text"
    assert deliver_due(database, [url], now=NOW) == DeliveryResult(1, 0, None)
    (text,) = smtp.messages
    mail = message_from_string(text, policy=policy.default)
    assert mail["Subject"] == "[IBKR] momentum: run failed"
    assert "ops@example.com" in mail["To"]
    body = mail.get_body(("plain",))
    assert body is not None
    assert "order failed: no margin" in body.get_content()
