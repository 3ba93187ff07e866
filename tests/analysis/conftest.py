"""Bars to draw, and an OpenAI-compatible server behind a real Airflow connection."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from airflow_ibkr_plugin.analysis.catalogue import analysts
from airflow_ibkr_plugin.analysis.prompts import TREND_FOLLOWING
from airflow_ibkr_plugin.trading.analysts import AnalysisRequest, AnalystAnswer
from airflow_ibkr_plugin.trading.bars import Bar

API_KEY = "sk-not-a-real-key-4711"
CONNECTION = "llm_under_test"


def random_walk(count: int = 150, *, seed: int = 7, start: float = 100.0, volume: float = 1e6) -> list[Bar]:
    """Daily bars on weekdays, so with gaps in time, of a seeded random walk in cents."""
    rng, price, bars = random.Random(seed), start, []
    day = datetime(2024, 1, 1, tzinfo=UTC)
    while len(bars) < count:
        day += timedelta(days=1)
        if day.weekday() > 4:
            continue
        close = round(price * math.exp(rng.gauss(0, 0.01)), 2)
        high, low = round(max(price, close) * 1.004, 2), round(min(price, close) * 0.996, 2)
        bars.append(Bar(day, price, high, low, close, volume * rng.uniform(0.5, 1.5) if volume else 0.0))
        price = close
    return bars


@pytest.fixture
def bars() -> list[Bar]:
    return random_walk()


@pytest.fixture
def walk() -> Callable[..., list[Bar]]:
    """See :func:`random_walk`."""
    return random_walk


@dataclass
class ModelServer:
    """Answers /v1/chat/completions with the given answers in turn, the last one for ever; keeps what it was asked."""

    url: str
    answers: list[Callable[[], Response]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def handle(self, request: Request) -> Response:
        self.requests.append(request.get_json())
        return self.answers[min(len(self.requests), len(self.answers)) - 1]()

    def hangs(self) -> None:
        """Answers only when the test is over."""

        def answer() -> Response:
            self.released.wait()
            return Response(status=503)

        self.answers.append(answer)

    def drips(self) -> None:
        """Sends a byte now and then until the test is over, which no timeout of a single read notices."""

        def answer() -> Response:
            def body() -> Iterator[bytes]:
                while not self.released.wait(0.05):
                    yield b" "

            return Response(body(), mimetype="application/json")

        self.answers.append(answer)

    def serves(self, status: int, body: object, **headers: str) -> None:
        """A response of this status; a body that is no text goes as JSON."""
        text, kind = (body, "text/html") if isinstance(body, str) else (json.dumps(body), "application/json")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(lambda: Response(text, status, named, mimetype=kind))

    def fails(self, status: int, code: str = "", message: str = "oops", **headers: str) -> None:
        """An error as OpenAI words it."""
        self.serves(status, {"error": {"message": message, "code": code or None}}, **headers)

    def says(self, content: str | None, *, finish: str = "stop", usage: bool = True, **message: Any) -> None:
        """A completion with this text."""
        choice = {
            "index": 0,
            "finish_reason": finish,
            "message": {"role": "assistant", "content": content, **message},
        }
        body: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "some-model-2026-01",
            "choices": [choice],
        }
        if usage:
            body["usage"] = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}
        self.serves(200, body)

    def fills_in(self, **reply: Any) -> None:
        """A completion that calls the form with these fields."""
        function = {"name": "final_result", "arguments": json.dumps(reply)}
        calls = [{"id": "call_1", "type": "function", "function": function}]
        self.says(None, finish="tool_calls", tool_calls=calls)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Defines an Airflow connection by its environment variable."""

    def define(*, conn_id: str = CONNECTION, **fields: Any) -> None:
        value = {"conn_type": "pydanticai", "password": API_KEY, "extra": {"model": "openai-chat:some-model"}, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(value))

    return define


@pytest.fixture
def server(connect: Callable[..., None]) -> Iterator[ModelServer]:
    """A model server, and the connection to it."""
    with HTTPServer(threaded=True) as http_server:
        model = ModelServer(http_server.url_for("/v1"))
        http_server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(model.handle)
        connect(host=model.url)
        yield model
        model.released.set()


@dataclass(frozen=True)
class Question:
    """A question to the LLM analyst, and what a good reply to it is."""

    bars: list[Bar]
    png: bytes = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    url: str = "s3://aws_default@charts/dag/secret-folder/SPXSIM.png"
    key: str = API_KEY

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.png).hexdigest()

    @property
    def png_base64(self) -> str:
        return base64.b64encode(self.png).decode()

    def ask(self, *, connection_id: str = CONNECTION, **parameters: Any) -> AnalystAnswer:
        analyst = next(a for a in analysts() if a.name == "llm").factory()
        return analyst.analyse(
            AnalysisRequest(
                symbol="SPXSIM",
                bars=self.bars,
                bar_size="1 day",
                chart_png=self.png,
                chart_url=self.url,
                chart_sha256=self.sha256,
                prompt=TREND_FOLLOWING,
                as_of=self.bars[-1].time if self.bars else datetime(2024, 1, 1, tzinfo=UTC),
                parameters=parameters,
                connection_id=connection_id,
            )
        )

    def reply(self, **changes: Any) -> dict[str, Any]:
        close = self.bars[-1].close
        return {
            "symbol": "SPXSIM",
            "action": "buy",
            "confidence": 0.7,
            "entry": close,
            "stop": close * 0.97,
            "target": close * 1.05,
            "horizon_days": 10,
            "rationale": "Higher highs above a rising average.",
            **changes,
        }


@pytest.fixture
def question(bars: list[Bar]) -> Question:
    return Question(bars)
