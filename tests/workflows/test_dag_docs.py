"""What people read on a DAG's page."""

from __future__ import annotations

from pathlib import Path

from airflow_ibkr_plugin.registry import Registry
from airflow_ibkr_plugin.workflows.checks import Checker
from airflow_ibkr_plugin.workflows.dag_docs import dag_docs
from airflow_ibkr_plugin.workflows.loader import load_text

TRADES = """\
id: trades
description: "Goes with the trend. \\n"
schedule: 35 9 * * MON-FRI
time_zone: America/New_York
connection: desk
mode: live
symbols: [SPY, {symbol: MSFT, primary_exchange: NASDAQ}]
risk:
  order_notional: {max: 1000}
tasks:
  fetch: {type: market_data, for_each: symbol}
  draw: {type: chart, for_each: symbol, needs: [fetch]}
  judge: {type: signal, for_each: symbol, needs: [draw], parameters: {analyst: rules, prompt: trend_following}}
  again: {type: signal, for_each: symbol, needs: [draw], parameters: {analyst: rules, prompt: trend_following}}
  ask: {type: signal, for_each: symbol, needs: [draw], parameters: {analyst: llm, prompt: mean_reversion}}
  trade: {type: order, for_each: symbol, needs: [judge], parameters: {sizing: {quantity: 1}}}
"""
WATCHES = "id: watches\ntasks: {p: {type: portfolio}}\n"


def docs(yaml: str, registry: Registry, checker: Checker, origin: str = "w.yaml") -> tuple[str, dict[str, str]]:
    """The text above the table, and the table."""
    (loaded,) = load_text(yaml.encode(), Path("w.yaml"), checker)
    assert loaded.workflow is not None, loaded.error
    above, table = dag_docs(loaded.workflow, registry, origin).split("\n\n| | |\n|---|---|\n")
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()]
    assert f"`{loaded.workflow.config_hash[:12]}` from " in table
    return above, {name: value for name, value in rows if name != "Configuration"}


def test_all_that_people_should_know_of_a_strategy(registry: Registry, checker: Checker) -> None:
    assert docs(TRADES, registry, checker) == (
        "Goes with the trend.",
        {
            "Mode": "**live**",
            "Symbols": "SPY, MSFT",
            "Schedule": "`35 9 * * MON-FRI` in America/New_York",
            "Connection": "`desk`",
            "Signals by": "`rules` (rules, not an LLM) with prompt `trend_following`; "
            "`llm` (an LLM) with prompt `mean_reversion`",
            "Orders": "yes",
            "Risk rules": "`order_notional`",
        },
    )


def test_what_a_strategy_does_not_have_is_said(registry: Registry, checker: Checker) -> None:
    assert docs(WATCHES, registry, checker) == (
        "",
        {
            "Mode": "**paper**",
            "Symbols": "none",
            "Schedule": "by hand only",
            "Connection": "`ibkr_default`",
            "Signals by": "nobody",
            "Orders": "**none: it observes**",
            "Risk rules": "only those of the installation",
        },
    )


def test_no_file_name_breaks_the_table(registry: Registry, checker: Checker) -> None:
    (loaded,) = load_text(WATCHES.encode(), Path("w.yaml"), checker)
    assert loaded.workflow is not None
    text = dag_docs(loaded.workflow, registry, "a|b\nc.yaml")
    assert text.splitlines()[-1].endswith("from `a\\|b c.yaml` |")
