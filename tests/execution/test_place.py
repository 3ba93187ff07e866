"""The state machine of the order path against the broker in memory (see conftest): the good path, risk, consent."""

from __future__ import annotations

from collections.abc import Callable
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
from airflow_ibkr_plugin.execution import place as place_module
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.orders import IntentState, Side
from airflow_ibkr_plugin.trading.risk_rules import rules
from airflow_ibkr_plugin.trading.sizing import Sizing, TicketPlan

ACCOUNT = "DU1234567"
RULES = {rule.name: rule for rule in rules()}
Make = Callable[..., OrderRequest]


def moves(database: Database, intent_id: int) -> list[str]:
    with database.read() as transaction:
        return [move.to_state.value for move in Intents(transaction).transitions(intent_id)]


def position(database: Database, strategy: str = "demo") -> Decimal:
    with database.read() as transaction:
        rows = Positions(transaction).list(strategy=strategy)
        return sum((row.quantity for row in rows), Decimal(0))


def state_of(database: Database, request: OrderRequest) -> IntentState:
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(request.key.order_ref)
        assert row is not None
        return row.state


# --- the good path ---------------------------------------------------------------------------------------


def test_a_filled_order_is_booked_once_with_its_position(
    session: Any, broker: Any, either_database: Database, make_request: Make
) -> None:
    database = either_database
    outcome = execute(session, database, make_request(), owner="t")
    assert (outcome.state, outcome.filled, outcome.average_price) == (IntentState.FILLED, 10, 100)
    assert (outcome.commission, outcome.commission_currency, outcome.simulated) == (1, "USD", True)
    assert moves(database, outcome.intent_id) == ["reserved", "sending", "working", "filled"]
    assert position(database) == 10
    with database.read() as transaction:
        (order,) = Orders(transaction).by_order_ref(outcome.order_ref)
        row = Intents(transaction).get(outcome.intent_id)
    assert (order.status, order.filled, order.intent_id) == ("Filled", 10, outcome.intent_id)
    assert row is not None
    assert (row.lease_owner, row.broker_day, row.perm_id) == (None, broker.now.date(), order.perm_id)
    assert row.reserved_notional == 1000
    plain = outcome.to_dict()
    assert (plain["state"], plain["filled"], plain["simulated"]) == ("filled", "10", True)


def test_a_retry_returns_the_same_outcome_and_asks_nobody(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    first = execute(session, database, make_request(), owner="t")
    asked = broker.asked
    assert execute(session, database, make_request(), owner="t") == first
    assert (len(broker.orders), broker.asked) == (1, asked)


@pytest.mark.parametrize(("reachable", "commission"), [(True, 1), (False, 0)])
def test_a_commission_that_comes_after_the_end_is_asked_for_once_more(
    session: Any,
    broker: Any,
    database: Database,
    make_request: Make,
    monkeypatch: pytest.MonkeyPatch,
    reachable: bool,
    commission: int,
) -> None:
    def without_commission(broker: Any, perm_id: int) -> None:
        broker.fill(perm_id)
        broker.executions[-1] = replace(broker.executions[-1], commission=None, commission_currency="")

    find = session.find_by_ref

    def later(order_ref: str) -> Any:
        if broker.executions:
            broker.unreachable = not reachable
            broker.executions[-1] = replace(broker.executions[-1], commission=Decimal(1), commission_currency="USD")
        return find(order_ref)

    broker.fate = without_commission
    monkeypatch.setattr(session, "find_by_ref", later)
    outcome = execute(session, database, make_request(), owner="t")
    assert (outcome.state, outcome.filled, outcome.commission) == (IntentState.FILLED, 10, commission)
    with database.read() as transaction:
        (held,) = Positions(transaction).list(strategy="demo")
    assert held.average_cost == 100 + Decimal(commission) / 10


def test_two_runs_are_two_orders(session: Any, broker: Any, database: Database, make_request: Make) -> None:
    execute(session, database, make_request(), owner="t")
    execute(session, database, make_request(run_id="run-2"), owner="t")
    assert len(broker.orders) == 2
    assert position(database) == 20


def test_a_plan_is_sized_once(session: Any, broker: Any, database: Database, make_request: Make) -> None:
    plan = TicketPlan(side=Side.BUY, sizing=Sizing.parse({"notional": 1050}))
    broker.unreachable = True  # it is sized and stored, and then nothing can be asked
    with pytest.raises(BrokerTimeout):
        execute(session, database, make_request(ticket=plan), owner="t")
    broker.unreachable, broker.price = False, Decimal(10)
    assert execute(session, database, make_request(ticket=plan), owner="t").filled == 10


# --- risk ------------------------------------------------------------------------------------------------


def test_a_denied_order_is_not_sent_and_its_decisions_are_stored(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    request = make_request(rules=((RULES["orders_per_day"], {"max": 1}), (RULES["order_notional"], {"max": 50})))
    outcome = execute(session, database, request, owner="t")
    assert (outcome.state, outcome.filled) == (IntentState.DENIED, 0)
    assert outcome.reason.startswith("order_notional")
    assert [(d.rule, d.outcome) for d in outcome.decisions] == [
        ("market_data", "allow"),
        ("short_selling", "allow"),
        ("order_notional", "deny"),
        ("orders_per_day", "allow"),
    ]
    assert not broker.orders


def test_a_clamped_order_is_sent_smaller(session: Any, broker: Any, database: Database, make_request: Make) -> None:
    outcome = execute(session, database, make_request(rules=((RULES["order_notional"], {"max": 555}),)), owner="t")
    assert (outcome.requested_quantity, outcome.quantity, outcome.filled) == (10, 5, 5)


@pytest.mark.parametrize(
    ("kind", "account", "state"),
    [
        ("simulator", ACCOUNT, IntentState.DENIED),
        ("paper", ACCOUNT, IntentState.FILLED),
        ("simulator", "DU7654321", IntentState.FILLED),
    ],
)
def test_orders_by_every_connection_to_one_account_count_together(
    broker: Any,
    make_session: Callable[..., Any],
    either_database: Database,
    make_request: Make,
    kind: str,
    account: str,
    state: IntentState,
) -> None:
    limit = ((RULES["position_size"], {"max_quantity": 10}),)

    def other(*_: Any) -> None:  # while the first strategy's order works, unfilled
        broker.fate = None
        where = {"source": f"{kind}:second", "account": account}
        request = make_request(strategy="other", rules=limit, **where)
        assert execute(make_session(client_id=11, **where), either_database, request, owner="2").state is state

    broker.fate = other
    execute(make_session(), either_database, make_request(rules=limit), owner="1")
    assert broker.fate is None


def test_what_a_strategy_holds_it_may_sell_by_another_connection_to_the_account(
    session: Any, make_session: Callable[..., Any], database: Database, make_request: Make
) -> None:
    execute(session, database, make_request(), owner="t")
    source = "simulator:renamed"
    request = make_request(Side.SELL, 15, run_id="run-2", source=source)
    assert execute(make_session(source=source), database, request, owner="t").filled == 10


def test_what_was_sent_today_counts_for_the_strategy_alone(
    session: Any, database: Database, make_request: Make
) -> None:
    limit = {"rules": ((RULES["orders_per_day"], {"max": 1}),)}
    states = [
        execute(session, database, make_request(run_id=run, strategy=strategy, **limit), owner="t").state
        for strategy, run in (("a", "1"), ("a", "2"), ("b", "1"))
    ]
    assert states == [IntentState.FILLED, IntentState.DENIED, IntentState.FILLED]


def test_delayed_data_never_back_an_order(session: Any, broker: Any, database: Database, make_request: Make) -> None:
    broker.delayed = True
    assert execute(session, database, make_request(), owner="t").state is IntentState.DENIED
    assert not broker.orders


def test_a_sell_stays_within_what_the_strategy_holds_unless_it_may_go_short(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.held_elsewhere = Decimal(100)
    assert execute(session, database, make_request(Side.SELL), owner="t").state is IntentState.DENIED
    execute(session, database, make_request(quantity=4, run_id="2"), owner="t")
    assert execute(session, database, make_request(Side.SELL, run_id="3"), owner="t").filled == 4
    assert execute(session, database, make_request(Side.SELL, run_id="4", allow_short=True), owner="t").filled == 10


def test_the_position_of_the_account_counts_whoever_holds_it(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    limit = ((RULES["position_size"], {"max_quantity": 105}),)
    broker.held_elsewhere = Decimal(100)
    assert execute(session, database, make_request(rules=limit), owner="t").filled == 5
    again = execute(session, database, make_request(rules=limit, strategy="other"), owner="t")
    assert again.state is IntentState.DENIED


def test_a_fill_booked_between_the_question_and_the_check_is_not_overlooked(
    session: Any, broker: Any, database: Database, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = ((RULES["position_size"], {"max_quantity": 15}),)
    gather, raced = place_module.reserve.__globals__["gather"], []

    def gather_then_race(*arguments: Any) -> Any:
        market = gather(*arguments)
        if not raced:
            raced.append(True)
            execute(session, database, make_request(strategy="other", rules=limit), owner="other")
        return market

    monkeypatch.setitem(place_module.reserve.__globals__, "gather", gather_then_race)
    assert execute(session, database, make_request(rules=limit), owner="t").filled == 5
    assert broker.position() == 15


# --- who may trade where ---------------------------------------------------------------------------------


def test_live_needs_three_consents_and_a_real_gateway(
    make_session: Callable[..., Any], database: Database, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = make_session()
    with pytest.raises(LiveTradingRefused, match="simulated"):
        execute(paper, database, make_request(mode="live"), owner="t")
    paper.simulated = False
    with pytest.raises(LiveTradingRefused, match="says paper"):
        execute(paper, database, make_request(mode="live"), owner="t")
    live = make_session(simulated=False, source="live:ibkr_default", spec=replace(paper.spec, live=True))
    with pytest.raises(LiveTradingRefused, match="says live"):
        execute(live, database, make_request(source="live:ibkr_default"), owner="t")
    with pytest.raises(LiveTradingRefused, match="installation"):
        execute(live, database, make_request(mode="live", source="live:ibkr_default"), owner="t")
    monkeypatch.setenv("AIRFLOW__IBKR__ALLOW_LIVE", "True")
    assert execute(live, database, make_request(mode="live", source="live:ibkr_default"), owner="t").filled == 10


def test_a_request_for_another_session_or_mode_is_refused(session: Any, database: Database, make_request: Make) -> None:
    with pytest.raises(ConfigError, match="mode"):
        execute(session, database, make_request(mode="dry"), owner="t")
    with pytest.raises(ConfigError, match="session is"):
        execute(session, database, make_request(account="DU7"), owner="t")


def test_a_run_cannot_change_its_mind_before_the_order_is_sent(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.unreachable = True
    with pytest.raises(BrokerTimeout):
        execute(session, database, make_request(), owner="t")
    broker.unreachable = False
    with pytest.raises(ConfigError, match="decided as BUY"):
        execute(session, database, make_request(Side.SELL, allow_short=True), owner="t")
    assert not broker.orders


def test_no_price_at_all_is_retried_later(
    session: Any, database: Database, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_quote(instrument: Any) -> Any:
        raise NoMarketData("nothing came")

    session.quote = no_quote
    with pytest.raises(NoMarketData):
        execute(session, database, make_request(), owner="t")
    assert state_of(database, make_request()) is IntentState.DECIDED


def test_books_that_never_hold_still_give_up_with_nothing_sent(
    session: Any, broker: Any, database: Database, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_ibkr_plugin.execution.market.EXPIRY_SECONDS", -1.0)
    with pytest.raises(StoreError, match="faster than risk"):
        execute(session, database, make_request(), owner="t")
    assert not broker.orders
