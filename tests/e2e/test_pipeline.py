"""The main job through every floor: YAML, DAG, operators, broker seam, real socket, trading database, outbox."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.registry import get_registry
from airflow_ibkr_plugin.store.account_snapshots import AccountSnapshots
from airflow_ibkr_plugin.store.charts import Charts
from airflow_ibkr_plugin.store.database import open_database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.failures import Failures
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.store.runs import Runs
from airflow_ibkr_plugin.store.signals import Signals
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox
from airflow_ibkr_plugin.workflows.builder import build_dag
from airflow_ibkr_plugin.workflows.checks import Checker
from airflow_ibkr_plugin.workflows.loader import load_text
from airflow_ibkr_plugin.workflows.model import canonical

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("installation")]

WORKFLOW = """\
id: {id}
symbols: {symbols}
defaults: {{retries: 0}}
tasks:
  auth: {{type: auth}}
  market_open: {{type: market_open, needs: [auth]}}
  market_data:
    type: market_data
    for_each: symbol
    needs: [market_open]
    parameters: {{duration: 6 M}}
  chart: {{type: chart, for_each: symbol, needs: [market_data], parameters: {{bars: 60}}}}
  signal:
    type: signal
    for_each: symbol
    needs: [chart]
    parameters: {{analyst: rules, prompt: trend_following}}
  order:
    type: order
    for_each: symbol
    needs: [signal]
    parameters: {{sizing: {{quantity: 10}}, allow_short: true}}
  portfolio: {{type: portfolio, needs: [order]}}
risk:
  order_notional: {{max: {max_notional}}}
  trading_hours: {{}}
"""


def build(dag_id: str, symbols: str, *, max_notional: int = 1_000_000) -> Any:
    yaml = WORKFLOW.format(id=dag_id, symbols=symbols, max_notional=max_notional)
    (loaded,) = load_text(yaml.encode(), Path(f"{dag_id}.yaml"), Checker(get_registry()))
    assert loaded.workflow is not None, loaded.error
    return build_dag(canonical(loaded.workflow.config), origin=f"{dag_id}.yaml")


def order_refs(gateway: Any) -> list[str]:
    """What the broker has, whoever sent it."""
    return sorted(order["order_ref"] for order in gateway.control("orders")["orders"])


def test_a_run_trades_and_leaves_everything_on_record(run_dag: Callable[..., Any], gateway: Any) -> None:
    result = run_dag(build("whole", "[AAPL, XSPX, EUR.USD]"))
    assert result.state == "success", result.tasks
    with open_database().read() as session:
        run = Runs(session).get("whole", result.run_id)
        signals = {s.symbol: s for s in Signals(session).for_run("whole", result.run_id)}
        intents = {i.symbol: i for i in Intents(session).for_run("whole", result.run_id)}
        fills = Executions(session).for_run("whole", result.run_id)
        decisions = RiskDecisions(session).for_run("whole", result.run_id)
        charts = {c.symbol: c for c in Charts(session).for_run("whole", result.run_id)}
        snapshot = AccountSnapshots(session).for_run("whole", result.run_id)[-1]
        waiting = {row.kind for row in TrackingOutbox(session).pending(None, "whole", result.run_id, limit=1000)}
        held = {p.symbol: p.quantity for p in Positions(session).list(strategy="whole") if p.quantity}
    assert (run.state, run.simulated_clock, run.source) == ("success", True, "simulator:ibkr_default")
    assert set(signals) == set(charts) == {"AAPL", "XSPX", "EUR.USD"}
    assert not any(s.is_llm for s in signals.values())
    wanted = {symbol: s.action for symbol, s in signals.items() if s.action != "hold"}
    assert wanted, "every symbol held: choose a livelier seed, or this test shows nothing"
    assert {symbol: str(intent.state) for symbol, intent in intents.items()} == dict.fromkeys(wanted, "filled")
    sign = {"buy": 1, "sell": -1}
    assert held == {symbol: Decimal(10) * sign[action] for symbol, action in wanted.items()}
    assert {p["symbol"]: Decimal(p["quantity"]) for p in snapshot.positions} == held
    assert {f.symbol for f in fills} == set(wanted)
    assert {d.rule for d in decisions} >= {"order_notional", "trading_hours"}
    # Nobody answers at MLflow's address: every record waits, none is lost, and trading went on.
    assert waiting >= {"begin", "params", "metrics", "tags", "artifact", "end"}
    # The broker has exactly the orders that the book has.
    assert order_refs(gateway) == sorted(i.order_ref for i in intents.values())


def test_an_unknown_symbol_fails_alone_and_clearly(run_dag: Callable[..., Any]) -> None:
    result = run_dag(build("partial", "[NOSUCH, AAPL]"))
    assert result.state == "failed"
    assert result.tasks["symbol.market_data", 0] == "failed"
    assert result.tasks["symbol.order", 1] == "success"
    assert result.tasks["portfolio", -1] == "success"
    with open_database().read() as session:
        failure, of_run = Failures(session).for_run("partial", result.run_id)
        run = Runs(session).get("partial", result.run_id)
    assert "NOSUCH" in failure.message
    assert (failure.family, failure.error_type) == ("fatal", "UnknownContract")
    assert run.state == "failed"
    assert (of_run.task_id, of_run.error_type) != (failure.task_id, failure.error_type)


def test_clearing_the_order_task_sends_nothing_twice(run_dag: Callable[..., Any], gateway: Any) -> None:
    dag = build("again", "[AAPL, MSFT, IBM, KO]")
    when = datetime(2026, 1, 2, tzinfo=UTC)
    first = run_dag(dag, logical_date=when, run_after=when)
    refs = order_refs(gateway)
    assert refs
    second = run_dag(dag, logical_date=when, run_after=when)
    assert second.run_id == first.run_id
    assert second.state == "success"
    assert order_refs(gateway) == refs


def test_cleared_after_a_person_raised_the_generation_one_symbol_trades_once_more(
    run_dag: Callable[..., Any], gateway: Any
) -> None:
    dag = build("once_more", "[AAPL, MSFT, IBM, KO]")
    when = datetime(2026, 1, 2, tzinfo=UTC)
    first = run_dag(dag, logical_date=when, run_after=when)
    refs = order_refs(gateway)
    with open_database().read() as session:
        symbol = Intents(session).for_run("once_more", first.run_id)[0].symbol
    line = [AIRFLOW, "ibkr", "orders", "again", "once_more", first.run_id, "symbol.order"]
    done = subprocess.run([*line, "--symbol", symbol, "--reason", "drill"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for _ in range(2):  # what was raised is used once
        assert run_dag(dag, logical_date=when, run_after=when).state == "success"
        assert len(order_refs(gateway)) == len(refs) + 1
    with open_database().read() as session:
        intents = [row for row in Intents(session).for_run("once_more", first.run_id) if row.symbol == symbol]
    assert [(row.generation, str(row.state)) for row in intents] == [(0, "filled"), (1, "filled")]


def test_risk_denies_and_nothing_is_sent(run_dag: Callable[..., Any], gateway: Any) -> None:
    result = run_dag(build("denied", "[AAPL, MSFT, IBM]", max_notional=1))
    assert result.state == "success"
    with open_database().read() as session:
        intents = Intents(session).for_run("denied", result.run_id)
        assert not Failures(session).for_run("denied", result.run_id)
    assert intents
    assert {str(i.state) for i in intents} == {"denied"}
    assert order_refs(gateway) == []
