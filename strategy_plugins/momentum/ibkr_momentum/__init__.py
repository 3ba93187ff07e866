"""Momentum: a prompt that looks for breakouts, and a rule that only lets convinced, fresh signals become orders."""

from __future__ import annotations

from airflow_ibkr_plugin.hookspecs import hookimpl
from airflow_ibkr_plugin.trading.analysts import Prompt
from airflow_ibkr_plugin.trading.risk import RiskRule
from ibkr_momentum.prompt import BREAKOUT
from ibkr_momentum.rule import CONVICTION


@hookimpl
def ibkr_prompts() -> list[Prompt]:
    """The prompts of this package."""
    return [BREAKOUT]


@hookimpl
def ibkr_risk_rules() -> list[RiskRule]:
    """The risk rules of this package."""
    return [CONVICTION]
