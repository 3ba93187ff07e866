"""The engine; the built-in rules have a file of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Quote
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext, RiskRule, Verdict, allow, clamp, deny, evaluate

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


def test_one_denial_denies_and_all_decisions_are_kept() -> None:
    result = evaluate([rule("no", lambda _: deny("because")), rule("yes", lambda _: allow())], CONTEXT)
    assert result.ticket is None
    assert [decision.rule for decision in result.decisions] == ["no", "yes"]
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
        lambda _: Verdict(outcome=Outcome.CLAMP),
    ],
)
def test_a_rule_that_misbehaves_denies(answer: Any) -> None:
    result = evaluate([rule("broken", answer)], CONTEXT)
    assert result.ticket is None
    assert result.denied_by is not None
    assert "broken" in result.denied_by.verdict.reason


def test_no_rules_pass_the_ticket_as_it_is() -> None:
    assert evaluate([], CONTEXT).ticket == CONTEXT.ticket
