"""The rules about one order, its signal, and the orders around it, by example; see `test_risk_conformance.py` too."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import jsonschema
import pytest

from airflow_ibkr_plugin.testing.risk import risk_context
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext
from airflow_ibkr_plugin.trading.risk_facts import OpenOrder, OrderHistory, PastOrder
from airflow_ibkr_plugin.trading.risk_order_rules import rules

RULES = {rule.name: rule for rule in rules()}
GOOD = risk_context()
SPY = GOOD.instrument


def outcome(name: str, context: RiskContext, **parameters: Any) -> Outcome:
    jsonschema.validate(parameters, RULES[name].parameters)
    return RULES[name].check(context, parameters).outcome


def working(count: int, **changes: Any) -> RiskContext:
    order = OpenOrder(strategy="s", instrument=SPY, side=Side.BUY, remaining=Decimal(1))
    return replace(GOOD, open_orders=(replace(order, **changes),) * count)


def after(*ages: float, seconds: float = 3600, **changes: Any) -> RiskContext:
    """The good order, after others just like it."""
    before = PastOrder(
        strategy="s",
        con_id=SPY.con_id,
        side=Side.BUY,
        quantity=Decimal(10),
        limit_price=None,
        stop_price=None,
        age=0,
    )
    orders = tuple(replace(before, age=age, **changes) for age in ages)
    return replace(GOOD, history=OrderHistory(orders=orders, seconds=seconds))


def test_order_quantity_clamps_to_whole_increments_or_denies() -> None:
    check = RULES["order_quantity"].check
    assert check(GOOD, {"max": 10}).outcome is Outcome.ALLOW
    verdict = check(GOOD, {"max": 7.5})
    assert (verdict.outcome, verdict.quantity) == (Outcome.CLAMP, 7)
    assert check(GOOD, {"max": 0.5}).outcome is Outcome.DENY


@pytest.mark.parametrize(
    ("count", "changes", "expected"),
    [
        (19, {}, Outcome.ALLOW),
        (20, {}, Outcome.DENY),
        (20, {"strategy": "other"}, Outcome.DENY),
        (20, {"side": Side.SELL}, Outcome.ALLOW),
        (20, {"instrument": replace(SPY, con_id=1)}, Outcome.ALLOW),
    ],
)
def test_ibkr_takes_twenty_open_orders_of_a_contract_and_side(
    count: int, changes: dict[str, Any], expected: Outcome
) -> None:
    assert outcome("open_orders", working(count, **changes)) is expected


@pytest.mark.parametrize(("count", "expected"), [(18, Outcome.ALLOW), (19, Outcome.DENY)])
def test_the_exits_of_a_bracket_count_on_their_side(count: int, expected: Outcome) -> None:
    other_side = replace(working(count, side=Side.SELL), exits=2)
    assert outcome("open_orders", other_side) is expected
    assert outcome("open_orders", replace(other_side, exits=0)) is Outcome.ALLOW


def test_a_strategy_can_have_fewer_open_orders_in_whatever_instrument() -> None:
    elsewhere = {"instrument": replace(SPY, con_id=1), "side": Side.SELL}
    assert outcome("open_orders", working(1, **elsewhere), max=2) is Outcome.ALLOW
    assert outcome("open_orders", working(2, **elsewhere), max=2) is Outcome.DENY
    assert outcome("open_orders", working(2, strategy="other"), max=2) is Outcome.ALLOW
    assert outcome("open_orders", working(20), max=50) is Outcome.DENY


def test_order_rate_counts_the_strategy_and_the_account() -> None:
    assert outcome("order_rate", after(10, 60), seconds=60, max=3) is Outcome.ALLOW
    assert outcome("order_rate", after(0, 10, 60), seconds=60, max=3) is Outcome.DENY
    assert outcome("order_rate", after(0, 10, 60.1), seconds=60, max=3) is Outcome.ALLOW
    others = after(0, 10, 60, strategy="other")
    assert outcome("order_rate", others, seconds=60, max=3) is Outcome.ALLOW
    assert outcome("order_rate", others, seconds=60, max_account=3) is Outcome.DENY
    assert outcome("order_rate", others, seconds=60, max=3, max_account=4) is Outcome.ALLOW


@pytest.mark.parametrize("parameters", [{"seconds": 60}, {"max": 3}, {"seconds": 3601, "max": 3}])
def test_order_rate_needs_a_time_it_can_see_and_a_limit(parameters: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parameters, RULES["order_rate"].parameters)


@pytest.mark.parametrize(("name", "more"), [("order_rate", {"max": 3}), ("duplicate_order", {})])
def test_a_history_that_does_not_reach_back_so_far_denies(name: str, more: dict[str, Any]) -> None:
    assert outcome(name, after(seconds=60), seconds=60, **more) is Outcome.ALLOW
    assert outcome(name, after(seconds=59), seconds=60, **more) is Outcome.DENY


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Outcome.DENY),
        ({"strategy": "other"}, Outcome.ALLOW),
        ({"con_id": 1}, Outcome.ALLOW),
        ({"side": Side.SELL}, Outcome.ALLOW),
        ({"quantity": Decimal(11)}, Outcome.ALLOW),
        ({"limit_price": Decimal(100)}, Outcome.ALLOW),
        ({"stop_price": Decimal(100)}, Outcome.ALLOW),
    ],
)
def test_a_duplicate_is_the_same_in_everything(changes: dict[str, Any], expected: Outcome) -> None:
    assert outcome("duplicate_order", after(60, **changes), seconds=60) is expected
    assert outcome("duplicate_order", after(60.1, **changes), seconds=60) is Outcome.ALLOW


def test_a_duplicate_is_found_by_what_was_asked_for_whatever_it_was_clamped_to() -> None:
    clamped = replace(after(1), ticket=replace(GOOD.ticket, quantity=Decimal(4)))
    assert outcome("duplicate_order", clamped, seconds=60) is Outcome.DENY
    assert outcome("duplicate_order", replace(clamped, requested=Decimal(4)), seconds=60) is Outcome.ALLOW


@pytest.mark.parametrize("entry", ["SPY", "spy", SPY.con_id])
def test_lists_name_instruments_or_contracts(entry: object) -> None:
    assert outcome("allow_list", GOOD, instruments=["QQQ", entry]) is Outcome.ALLOW
    assert outcome("restricted_list", GOOD, instruments=["QQQ", entry]) is Outcome.DENY
    assert outcome("allow_list", GOOD, instruments=["QQQ", 1]) is Outcome.DENY
    assert outcome("restricted_list", GOOD, instruments=["QQQ", 1]) is Outcome.ALLOW


def test_forex_is_listed_by_its_pair() -> None:
    euro = InstrumentSpec.parse("EUR.USD")
    spec = {name: getattr(euro, name) for name in ("symbol", "currency", "sec_type", "exchange")}
    pair = replace(GOOD, instrument=replace(SPY, **spec))
    assert outcome("restricted_list", pair, instruments=["EUR.USD"]) is Outcome.DENY
    assert outcome("restricted_list", pair, instruments=["EUR"]) is Outcome.ALLOW


def test_the_signal_must_be_confident_and_young() -> None:
    assert GOOD.signal is not None
    for confidence, expected in ((0.6, Outcome.ALLOW), (0.59, Outcome.DENY)):
        context = replace(GOOD, signal=replace(GOOD.signal, confidence=confidence))
        assert outcome("minimum_confidence", context, min=0.6) is expected
    for age, expected in ((60, Outcome.ALLOW), (61, Outcome.DENY), (-61, Outcome.DENY)):
        context = replace(GOOD, signal=replace(GOOD.signal, as_of=GOOD.now - timedelta(seconds=age)))
        assert outcome("signal_age", context, max_seconds=60) is expected


@pytest.mark.parametrize(
    ("name", "parameters", "unknown"),
    [
        ("open_orders", {}, "open_orders"),
        ("order_rate", {"seconds": 60, "max": 3}, "history"),
        ("duplicate_order", {"seconds": 60}, "history"),
        ("duplicate_order", {"seconds": 60}, "requested"),
        ("minimum_confidence", {"min": 0}, "signal"),
        ("signal_age", {"max_seconds": 60}, "signal"),
    ],
)
def test_what_is_not_known_denies(name: str, parameters: dict[str, Any], unknown: str) -> None:
    assert outcome(name, replace(GOOD, **{unknown: None}), **parameters) is Outcome.DENY
