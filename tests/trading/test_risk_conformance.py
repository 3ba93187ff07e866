"""Every built-in rule keeps what `RiskRuleConformance` asks of anyone's."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_ibkr_plugin.testing.risk import RiskRuleConformance
from airflow_ibkr_plugin.trading.risk import RiskRule, allow, clamp, deny
from airflow_ibkr_plugin.trading.risk_rules import rules

PARAMETERS: dict[str, dict[str, Any]] = {
    "market_data": {"max_age_seconds": 60},
    "short_selling": {},
    "order_quantity": {"max": 100},
    "order_notional": {"max": 5000},
    "position_size": {"max_quantity": 100, "max_notional": 20_000},
    "price_collar": {"max_deviation": 0.05, "max_age_seconds": 30},
    "orders_per_day": {"max": 3, "max_account": 6},
    "concentration": {"max_share": 0.1},
    "gross_exposure": {"max": 30_000, "max_share": 0.2},
    "net_exposure": {"max": 20_000, "max_share": 0.3},
    "buying_power": {"min_excess": 1000},
    "daily_loss": {"max": 500, "max_share": 0.05},
    "strategy_loss": {"max": 300},
    "drawdown": {"max": 9000, "max_share": 0.1, "days": 30},
    "strategy_drawdown": {"max": 400, "days": 20},
    "cooldown": {"seconds": 3600},
    "order_rate": {"seconds": 60, "max": 3, "max_account": 5},
    "duplicate_order": {"seconds": 60},
    "open_orders": {"max": 4, "max_account": 6},
    "trading_hours": {},
    "allow_list": {"instruments": ["SPY"]},
    "restricted_list": {"instruments": ["QQQ"]},
    "minimum_confidence": {"min": 0.6},
    "signal_age": {"max_seconds": 86400},
}


@pytest.fixture(scope="session", autouse=True)
def every_rule_is_here() -> None:
    assert {rule.name for rule in rules()} == PARAMETERS.keys()


def conformance(name: str, rule: RiskRule, parameters: dict[str, Any]) -> type:
    return type(f"Test_{name}", (RiskRuleConformance,), {"rule": rule, "parameters": parameters})


for _rule in rules():
    globals()[f"Test_{_rule.name}"] = conformance(_rule.name, _rule, PARAMETERS[_rule.name])


# --- the base class finds what is wrong ---------------------------------------------------------------------


def odd(context: Any, parameters: Any) -> Any:
    return deny("odd") if context.ticket.quantity < 20 else allow()


def trusting(context: Any, parameters: Any) -> Any:
    if context.signal is None or not context.signal.confidence < 0.5:
        return allow()
    return deny("not sure")


def widening(context: Any, parameters: Any) -> Any:
    return clamp(context.ticket.quantity * 2, "more")


def restless(context: Any, parameters: Any) -> Any:
    parameters["seen"] = parameters.get("seen", 0) + 1
    return allow(observed=parameters["seen"])


def endless(context: Any, parameters: Any) -> Any:
    return allow(observed=sum(a is b for a in context.open_orders or () for b in context.open_orders or ()))


def heedless(context: Any, parameters: Any) -> Any:
    return deny("too large") if float(context.ticket.quantity) > parameters["max"] else allow()


@pytest.mark.parametrize(
    ("check", "test"),
    [
        (odd, "test_a_larger_order_gets_no_more"),
        (trusting, "test_knowing_less_allows_no_more"),
        (widening, "test_a_clamp_is_smaller_and_passes"),
        (restless, "test_it_answers_and_answers_again_the_same"),
        (endless, "test_its_work_is_bounded"),
        (heedless, "test_a_parameter_that_is_no_number_denies"),
        (lambda context, parameters: None, "test_it_answers_and_answers_again_the_same"),
        (lambda context, parameters: deny(""), "test_it_allows_its_example"),
    ],
)
def test_a_rule_that_breaks_it_is_found(check: Any, test: str) -> None:
    parameters = {"max": 100} if check is heedless else {}
    broken = conformance("broken", RiskRule(name="broken", check=check), parameters)()
    with pytest.raises((AssertionError, AttributeError, ExceptionGroup)):
        getattr(broken, test)()


def test_a_schema_that_takes_anything_is_found() -> None:
    rule = RiskRule(name="broken", check=lambda context, parameters: allow(), parameters={"type": "object"})
    with pytest.raises(pytest.fail.Exception):
        conformance("broken", rule, {})().test_its_schema_takes_the_parameters_and_no_others()
