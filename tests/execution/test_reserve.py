"""What the reserving transaction reads for the rules, against the broker in memory (see conftest)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.trading.orders import IntentState, Side
from airflow_ibkr_plugin.trading.risk_facts import Margin

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)


def leave_open(broker: Any, perm_id: int) -> None:
    """The order works on, and its task is killed."""
    raise KeyboardInterrupt


def place_open(desk: Any, count: int, **changes: Any) -> None:
    desk.broker.fate = leave_open
    for number in range(count):
        with pytest.raises(KeyboardInterrupt):
            desk.place(run_id=f"open-{number}", **changes)
    desk.broker.fate = None


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_ibkr_would_refuse_the_twenty_first_open_order(desk: Any) -> None:
    place_open(desk, 19)
    place_open(desk, 1, strategy="other")
    outcome = desk.place(run_id="one-more")
    assert outcome.state is IntentState.DENIED
    assert outcome.reason.startswith("open_orders: IBKR takes 20")
    assert desk.place(Side.SELL, 1, run_id="other-side", allow_short=True).state is IntentState.FILLED


def test_a_strategy_has_no_more_open_orders_than_it_may(desk: Any) -> None:
    limit = {"rules": {"open_orders": {"max": 2}}}
    place_open(desk, 2)
    assert desk.place(run_id="next", **limit).state is IntentState.DENIED
    assert desk.place(strategy="other", **limit).state is IntentState.FILLED


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_the_order_rate_counts_what_was_sent_by_any_connection_to_the_account(desk: Any) -> None:
    limit = {"rules": {"order_rate": {"seconds": 60, "max_account": 2}}}
    with freeze_time(NOW) as clock:
        source = "simulator:second"
        request = desk.request(strategy="other", source=source)
        assert desk.execute(request, desk.connect(source=source)).state is IntentState.FILLED
        assert desk.place(run_id="1", **limit).state is IntentState.FILLED
        assert desk.place(run_id="2", **limit).state is IntentState.DENIED
        clock.tick(timedelta(seconds=61))
        assert desk.place(run_id="3", **limit).state is IntentState.FILLED


def test_what_was_denied_was_not_ordered(desk: Any) -> None:
    with freeze_time(NOW):
        assert desk.place(run_id="1", rules={"order_notional": {"max": 1}}).state is IntentState.DENIED
        limit = {"rules": {"order_rate": {"seconds": 60, "max": 1}, "duplicate_order": {"seconds": 60}}}
        assert desk.place(run_id="2", **limit).state is IntentState.FILLED
        assert desk.place(run_id="3", **limit).state is IntentState.DENIED


def test_a_duplicate_within_its_time_is_denied_however_the_first_was_clamped(desk: Any) -> None:
    rules = {"duplicate_order": {"seconds": 300}, "position_size": {"max_quantity": 15}}
    with freeze_time(NOW) as clock:
        assert desk.place(run_id="1", quantity=12, rules=rules).filled == 12
        outcome = desk.place(run_id="2", quantity=12, rules=rules)
        assert outcome.reason.startswith("duplicate_order")
        clock.tick(timedelta(seconds=301))
        assert desk.place(run_id="3", quantity=12, rules=rules).filled == 3
        assert desk.place(run_id="4", quantity=12, rules=rules).state is IntentState.DENIED


def test_the_broker_is_asked_for_the_margin_of_the_whole_order_where_a_rule_needs_it(desk: Any) -> None:
    asked: list[Decimal] = []

    def what_if(_instrument: Any, ticket: Any) -> Margin:
        asked.append(ticket.quantity)
        return Margin(initial_before=Decimal(0), initial_after=Decimal(1), equity_after=Decimal(len(asked)))

    desk.session.what_if = what_if
    clamp = {"order_notional": {"max": 500}}
    assert desk.place(run_id="1", rules=clamp).filled == 5
    assert asked == []
    assert desk.place(run_id="2", rules=clamp | {"buying_power": {}}).filled == 5
    assert asked == [Decimal(10)]
    assert desk.place(run_id="3", rules={"buying_power": {"min_excess": 2}}).state is IntentState.DENIED


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_losses_are_those_of_the_strategy_s_own_fills_in_the_account(desk: Any) -> None:
    def lose(broker: Any, perm_id: int) -> None:
        broker.fill(perm_id)
        broker.executions[-1] = replace(broker.executions[-1], realized_pnl=Decimal(-50))

    desk.broker.fate = lose
    source = "simulator:second"  # another connection to the account
    desk.execute(desk.request(run_id="lost", source=source), desk.connect(source=source))
    desk.broker.fate = None
    limits: dict[str, Any] = {"strategy_loss": {"max": 50}, "cooldown": {"seconds": 3600}}
    for name, parameters in limits.items():
        assert desk.place(run_id=name, rules={name: parameters}).reason.startswith(f"{name}: the strategy has")
        assert desk.place(run_id=name, rules={name: parameters}, strategy="other").state is IntentState.FILLED
    desk.broker.now += timedelta(seconds=3601)
    assert desk.place(run_id="later", rules={"cooldown": limits["cooldown"]}).state is IntentState.FILLED
    assert desk.place(run_id="same-day", rules={"strategy_loss": limits["strategy_loss"]}).state is IntentState.DENIED
    desk.broker.now += timedelta(hours=22)  # the next day in New York
    assert desk.place(run_id="next-day", rules={"strategy_loss": limits["strategy_loss"]}).state is IntentState.FILLED


def test_of_too_many_fills_nothing_is_known(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_ibkr_plugin.execution.context.FILLS", 2)
    limit = {"rules": {"cooldown": {"seconds": 3600}}}
    assert [desk.place(run_id=str(number), **limit).state for number in range(4)] == [
        *[IntentState.FILLED] * 3,
        IntentState.DENIED,
    ]
