"""What each failure of the model server means: fatal, or later and when."""

from __future__ import annotations

import json
import pickle
import socket
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import AnalystError, AnalystUnavailable, Family
from airflow_ibkr_plugin.trading.signals import Action


@pytest.mark.parametrize(
    ("method", "arguments", "says_so"),
    [
        ("says", {"content": None, "refusal": "I will not."}, "refused to answer"),
        ("says", {"content": "", "finish": "content_filter"}, "refused to answer"),
        ("says", {"content": '{"symbol": "SPX', "finish": "length"}, "cut off"),
        ("fails", {"status": 400, "message": "no images please"}, "no images please"),
        ("fails", {"status": 404, "code": "model_not_found"}, "does not know the model"),
        ("fails", {"status": 429, "code": "insufficient_quota"}, "quota"),
        ("fails", {"status": 400, "code": "context_length_exceeded"}, "too long"),
    ],
    ids=["refusal", "filtered", "truncated", "400", "404", "quota", "context"],
)
def test_what_a_retry_cannot_mend_is_fatal(
    server: Any, question: Any, method: str, arguments: dict[str, Any], says_so: str
) -> None:
    getattr(server, method)(**arguments)
    with pytest.raises(AnalystError, match=says_so) as caught:
        question.ask()
    assert caught.value.family is Family.FATAL
    assert caught.value.remedy
    assert json.loads(caught.value.raw)
    assert len(server.requests) == 1


def test_a_refused_key_is_fatal_and_is_not_repeated(server: Any, question: Any) -> None:
    server.fails(401, "invalid_api_key", f"Incorrect API key provided: {question.key}")
    with pytest.raises(AnalystError, match="refused the API key") as caught:
        question.ask()
    assert caught.value.family is Family.FATAL
    assert question.key not in str(caught.value) + caught.value.raw


def test_the_token_limit_ends_the_question(server: Any, question: Any) -> None:
    server.fills_in(**question.reply(confidence=7))
    with pytest.raises(AnalystError, match="used up the tokens") as caught:
        question.ask(max_total_tokens=100)
    assert caught.value.family is Family.FATAL
    assert len(server.requests) == 1


def test_a_rate_limit_says_when_to_come_back_and_holds_no_worker(server: Any, question: Any) -> None:
    server.fails(429, Retry_After="42")
    with pytest.raises(AnalystUnavailable, match="patience") as caught:
        question.ask()
    assert caught.value.family is Family.RETRY_AFTER
    assert caught.value.retry_after == 42
    assert len(server.requests) == 1


def test_no_server_may_send_us_to_sleep_for_ever(server: Any, question: Any) -> None:
    server.fails(429, Retry_After="99999999")
    with pytest.raises(AnalystUnavailable) as caught:
        question.ask()
    assert caught.value.retry_after == 3600


@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_an_outage_is_tried_again_later(server: Any, question: Any, status: int) -> None:
    server.fails(status)
    with pytest.raises(AnalystUnavailable) as caught:
        question.ask()
    assert caught.value.retry_after is None  # nobody said when: the task's own back-off decides
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["hangs", "drips"])
def test_the_deadline_holds(server: Any, question: Any, how: str) -> None:
    getattr(server, how)()
    with pytest.raises(AnalystUnavailable, match="did not answer"):
        question.ask(timeout_seconds=0.5)
    # The server still holds its answer back: it was the deadline that ended the question.
    assert not server.released.is_set()


def test_nobody_listens(question: Any, connect: Any) -> None:
    with socket.socket() as taken:
        # Bound and never listening: connections are refused, and no other process can take the port.
        taken.bind(("127.0.0.1", 0))
        connect(host=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(AnalystUnavailable, match="cannot be reached") as caught:
            question.ask()
    assert caught.value.family is Family.RETRY_AFTER


def _chain(server: Any, connect: Any, second: dict[str, Any]) -> None:
    connect(host=server.url, extra={"model": "openai-chat:first", "fallback_conn_ids": ["llm_second"]})
    connect(conn_id="llm_second", host=server.url, extra=second)


def test_a_fallback_chain_asks_the_next_model(server: Any, question: Any, connect: Any) -> None:
    _chain(server, connect, {"model": "openai-chat:second"})
    server.fails(503)
    server.fills_in(**question.reply())
    assert question.ask().signal.action is Action.BUY
    assert [r["model"] for r in server.requests] == ["first", "second"]


def test_a_chain_that_fails_comes_back_at_the_earliest_time(server: Any, question: Any, connect: Any) -> None:
    _chain(server, connect, {"model": "openai-chat:second"})
    server.fails(429, Retry_After="11")
    server.fails(401)
    with pytest.raises(AnalystUnavailable, match="every model of the fallback chain failed") as caught:
        question.ask()
    assert caught.value.retry_after == 11


def test_a_chain_with_one_that_names_no_time_backs_off(server: Any, question: Any, connect: Any) -> None:
    _chain(server, connect, {"model": "openai-chat:second"})
    server.fails(429, Retry_After="3000")
    server.fails(503)
    with pytest.raises(AnalystUnavailable) as caught:
        question.ask()
    assert caught.value.retry_after is None


def test_a_chain_without_a_usable_key_is_fatal(server: Any, question: Any, connect: Any) -> None:
    _chain(server, connect, {"model": "openai-chat:second"})
    server.fails(401)
    with pytest.raises(AnalystError, match="refused the API key") as caught:
        question.ask()
    assert caught.value.family is Family.FATAL


def test_a_test_model_hidden_in_a_chain_is_refused(server: Any, question: Any, connect: Any) -> None:
    _chain(server, connect, {"model": "test"})
    with pytest.raises(AnalystError, match="makes its answers up"):
        question.ask()
    assert server.requests == []


@pytest.mark.parametrize(
    ("fields", "says_so"),
    [
        ({"extra": {"model": "test"}}, "makes its answers up"),
        ({"extra": {}}, "No model specified"),
        ({"extra": {"model": "some-model"}}, "some-model"),
        ({"conn_type": "sqlite"}, "pydanticai"),
        ({"conn_type": "no_such_type"}, "no_such_type"),
        ({"extra": {"model": "openai-chat:some-model"}, "password": ""}, "cannot be asked"),
    ],
    ids=["test model", "no model", "no provider", "wrong type", "unknown type", "no key"],
)
def test_a_connection_that_cannot_be_used_is_fatal(
    question: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], says_so: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    connect(**fields)
    with pytest.raises(AnalystError, match=says_so) as caught:
        question.ask()
    assert caught.value.family is Family.FATAL


@pytest.mark.usefixtures("airflow_home")
def test_no_such_connection_is_fatal(question: Any) -> None:
    with pytest.raises(AnalystError, match="there is no Airflow connection 'nobody_made_it'") as caught:
        question.ask(connection_id="nobody_made_it")
    assert caught.value.family is Family.FATAL


def test_an_error_keeps_its_raw_answer_between_processes() -> None:
    error = pickle.loads(pickle.dumps(AnalystUnavailable("busy.", remedy="Wait.", retry_after=5, raw="[1]")))
    assert (type(error), error.raw, error.retry_after) == (AnalystUnavailable, "[1]", 5)
