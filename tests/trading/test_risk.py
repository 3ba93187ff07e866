"""The engine; the built-in rules have a file of their own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Quote
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext, RiskRule, Verdict, allow, clamp, deny, evaluate
from airflow_ibkr_plugin.trading.sizing import careful_arithmetic

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
CONTEXT = RiskContext(
    now=NOW,
    strategy="s",
    instrument=Instrument(symbol="SPY", con_id=1, min_tick=Decimal("0.01")),
    ticket=OrderTicket(side=Side.BUY, quantity=Decimal(100)),
    quote=Quote(con_id=1, at=NOW, last=Decimal(50)),
    account=AccountSnapshot(
        account="DU1", at=NOW, currency="USD", net_liquidation=Decimal(1), cash=Decimal(1), buying_power=Decimal(1)
    ),
    position=Decimal(0),
    reserved=Decimal(0),
    orders_today=0,
    market_open=True,
)


def rule(name: str, answer: Any, order: int = 100) -> tuple[RiskRule, dict[str, Any]]:
    return RiskRule(name=name, check=lambda context, parameters: answer(context), order=order), {}


def test_each_rule_sees_the_ticket_as_clamped_so_far_in_order() -> None:
    seen: list[tuple[str, Decimal]] = []

    def look(name: str, quantity: int) -> Any:
        def check(context: RiskContext) -> Verdict:
            seen.append((name, context.ticket.quantity))
            return clamp(Decimal(quantity), "less")

        return check

    result = evaluate([rule("b", look("b", 10), 2), rule("a", look("a", 40), 1)], CONTEXT)
    assert seen == [("a", Decimal(100)), ("b", Decimal(40))]
    assert result.ticket is not None
    assert result.ticket.quantity == 10


def test_rules_of_one_place_run_by_name() -> None:
    result = evaluate([rule(name, lambda _: allow()) for name in ("b", "c", "a")], CONTEXT)
    assert [decision.rule for decision in result.decisions] == ["a", "b", "c"]


def test_one_denial_denies_and_all_decisions_are_kept() -> None:
    rules = [
        rule("a_no", lambda _: deny("because")),
        rule("b_less", lambda _: clamp(Decimal(10), "less")),
        rule("c_no", lambda context: deny(f"{context.ticket.quantity} are too many")),
        rule("d_yes", lambda _: allow()),
    ]
    result = evaluate(rules, CONTEXT)
    assert result.ticket is None
    outcomes = [decision.verdict.outcome for decision in result.decisions]
    assert outcomes == [Outcome.DENY, Outcome.CLAMP, Outcome.DENY, Outcome.ALLOW]
    assert result.decisions[2].verdict.reason == "10 are too many"
    assert result.denied_by is not None
    assert result.denied_by.verdict.reason == "because"


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: 1 / 0,
        lambda _: None,
        lambda _: True,
        lambda _: clamp(Decimal(100), "not smaller"),
        lambda _: clamp(Decimal(101), "larger"),
        lambda _: clamp(Decimal(0), "nothing"),
        lambda _: clamp(Decimal(-1), "negative"),
        lambda _: clamp(Decimal("NaN"), "nothing"),
        lambda _: clamp(50, "no Decimal"),  # type: ignore[arg-type]
        lambda _: Verdict(outcome=Outcome.CLAMP),
        lambda _: Verdict(outcome="deny"),  # type: ignore[arg-type]
        lambda _: Verdict(outcome="refuse"),  # type: ignore[arg-type]
        lambda _: Verdict(outcome=None),  # type: ignore[arg-type]
    ],
)
def test_a_rule_that_misbehaves_denies(answer: Any) -> None:
    result = evaluate([rule("broken", answer)], CONTEXT)
    assert result.ticket is None
    assert result.denied_by is not None
    assert "broken" in result.denied_by.verdict.reason


def test_a_reference_that_is_no_number_stays_one_beside_a_limit() -> None:
    limit = OrderTicket(side=Side.BUY, quantity=Decimal(1), order_type=OrderType.LIMIT, limit_price=Decimal(50))
    nan = Quote(con_id=1, at=NOW, last=Decimal("NaN"))
    with careful_arithmetic():
        price = replace(CONTEXT, ticket=limit, quote=nan).price
    assert price is not None
    assert price.is_nan()


def test_no_rules_pass_the_ticket_as_it_is() -> None:
    assert evaluate([], CONTEXT).ticket == CONTEXT.ticket


def test_a_rule_that_holds_up_the_account_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quick = RiskRule(name="quick", check=lambda context, parameters: allow())
    for seconds, logged in ((float("inf"), 0), (-1.0, 1)):
        monkeypatch.setattr("airflow_ibkr_plugin.trading.risk.SLOW_SECONDS", seconds)
        assert evaluate([(quick, {})], CONTEXT).ticket is not None
        assert caplog.text.count("risk rule quick took") == logged
