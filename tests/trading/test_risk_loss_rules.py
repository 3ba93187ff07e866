"""The rules that stop after losses, by example; see `test_risk_conformance.py` too."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import jsonschema
import pytest

from airflow_ibkr_plugin.testing.risk import risk_context
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext
from airflow_ibkr_plugin.trading.risk_facts import Fill
from airflow_ibkr_plugin.trading.risk_loss_rules import rules

RULES = {rule.name: rule for rule in rules()}
GOOD = risk_context()  # in an account worth 100,000
PARAMETERS: dict[str, dict[str, Any]] = {
    "daily_loss": {"max": 500},
    "strategy_loss": {"max": 500},
    "cooldown": {"seconds": 60},
}


def outcome(name: str, context: RiskContext, **parameters: float) -> Outcome:
    chosen = parameters or PARAMETERS[name]
    jsonschema.validate(chosen, RULES[name].parameters)
    return RULES[name].check(context, chosen).outcome


def fill(profit: int | str | None, age: float = 0, *, today: bool = True, currency: str = "USD") -> Fill:
    return Fill(age=age, today=today, profit=None if profit is None else Decimal(profit), currency=currency)


def after(*fills: Fill, **changes: Any) -> RiskContext:
    return replace(GOOD, fills=fills, **changes)


@pytest.mark.parametrize(
    ("pnl", "parameters", "expected"),
    [
        ("-499.99", {"max": 500}, Outcome.ALLOW),
        ("-500", {"max": 500}, Outcome.DENY),
        ("9000", {"max": 500}, Outcome.ALLOW),
        ("-1999", {"max_share": 0.02}, Outcome.ALLOW),  # of the 101,999 that it was worth before
        ("-2041", {"max_share": 0.02}, Outcome.DENY),
        ("-2041", {"max_share": 0.02, "max": 5000}, Outcome.DENY),
        ("-501", {"max_share": 0.02, "max": 500}, Outcome.DENY),
        ("NaN", {"max": 500}, Outcome.DENY),
        ("-Infinity", {"max_share": 0.02}, Outcome.DENY),
    ],
)
def test_daily_loss_is_the_accounts(pnl: str, parameters: dict[str, float], expected: Outcome) -> None:
    assert outcome("daily_loss", replace(GOOD, daily_pnl=Decimal(pnl)), **parameters) is expected


def test_strategy_loss_adds_up_what_the_fills_of_the_day_realised() -> None:
    assert outcome("strategy_loss", after(fill(-300), fill(100), fill(-299))) is Outcome.ALLOW
    assert outcome("strategy_loss", after(fill(-300), fill(100), fill(-300))) is Outcome.DENY
    assert outcome("strategy_loss", after(fill(-300), fill(-300, today=False))) is Outcome.ALLOW
    assert outcome("strategy_loss", after(fill(-399, currency="EUR"))) is Outcome.ALLOW  # at 1.25
    assert outcome("strategy_loss", after(fill(-400, currency="EUR"))) is Outcome.DENY
    assert outcome("strategy_loss", after(fill(-1, currency="JPY"))) is Outcome.DENY  # no rate
    assert outcome("strategy_loss", after(fill(0, currency=""))) is Outcome.ALLOW  # opened a position


def test_a_cooldown_begins_with_each_loss() -> None:
    assert outcome("cooldown", after(fill(-1, 60))) is Outcome.DENY
    assert outcome("cooldown", after(fill(-1, 61), fill(1, 5))) is Outcome.ALLOW
    assert outcome("cooldown", after(fill(-1, 61), fill("NaN", 5))) is Outcome.DENY


@pytest.mark.parametrize("name", ["strategy_loss", "cooldown"])
def test_a_fill_whose_profit_is_not_known_denies(name: str) -> None:
    assert outcome(name, after(fill(None))) is Outcome.DENY
    assert outcome(name, after(fill(None, 90_000, today=False))) is Outcome.ALLOW
    assert outcome(name, replace(GOOD, fills=None)) is Outcome.DENY


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_position_can_be_closed_after_any_loss(name: str) -> None:
    lost = {"daily_pnl": Decimal(-9000), "fills": (fill(-9000),)}
    closing = risk_context(Side.SELL, "10", position=Decimal(10), **lost)
    assert outcome(name, closing) is Outcome.ALLOW
    assert outcome(name, replace(closing, daily_pnl=None, fills=None)) is Outcome.ALLOW
    assert outcome(name, replace(closing, position=Decimal(9))) is Outcome.DENY
    assert outcome(name, replace(closing, open_orders=None)) is Outcome.DENY
