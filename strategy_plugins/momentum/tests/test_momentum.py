"""The package as the plugin finds it, and its rule at the edges."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import EntryPoint, entry_points

import pytest
from jsonschema import Draft202012Validator

from airflow_ibkr_plugin.registry import ENTRY_POINT_GROUP, build_registry
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Quote
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext, evaluate
from airflow_ibkr_plugin.trading.signals import Action, Signal
from ibkr_momentum.rule import CONVICTION

NOW = datetime(2024, 3, 4, 15, 0, tzinfo=UTC)
PARAMETERS = {"min_confidence": 0.6, "max_age_days": 5}
SIGNAL = Signal(
    symbol="XSPX",
    action=Action.BUY,
    confidence=0.7,
    as_of=NOW - timedelta(days=3),
    analyst="rules",
    entry=100.0,
    stop=98.0,
    target=104.0,
)


def context(signal: Signal | None) -> RiskContext:
    fields = {
        "now": NOW,
        "strategy": "momentum_replay",
        "instrument": Instrument(symbol="XSPX", con_id=1, min_tick=Decimal("0.01")),
        "ticket": OrderTicket(side=Side.BUY, quantity=Decimal(1)),
        "quote": Quote(con_id=1, at=NOW, last=Decimal(100)),
        "account": AccountSnapshot(
            account="DU1", at=NOW, currency="USD", net_liquidation=Decimal(1), cash=Decimal(1), buying_power=Decimal(1)
        ),
        "position": Decimal(0),
        "reserved": Decimal(0),
        "orders_today": 0,
        "market_open": True,
        "signal": signal,
    }
    return RiskContext(**fields)


def outcome(signal: Signal | None, **parameters: float) -> Outcome:
    result = evaluate([(CONVICTION, {**PARAMETERS, **parameters})], context(signal))
    return result.decisions[0].verdict.outcome


def test_the_installed_package_is_found_and_offers_its_prompt_and_rule() -> None:
    found = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == "momentum"]
    assert [point.value for point in found] == ["ibkr_momentum"]
    registry = build_registry([EntryPoint("momentum", "ibkr_momentum", ENTRY_POINT_GROUP)])
    assert registry.packages[0].error == ""
    assert "momentum.breakout" in registry.prompts
    assert registry.owners["risk_rules", "momentum.conviction"] == "momentum"


def test_the_schema_is_a_schema_and_the_examples_values_fit() -> None:
    Draft202012Validator.check_schema(CONVICTION.parameters)
    assert Draft202012Validator(CONVICTION.parameters).is_valid(PARAMETERS)


@pytest.mark.parametrize(
    "signal",
    [
        SIGNAL,
        replace(SIGNAL, confidence=0.6),
        replace(SIGNAL, as_of=NOW - timedelta(days=5)),
        replace(SIGNAL, as_of=NOW),
        replace(SIGNAL, entry=None, stop=None, target=None),
    ],
)
def test_convinced_and_fresh_signals_pass(signal: Signal) -> None:
    assert outcome(signal) is Outcome.ALLOW


@pytest.mark.parametrize(
    "signal",
    [
        None,
        replace(SIGNAL, confidence=0.599),
        replace(SIGNAL, confidence=math.nan),
        replace(SIGNAL, as_of=NOW - timedelta(days=5, seconds=1)),
        replace(SIGNAL, as_of=NOW + timedelta(seconds=1)),
    ],
)
def test_weak_old_or_missing_signals_are_denied(signal: Signal | None) -> None:
    assert outcome(signal) is Outcome.DENY


def test_reward_to_risk_is_the_distance_of_target_over_that_of_stop_on_both_sides() -> None:
    short = replace(SIGNAL, action=Action.SELL, stop=102.0, target=96.0)
    for signal in (SIGNAL, short):
        assert outcome(signal, min_reward_to_risk=2.0) is Outcome.ALLOW
        assert outcome(signal, min_reward_to_risk=2.01) is Outcome.DENY
    assert outcome(replace(SIGNAL, target=None), min_reward_to_risk=0) is Outcome.DENY
    assert outcome(replace(SIGNAL, stop=100.0), min_reward_to_risk=0) is Outcome.DENY
