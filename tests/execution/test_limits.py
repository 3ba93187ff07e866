"""Account limits on the order path, against the broker in memory (see conftest)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.store.account_peaks import AccountPeaks
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.trading.orders import IntentState, Side
from airflow_ibkr_plugin.trading.risk_facts import Margin
from airflow_ibkr_plugin.trading.trading_state import FLATTEN_LEG

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
DENIED, FILLED = IntentState.DENIED, IntentState.FILLED


def limit(desk: Any, rule: str, parameters: Any, account: str = "", **more: Any) -> None:
    with desk.database.write() as session:
        Limits(session).change(account, rule, parameters, by="anna", reason="r", at=datetime.now(UTC), **more)


def decisions(desk: Any, **request: Any) -> dict[str, Any]:
    with desk.database.read() as session:
        rows = RiskDecisions(session).for_intent(desk.intent(desk.request(**request)).id)
    return {row.rule: row for row in rows}


@both_databases
def test_a_limit_clamps_besides_the_workflow_s_own_rule_and_each_must_pass(desk: Any) -> None:
    limit(desk, "order_notional", {"max": 500}, desk.session.account)
    limit(desk, "order_notional", {"max": 700})
    assert desk.place(run_id="loose", rules={"order_notional": {"max": 900}}).filled == 5
    assert desk.place(run_id="tight", rules={"order_notional": {"max": 300}}).filled == 3
    assert desk.place(run_id="none").filled == 5
    said = decisions(desk, run_id="none")["account limit order_notional"]
    assert (said.outcome, said.limit_value, said.observed) == ("clamp", "500", "700")  # what every account may
    limit(desk, "order_notional", None, desk.session.account)
    assert desk.place(run_id="after").filled == 7


def test_another_account_s_limit_is_not_asked(desk: Any) -> None:
    limit(desk, "order_notional", {"max": 1}, "DU7654321")
    assert desk.place().filled == 10


def test_lists_of_the_installation_hold_for_every_workflow(desk: Any) -> None:
    limit(desk, "restricted_list", {"instruments": ["SPY"]})
    assert desk.place().reason == "account limit restricted_list: the instrument is restricted"
    limit(desk, "restricted_list", None)
    limit(desk, "allow_list", {"instruments": ["QQQ"]})
    assert desk.place(run_id="2").state is DENIED


@pytest.mark.parametrize(
    ("rule", "parameters", "reason"),
    [
        ("gone.rule", {"x": 1}, "no installed package offers the risk rule 'gone.rule'"),
        ("order_notional", {"limit": 500}, "its parameters do not fit the rule"),
    ],
)
def test_a_limit_that_cannot_be_checked_denies(desk: Any, rule: str, parameters: Any, reason: str) -> None:
    limit(desk, rule, parameters)
    outcome = desk.place()
    assert outcome.state is DENIED
    assert outcome.reason.startswith(f"account limit {rule}: {reason}")
    assert "airflow ibkr limits" in outcome.reason


def test_a_limit_reverts_by_the_clock_though_nobody_records_it(desk: Any) -> None:
    with freeze_time(datetime(2026, 3, 2, 15, tzinfo=UTC)) as clock:
        limit(desk, "order_notional", {"max": 300})
        limit(desk, "order_notional", {"max": 900}, until=datetime.now(UTC) + timedelta(minutes=1))
        assert desk.place(run_id="1").filled == 9
        clock.tick(timedelta(minutes=1))
        assert desk.place(run_id="2").filled == 3


@both_databases
def test_a_limit_that_was_tightened_after_the_check_stops_what_is_not_yet_sent(desk: Any) -> None:
    find = desk.session.find_by_ref

    def tighten_then_find(order_ref: str) -> Any:
        limit(desk, "order_notional", {"max": 300})
        return find(order_ref)

    desk.session.find_by_ref = tighten_then_find
    assert desk.place().filled == 3
    assert desk.moves(desk.intent(desk.request()).id)[:4] == ["reserved", "decided", "reserved", "sending"]


def test_what_only_a_limit_needs_is_asked_of_the_broker(desk: Any) -> None:
    enough = Margin(initial_before=Decimal(0), initial_after=Decimal(1), equity_after=Decimal(100))
    desk.session.what_if = lambda *_: enough
    desk.session.daily_pnl = lambda: Decimal(-60)
    limit(desk, "buying_power", {"min_excess": 98})
    assert desk.place(run_id="1").state is FILLED
    limit(desk, "buying_power", {"min_excess": 200})
    assert desk.place(run_id="2").reason.startswith("account limit buying_power: the account's margin")
    limit(desk, "buying_power", None)
    limit(desk, "daily_loss", {"max": 50})
    assert desk.place(run_id="3").reason.startswith("account limit daily_loss: the account has lost")


def test_what_a_limit_needs_that_came_after_the_broker_was_asked_is_asked_for_then(desk: Any) -> None:
    account_snapshot = desk.session.account_snapshot

    def set_then_tell() -> Any:
        limit(desk, "daily_loss", {"max": 50})
        return account_snapshot()

    desk.session.account_snapshot = set_then_tell
    desk.session.daily_pnl = lambda: Decimal(-60)
    assert desk.place().reason.startswith("account limit daily_loss: the account has lost")


def test_a_person_s_closing_order_passes_every_limit(desk: Any) -> None:
    desk.place()
    limit(desk, "restricted_list", {"instruments": ["SPY"]})
    limit(desk, "gone.rule", {})
    request = desk.request(Side.SELL, run_id="close")
    assert desk.execute(replace(request, key=replace(request.key, leg=FLATTEN_LEG))).state is FILLED


@both_databases
def test_limits_over_all_strategies_count_the_account_s_orders(desk: Any) -> None:
    limit(desk, "orders_per_day", {"max_account": 2})
    for strategy, state in (("a", FILLED), ("b", FILLED), ("c", DENIED)):
        source = f"simulator:{strategy}"  # by whichever connection
        outcome = desk.execute(desk.request(strategy=strategy, source=source), desk.connect(source=source))
        assert outcome.state is state
    desk.broker.now += timedelta(days=1)
    assert desk.place(strategy="c", run_id="next-day").state is FILLED


@both_databases
def test_the_peak_is_kept_by_day_and_a_drawdown_stops_what_opens(desk: Any) -> None:
    told = desk.session.account_snapshot

    def worth(value: int) -> None:
        desk.session.account_snapshot = lambda: replace(told(), net_liquidation=Decimal(value))

    limit(desk, "drawdown", {"max_share": 0.1, "days": 5})
    for run_id, value, state in (("1", 1000, FILLED), ("2", 1200, FILLED), ("3", 1100, FILLED), ("4", 1080, DENIED)):
        worth(value)
        assert desk.place(run_id=run_id).state is state
    assert desk.place(Side.SELL, run_id="close").state is FILLED
    desk.broker.now += timedelta(days=1)
    assert desk.place(run_id="next-day").state is DENIED
    desk.broker.now += timedelta(days=5)
    worth(1000)
    assert desk.place(run_id="in a week").state is FILLED
    with desk.database.read() as session:
        peaks = AccountPeaks(session).since(
            "simulator:other", desk.session.account, datetime(2026, 1, 1, tzinfo=UTC).date()
        )
    assert [(f"{peak.day:%d}", peak.value) for peak in peaks] == [("02", 1200), ("03", 1080), ("08", 1000)]


def test_a_strategy_s_drawdown_is_since_the_best_of_its_fills(desk: Any) -> None:
    results = iter([100, -60, -60])

    def realise(broker: Any, perm_id: int) -> None:
        broker.fill(perm_id)
        broker.executions[-1] = replace(broker.executions[-1], realized_pnl=Decimal(next(results)))

    desk.broker.fate = realise
    rules = {"strategy_drawdown": {"max": 100}}
    assert [desk.place(run_id=str(number), rules=rules).state for number in range(4)] == [*[FILLED] * 3, DENIED]
    desk.broker.fate = None
    assert desk.place(strategy="other", rules=rules).state is FILLED
