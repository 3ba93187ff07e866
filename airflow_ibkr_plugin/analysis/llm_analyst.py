"""The LLM analyst: a multimodal model through the Airflow connection `pydanticai`. Imported by its factory only.

The model sees the picture and the bars, and fills in a form. Symbol, side and levels are fields of that form, checked
here against the market; nothing that it writes reaches an order in any other way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.ai.hooks.pydantic_ai import PydanticAIHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException
from pydantic import BaseModel, Field
from pydantic_ai import BinaryContent, ModelRetry, UsageLimits, capture_run_messages
from pydantic_ai.exceptions import AgentRunError, FallbackExceptionGroup, UserError
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.settings import ModelSettings

from airflow_ibkr_plugin.analysis import parameters
from airflow_ibkr_plugin.analysis.llm_outcomes import to_error
from airflow_ibkr_plugin.analysis.question import describe
from airflow_ibkr_plugin.errors import AnalystError, InvalidSignal
from airflow_ibkr_plugin.trading.analysts import AnalysisRequest, AnalystAnswer
from airflow_ibkr_plugin.trading.signals import Action, Signal, validate_signal

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.models import Model
    from pydantic_ai.run import AgentRunResult

DEFAULT_CONNECTION = "pydanticai_default"
# Second chances after an invalid answer, each told what was wrong.
RETRIES = 2
# A guard above what the retries allow, so that it only ends a run that goes astray.
_REQUEST_LIMIT = RETRIES + 2
# The server chooses the model's reported name, and it goes into our tables.
_LONGEST_MODEL_NAME = 100


class Reply(BaseModel):
    """Your conclusion about the one instrument on the chart."""

    symbol: str = Field(description="Exactly the symbol that you were asked about.")
    action: Literal["buy", "sell", "hold"]
    confidence: float = Field(ge=0, le=1, allow_inf_nan=False, description="0 to 1.")
    entry: float | None = Field(None, gt=0, allow_inf_nan=False, description="Price to enter at.")
    stop: float | None = Field(None, gt=0, allow_inf_nan=False, description="Price at which the view is wrong.")
    target: float | None = Field(None, gt=0, allow_inf_nan=False, description="Price to take profit at.")
    horizon_days: int | None = Field(None, ge=1, le=3650, description="Calendar days until the view has played out.")
    rationale: str = Field(max_length=2000, description="Two or three sentences: what on the chart says so.")


class LLMAnalyst:
    """Asks a model once, with two second chances and one deadline. Parameters: `parameters.LLM`."""

    def analyse(self, request: AnalysisRequest) -> AnalystAnswer:
        """Ask the model for a signal.

        :raises AnalystError: asking again cannot help: connection, key, model, quota, refusal, length.
        :raises AnalystUnavailable: rate limit, outage or deadline; carries `retry_after` in seconds.
        :raises InvalidSignal: the answers stayed invalid, also after being told why.
        :raises BadBars: there are no bars to ask about.
        """
        p = parameters.with_defaults(parameters.LLM, request.parameters)
        text = describe(request)
        connection_id = request.connection_id or DEFAULT_CONNECTION
        with capture_run_messages() as messages:
            try:
                agent = _agent(request, connection_id, p)
                result = agent.run_sync(
                    [text, BinaryContent(request.chart_png, media_type="image/png")],
                    # The only true deadline: the client's own timeout starts again with every byte received.
                    timeout=p["timeout_seconds"],
                    usage_limits=UsageLimits(request_limit=_REQUEST_LIMIT, total_tokens_limit=p["max_total_tokens"]),
                )
            except (AgentRunError, UserError, FallbackExceptionGroup) as error:
                raise to_error(error, connection_id=connection_id, raw=_raw(messages, request)) from error
        model = f"{result.response.provider_name or 'unknown'}:{result.response.model_name}"[:_LONGEST_MODEL_NAME]
        return AnalystAnswer(
            signal=_signal(result.output, request, f"llm:{model}"),
            raw=_raw(result.all_messages(), request),
            model=model,
            usage=_usage(result),
        )


def _agent(request: AnalysisRequest, connection_id: str, p: dict[str, Any]) -> Agent[object, Reply]:
    try:
        hook = PydanticAIHook.get_hook(connection_id)
        models = _models(hook.get_conn())
    except AirflowNotFoundException as error:
        raise AnalystError(
            f"there is no Airflow connection {connection_id!r}.",
            remedy="Create it with type `pydanticai`, see docs/analysts.md.",
        ) from error
    except (ValueError, AirflowException) as error:
        raise AnalystError(
            f"connection {connection_id!r} cannot be used: {error}",
            remedy="Correct it: type `pydanticai`, and `model` such as `openai-chat:gpt-5` in its extra.",
        ) from error
    except ImportError as error:
        raise AnalystError(
            f"the library for the model of connection {connection_id!r} is not installed: {error}",
            remedy="Install the extra of pydantic-ai-slim that it names on every worker.",
        ) from error
    if any(isinstance(model, TestModel) for model in models):
        raise AnalystError(
            f"connection {connection_id!r} names the model `test`, which makes its answers up.",
            remedy="Name a real model; for signals without an LLM use the analyst `rules`.",
        )
    agent: Agent[object, Reply] = hook.create_agent(
        output_type=Reply,
        instructions=request.prompt.text,
        retries=RETRIES,
        model_settings=ModelSettings(
            timeout=p["timeout_seconds"] / len(models),
            max_tokens=p["max_tokens"],
            temperature=p["temperature"],
            # Airflow owns waiting: the client would sleep through Retry-After in a worker's slot.
            max_retries=0,
        ),
    )

    @agent.output_validator
    def consistent(reply: Reply) -> Reply:
        try:
            _signal(reply, request, "llm")
        except InvalidSignal as error:
            raise ModelRetry(error.message) from error
        return reply

    return agent


def _models(model: Model) -> Sequence[Model]:
    """The model itself, or all of a fallback chain."""
    return model.models if isinstance(model, FallbackModel) else [model]


def _signal(reply: Reply, request: AnalysisRequest, analyst: str) -> Signal:
    """:raises InvalidSignal: the reply contradicts itself, the market or the question."""
    signal = Signal(
        symbol=reply.symbol,
        action=Action(reply.action),
        confidence=reply.confidence,
        as_of=request.as_of,
        analyst=analyst,
        entry=reply.entry,
        stop=reply.stop,
        target=reply.target,
        horizon_days=reply.horizon_days,
        rationale=reply.rationale,
    )
    return validate_signal(signal, reference_price=request.bars[-1].close, symbol=request.symbol)


def _usage(result: AgentRunResult[Reply]) -> dict[str, float]:
    """Requests as we count them; tokens only where the server reported any."""
    usage = result.usage
    tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {"requests": float(usage.requests), **{name: float(n) for name, n in tokens.items() if n}}


def _raw(messages: Sequence[ModelMessage], request: AnalysisRequest) -> str:
    """All messages word for word as JSON; the picture by its hash and place."""
    dumped = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    chart = {"kind": "image", "sha256": request.chart_sha256, "url": request.chart_url}

    def without_pictures(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("kind") == "binary":
                return chart
            return {key: without_pictures(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [without_pictures(inner) for inner in value]
        return value

    return json.dumps(without_pictures(dumped), ensure_ascii=False)
