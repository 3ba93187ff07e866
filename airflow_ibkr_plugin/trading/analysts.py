"""What an analyst is asked and what it answers; the contract that packages implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.signals import Signal


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A signal prompt as a package registers it.

    :param name: unique; third parties prefix it with their package: `momentum.breakout`.
    :param text: instructions for the analyst; sent as they are, never formatted with market data.
    """

    name: str
    text: str
    version: str = "1"
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class AnalysisRequest:
    """One question to an analyst.

    :param bars: oldest first, the same that the chart shows.
    :param chart_png: the picture, as loaded from storage; its sha256 was checked.
    :param parameters: the analyst's own parameters from the workflow, valid by its schema.
    :param connection_id: Airflow connection of the analyst where it needs one ('' if not).
    """

    symbol: str
    bars: Sequence[Bar]
    bar_size: str
    chart_png: bytes
    chart_url: str
    chart_sha256: str
    prompt: Prompt
    as_of: datetime
    parameters: Mapping[str, Any] = field(default_factory=dict)
    connection_id: str = ""


@dataclass(frozen=True, kw_only=True)
class AnalystAnswer:
    """What an analyst answered.

    :param raw: the answer word for word (JSON text of all messages for an LLM), images replaced by their hash.
    :param usage: measured usage such as tokens; empty where nothing was measured, never invented.
    """

    signal: Signal
    raw: str
    model: str
    usage: Mapping[str, float] = field(default_factory=dict)


class Analyst(Protocol):
    """Turns a chart into a signal.

    :raises AnalystError: (or a subclass, by family) when no valid signal can be had; never a guess.
    """

    def analyse(self, request: AnalysisRequest) -> AnalystAnswer: ...


@dataclass(frozen=True, kw_only=True)
class AnalystType:
    """An analyst as a package registers it.

    :param factory: called in the worker, inside execute(); heavy imports belong into it.
    :param is_llm: shown to people; an analyst that is no LLM says so.
    """

    name: str
    factory: Callable[[], Analyst]
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "additionalProperties": False})
    is_llm: bool = False
    description: str = ""
