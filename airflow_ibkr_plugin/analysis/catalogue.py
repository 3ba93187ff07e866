"""What is built in, as the hooks hand it over. Importing this is cheap: factories import what they build."""

from __future__ import annotations

from airflow_ibkr_plugin.analysis import parameters
from airflow_ibkr_plugin.analysis.prompts import MEAN_REVERSION, TREND_FOLLOWING
from airflow_ibkr_plugin.trading.analysts import Analyst, AnalystType, Prompt


def prompts() -> list[Prompt]:
    """The built-in signal prompts."""
    return [TREND_FOLLOWING, MEAN_REVERSION]


def analysts() -> list[AnalystType]:
    """The built-in analysts: `rules` (offline, no LLM) and `llm`."""
    return [
        AnalystType(
            name="rules",
            factory=_rules,
            parameters=parameters.RULES,
            is_llm=False,
            description="Fixed rules over the bars, offline. Not an LLM; does not look at the picture.",
        ),
        AnalystType(
            name="llm",
            factory=_llm,
            parameters=parameters.LLM,
            is_llm=True,
            description="A multimodal LLM through an Airflow connection of type `pydanticai`.",
        ),
    ]


def _rules() -> Analyst:
    from airflow_ibkr_plugin.analysis.rules_analyst import RulesAnalyst

    return RulesAnalyst()


def _llm() -> Analyst:
    from airflow_ibkr_plugin.analysis.llm_analyst import LLMAnalyst

    return LLMAnalyst()
