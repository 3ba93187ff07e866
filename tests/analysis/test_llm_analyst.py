"""The LLM analyst's answers, from a real HTTP server that speaks the OpenAI-compatible protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_ibkr_plugin.analysis.prompts import TREND_FOLLOWING
from airflow_ibkr_plugin.errors import BadBars, Family, InvalidSignal
from airflow_ibkr_plugin.trading.signals import Action


def test_a_good_answer_becomes_a_signal(server: Any, question: Any) -> None:
    server.fills_in(**question.reply())
    answer = question.ask()
    assert answer.signal.action is Action.BUY
    assert answer.signal.symbol == "SPXSIM"
    assert answer.signal.as_of == question.bars[-1].time
    assert answer.signal.stop == pytest.approx(question.bars[-1].close * 0.97)
    assert answer.signal.analyst == "llm:openai:some-model-2026-01"
    assert answer.model == "openai:some-model-2026-01"
    assert answer.usage == {"requests": 1.0, "input_tokens": 900.0, "output_tokens": 60.0}


def test_the_chart_goes_as_an_image_and_its_place_stays_here(server: Any, question: Any) -> None:
    server.fills_in(**question.reply())
    question.ask()
    (request,) = server.requests
    user = next(m for m in request["messages"] if m["role"] == "user")
    images = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    assert images == ["data:image/png;base64," + question.png_base64]
    texts = [part["text"] for part in user["content"] if part["type"] == "text"]
    assert f"last close {question.bars[-1].close:.2f}" in texts[0]
    assert "secret-folder" not in json.dumps(request)
    assert request["model"] == "some-model"
    assert [m["content"] for m in request["messages"] if m["role"] == "system"] == [TREND_FOLLOWING.text]


def test_raw_keeps_the_words_and_not_the_picture_or_the_key(server: Any, question: Any) -> None:
    server.fills_in(**question.reply())
    raw = question.ask().raw
    assert question.key not in raw
    assert question.png_base64 not in raw
    chart = json.loads(raw)[0]["parts"][0]["content"][1]
    assert chart == {"kind": "image", "sha256": question.sha256, "url": question.url}
    assert "Higher highs above a rising average." in raw


def test_usage_is_not_invented_where_the_server_reports_none(server: Any, question: Any) -> None:
    server.says(json.dumps(question.reply()), usage=False)
    assert question.ask().usage == {"requests": 1.0}


def test_json_in_a_fence_between_prose_is_read(server: Any, question: Any) -> None:
    server.says(f"Here you are:\n```json\n{json.dumps(question.reply())}\n```\nGood luck!")
    assert question.ask().signal.action is Action.BUY


def test_hold_needs_no_levels(server: Any, question: Any) -> None:
    server.fills_in(symbol="SPXSIM", action="hold", confidence=0.5, rationale="A range.")
    signal = question.ask().signal
    assert (signal.action, signal.entry, signal.stop, signal.target) == (Action.HOLD, None, None, None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"action": "strong buy"}, "'buy', 'sell' or 'hold'"),
        ({"confidence": 7}, "less than or equal to 1"),
        ({"symbol": "NVDA"}, "symbol is 'NVDA', the chart shows 'SPXSIM'"),
        ({"stop": 1e9}, "more than 50% away"),
        ({"rationale": None}, "rationale"),
        ({"horizon_days": 0}, "horizon_days"),
    ],
    ids=["action", "confidence", "symbol", "level", "rationale", "horizon"],
)
def test_a_fault_is_told_to_the_model_which_may_mend_it(
    server: Any, question: Any, changes: dict[str, Any], told: str
) -> None:
    server.fills_in(**question.reply(**changes))
    server.fills_in(**question.reply())
    answer = question.ask()
    assert answer.signal.symbol == "SPXSIM"
    assert len(server.requests) == 2
    # Behind the instructions, the question and the faulty answer stands what was wrong with it.
    assert told in json.dumps(server.requests[1]["messages"][3:])
    assert answer.usage["requests"] == 2


def test_malformed_text_is_told_too(server: Any, question: Any) -> None:
    server.says('{"symbol": "SPXSIM", "action": ')
    server.fills_in(**question.reply())
    assert question.ask().signal.action is Action.BUY
    assert len(server.requests[1]["messages"]) > len(server.requests[0]["messages"])


def test_levels_on_the_wrong_side_are_told_and_then_an_invalid_signal(server: Any, question: Any) -> None:
    close = question.bars[-1].close
    server.fills_in(**question.reply(stop=close * 1.1, target=close * 0.9))
    with pytest.raises(InvalidSignal) as caught:
        question.ask()
    assert len(server.requests) == 3
    feedback = json.dumps(server.requests[1]["messages"][3:])
    assert feedback.count("wrong side of the entry") == 2
    assert "Higher highs above a rising average." in caught.value.raw


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("says", {"content": "I think it may go up. Or down."}),
        ("says", {"content": ""}),
        ("says", {"content": "I cannot give financial advice."}),
        ("fills_in", {"nonsense": True}),
        ("serves", {"status": 200, "body": "<html>Welcome to our proxy</html>"}),
    ],
    ids=["prose", "empty", "refusal in words", "wrong form", "html"],
)
def test_what_stays_invalid_is_no_signal(server: Any, question: Any, method: str, arguments: dict[str, Any]) -> None:
    getattr(server, method)(**arguments)
    with pytest.raises(InvalidSignal) as caught:
        question.ask()
    assert caught.value.family is Family.RETRY
    assert len(server.requests) <= 3
    assert json.loads(caught.value.raw)
    assert question.png_base64 not in caught.value.raw


def test_parameters_reach_the_model(server: Any, question: Any) -> None:
    server.fills_in(**question.reply())
    question.ask(max_tokens=1234, temperature=0.3)
    (request,) = server.requests
    assert request["max_completion_tokens"] == 1234
    assert request["temperature"] == 0.3


def test_no_bars_are_no_question(server: Any, question: Any) -> None:
    with pytest.raises(BadBars, match="no bars of SPXSIM"):
        type(question)([]).ask()
    assert server.requests == []
