"""The state machine of the order path against the broker in memory (see conftest): the good path, risk, consent."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import (
    BrokerTimeout,
    ConfigError,
    LiveTradingRefused,
    NoMarketData,
    StoreError,
)
from airflow_ibkr_plugin.execution.market import gather
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.orders import IntentState, Side
from airflow_ibkr_plugin.trading.plans import TicketPlan
from airflow_ibkr_plugin.trading.sizing import Sizing

ACCOUNT = "DU1234567"


# --- the good path ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_a_filled_order_is_booked_once_with_its_position(desk: Any) -> None:
    outcome = desk.place()
    assert (outcome.state, outcome.filled, outcome.average_price) == (IntentState.FILLED, 10, 100)
    assert (outcome.commission, outcome.commission_currency, outcome.simulated) == (1, "USD", True)
    assert desk.moves(outcome.intent_id) == ["reserved", "sending", "working", "filled"]
    assert desk.position() == 10
    with desk.database.read() as transaction:
        (order,) = Orders(transaction).by_order_ref(outcome.order_ref)
        row = Intents(transaction).get(outcome.intent_id)
    assert (order.status, order.filled, order.intent_id) == ("Filled", Decimal(10), outcome.intent_id)
    assert row is not None
    assert (row.lease_owner, row.broker_day, row.perm_id) == (None, desk.broker.now.date(), order.perm_id)
    plain = outcome.to_dict()
    assert (plain["state"], plain["filled"], plain["simulated"]) == ("filled", "10", True)


def test_a_retry_returns_the_same_outcome_and_asks_nobody(desk: Any) -> None:
    first = desk.place()
    asked = desk.broker.asked
    assert desk.place() == first
    assert (len(desk.broker.orders), desk.broker.asked) == (1, asked)


@pytest.mark.parametrize(("reachable", "commission"), [(True, 1), (False, 0)])
def test_a_commission_that_comes_after_the_end_is_asked_for_once_more(
    desk: Any, reachable: bool, commission: int
) -> None:
    def without_commission(broker: Any, perm_id: int) -> None:
        broker.fill(perm_id)
        broker.executions[-1] = replace(broker.executions[-1], commission=None, commission_currency="")

    broker, find = desk.broker, desk.session.find_by_ref

    def later(order_ref: str) -> Any:
        if broker.executions:
            broker.unreachable = not reachable
            broker.executions[-1] = replace(broker.executions[-1], commission=Decimal(1), commission_currency="USD")
        return find(order_ref)

    desk.broker.fate = without_commission
    desk.session.find_by_ref = later
    outcome = desk.place()
    assert (outcome.state, outcome.filled, outcome.commission) == (IntentState.FILLED, 10, commission)
    with desk.database.read() as transaction:
        (held,) = Positions(transaction).list(strategy="demo")
    assert held.average_cost == 100 + Decimal(commission) / 10


def test_two_runs_are_two_orders(desk: Any) -> None:
    desk.place()
    desk.place(run_id="run-2")
    assert len(desk.broker.orders) == 2
    assert desk.position() == 20


def test_a_plan_is_sized_once(desk: Any) -> None:
    plan = TicketPlan(side=Side.BUY, sizing=Sizing.parse({"notional": 1050}))
    desk.broker.unreachable = True  # it is sized and stored, and then nothing can be asked
    with pytest.raises(BrokerTimeout):
        desk.place(ticket=plan)
    desk.broker.unreachable, desk.broker.price = False, Decimal(10)
    assert desk.place(ticket=plan).filled == 10


# --- risk ------------------------------------------------------------------------------------------------


def test_a_denied_order_is_not_sent_and_its_decisions_are_stored(desk: Any) -> None:
    outcome = desk.place(rules={"orders_per_day": {"max": 1}, "order_notional": {"max": 50}})
    assert (outcome.state, outcome.filled) == (IntentState.DENIED, 0)
    assert outcome.reason.startswith("order_notional")
    assert [(d.rule, d.outcome) for d in outcome.decisions] == [
        ("market_data", "allow"),
        ("short_selling", "allow"),
        ("order_notional", "deny"),
        ("orders_per_day", "allow"),
        ("open_orders", "allow"),
    ]
    assert not desk.broker.orders


def test_a_clamped_order_is_sent_smaller(desk: Any) -> None:
    outcome = desk.place(rules={"order_notional": {"max": 555}})
    assert (outcome.requested_quantity, outcome.quantity, outcome.filled) == (10, 5, 5)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "account", "state"),
    [
        ("simulator", ACCOUNT, IntentState.DENIED),
        ("paper", ACCOUNT, IntentState.FILLED),
        ("simulator", "DU7654321", IntentState.FILLED),
    ],
)
def test_orders_by_every_connection_to_one_account_count_together(
    desk: Any, kind: str, account: str, state: IntentState
) -> None:
    limit = {"position_size": {"max_quantity": 10}}

    def other(*_: Any) -> None:  # while the first strategy's order works, unfilled
        desk.broker.fate = None
        where = {"source": f"{kind}:second", "account": account}
        request = desk.request(strategy="other", rules=limit, **where)
        session = desk.connect(client_id=11, **where)
        if kind != "simulator":  # a real gateway has not heard of what is simulated
            session = replace(session, broker=type(desk.broker)())
        assert desk.execute(request, session).state is state

    desk.broker.fate = other
    desk.place(rules=limit)
    assert desk.broker.fate is None


def test_what_a_strategy_holds_it_may_sell_by_another_connection_to_the_account(desk: Any) -> None:
    desk.place()
    source = "simulator:renamed"
    request = desk.request(Side.SELL, 15, run_id="run-2", source=source)
    assert desk.execute(request, desk.connect(source=source)).filled == 10


def test_what_was_sent_today_counts_for_the_strategy_alone(desk: Any) -> None:
    limit = {"rules": {"orders_per_day": {"max": 1}}}
    states = [
        desk.place(run_id=run, strategy=strategy, **limit).state
        for strategy, run in (("a", "1"), ("a", "2"), ("b", "1"))
    ]
    assert states == [IntentState.FILLED, IntentState.DENIED, IntentState.FILLED]


def test_delayed_data_never_back_an_order(desk: Any) -> None:
    desk.broker.delayed = True
    assert desk.place().state is IntentState.DENIED
    assert not desk.broker.orders


def test_a_sell_stays_within_what_the_strategy_holds_unless_it_may_go_short(desk: Any) -> None:
    desk.broker.held_elsewhere = Decimal(100)
    assert desk.place(Side.SELL).state is IntentState.DENIED
    desk.place(quantity=4, run_id="2")
    assert desk.place(Side.SELL, run_id="3").filled == 4
    assert desk.place(Side.SELL, run_id="4", allow_short=True).filled == 10


def test_the_position_of_the_account_counts_whoever_holds_it(desk: Any) -> None:
    limit = {"position_size": {"max_quantity": 105}}
    desk.broker.held_elsewhere = Decimal(100)
    assert desk.place(rules=limit).filled == 5
    again = desk.place(rules=limit, strategy="other")
    assert again.state is IntentState.DENIED


def test_a_fill_booked_between_the_question_and_the_check_is_not_overlooked(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = {"position_size": {"max_quantity": 15}}
    raced: list[bool] = []

    def gather_then_race(*arguments: Any, **named: Any) -> Any:
        market = gather(*arguments, **named)
        if not raced:
            raced.append(True)
            desk.place(strategy="other", rules=limit)
        return market

    monkeypatch.setattr("airflow_ibkr_plugin.execution.reserve.gather", gather_then_race)
    assert desk.place(rules=limit).filled == 5
    assert desk.broker.position() == 15


# --- who may trade where ---------------------------------------------------------------------------------


def test_live_needs_three_consents_and_a_real_gateway(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = desk.connect()
    with pytest.raises(LiveTradingRefused, match="simulated"):
        desk.execute(desk.request(mode="live"), paper)
    paper.simulated = False
    with pytest.raises(LiveTradingRefused, match="says paper"):
        desk.execute(desk.request(mode="live"), paper)
    live = desk.connect(simulated=False, source="live:ibkr_default", spec=replace(paper.spec, live=True))
    with pytest.raises(LiveTradingRefused, match="says live"):
        desk.execute(desk.request(source="live:ibkr_default"), live)
    with pytest.raises(LiveTradingRefused, match="installation"):
        desk.execute(desk.request(mode="live", source="live:ibkr_default"), live)
    monkeypatch.setenv("AIRFLOW__IBKR__ALLOW_LIVE", "True")
    assert desk.execute(desk.request(mode="live", source="live:ibkr_default"), live).filled == 10


def test_a_request_for_another_session_or_mode_is_refused(desk: Any) -> None:
    with pytest.raises(ConfigError, match="mode"):
        desk.place(mode="dry")
    with pytest.raises(ConfigError, match="session is"):
        desk.place(account="DU7")


def test_a_run_cannot_change_its_mind_before_the_order_is_sent(desk: Any) -> None:
    desk.broker.unreachable = True
    with pytest.raises(BrokerTimeout):
        desk.place()
    desk.broker.unreachable = False
    with pytest.raises(ConfigError, match="decided as BUY"):
        desk.place(Side.SELL, allow_short=True)
    assert not desk.broker.orders


def test_no_price_at_all_is_retried_later(desk: Any) -> None:
    def no_quote(instrument: Any) -> Any:
        raise NoMarketData("nothing came")

    quote, desk.session.quote = desk.session.quote, no_quote
    with pytest.raises(NoMarketData):
        desk.place()
    assert desk.state() is IntentState.DECIDED
    desk.session.quote = quote
    assert desk.place().filled == 10


def test_answers_that_are_always_too_old_give_up_with_nothing_sent(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_ibkr_plugin.execution.market.EXPIRY_SECONDS", -1.0)
    with pytest.raises(StoreError, match="too old before risk"):
        desk.place()
    assert not desk.broker.orders
