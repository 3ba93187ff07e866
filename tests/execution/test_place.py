"""The state machine of the order path against the broker in memory (see conftest): one answer, one state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.errors import (
    AmbiguousOrder,
    BrokerTimeout,
    ConfigError,
    Family,
    GatewayUnavailable,
    IBKRPluginError,
    IntentBusy,
    LiveTradingRefused,
    NoMarketData,
    OrderRejected,
    StoreError,
)
from airflow_ibkr_plugin.execution import place as place_module
from airflow_ibkr_plugin.execution import send as send_module
from airflow_ibkr_plugin.execution.lease import hold
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.orders import IntentState, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.risk_rules import rules
from airflow_ibkr_plugin.trading.sizing import Sizing, TicketPlan

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


# --- the good path ------------------------------------------------------------------------------------------


def test_a_filled_order_is_booked_once_with_its_position(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
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


# --- risk ---------------------------------------------------------------------------------------------------


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


# --- who may trade where --------------------------------------------------------------------------------------


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


# --- what goes wrong on the way -------------------------------------------------------------------------------


def accept_then(error: IBKRPluginError, *, fills: bool) -> Callable[[Any, int], None]:
    def fate(broker: Any, perm_id: int) -> None:
        broker.fate = None
        if fills:
            broker.fill(perm_id)
        raise error

    return fate


def lose(broker: Any, perm_id: int) -> None:
    broker.fate = None
    del broker.orders[perm_id]
    raise GatewayUnavailable("hung up")


@pytest.mark.usefixtures("quick_settle")
@pytest.mark.parametrize("fills", [True, False])
def test_an_order_whose_answer_was_lost_is_found_and_not_sent_again(
    session: Any, broker: Any, database: Database, make_request: Make, fills: bool
) -> None:
    broker.fate = accept_then(GatewayUnavailable("hung up"), fills=fills)
    request = make_request(wait_seconds=5.0)
    with pytest.raises(GatewayUnavailable):
        execute(session, database, request, owner="t")
    assert state_of(database, request) is IntentState.AMBIGUOUS
    if not fills:
        broker.fill(9000)
    outcome = execute(session, database, request, owner="t")
    assert (outcome.state, outcome.filled, len(broker.orders)) == (IntentState.FILLED, 10, 1)
    assert position(database) == 10


@pytest.mark.usefixtures("quick_settle")
def test_a_lost_order_is_sent_once_more_after_two_answers_under_a_fresh_id(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lose
    with pytest.raises(GatewayUnavailable):
        execute(session, database, make_request(), owner="t")
    asked = broker.asked
    outcome = execute(session, database, make_request(), owner="t")
    assert (outcome.state, len(broker.orders)) == (IntentState.FILLED, 1)
    assert broker.asked - asked >= 3  # twice for the lost one, once more before sending
    assert next(iter(broker.orders.values())).order_id == 2
    assert moves(database, outcome.intent_id)[:4] == ["reserved", "sending", "ambiguous", "sending"]


@pytest.mark.usefixtures("quick_settle")
def test_a_lost_order_is_checked_again_before_it_is_sent_again(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lose
    request = make_request(rules=((RULES["trading_hours"], {}),))
    with pytest.raises(GatewayUnavailable):
        execute(session, database, request, owner="t")
    broker.now += timedelta(hours=8)  # the same day in New York, after the close
    outcome = execute(session, database, request, owner="t")
    assert outcome.state is IntentState.ABANDONED
    assert outcome.reason == "trading_hours: the market is closed"
    assert not broker.orders


@pytest.mark.usefixtures("quick_settle")
def test_an_order_first_sent_on_an_earlier_broker_day_is_never_sent_again(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lose
    with pytest.raises(GatewayUnavailable):
        execute(session, database, make_request(), owner="t")
    broker.now += timedelta(days=1)
    for _ in range(2):
        with pytest.raises(AmbiguousOrder, match="first sent on 2026-03-02") as raised:
            execute(session, database, make_request(), owner="t")
        assert raised.value.family is Family.NEEDS_HUMAN
    assert state_of(database, make_request()) is IntentState.AMBIGUOUS
    assert not broker.orders


@pytest.mark.usefixtures("quick_settle")
def test_midnight_utc_also_ends_the_day(session: Any, broker: Any, database: Database, make_request: Make) -> None:
    broker.fate = lose
    with freeze_time("2026-03-02 23:59:50"), pytest.raises(GatewayUnavailable):
        execute(session, database, make_request(), owner="t")
    with freeze_time("2026-03-03 00:00:10"), pytest.raises(AmbiguousOrder, match="first sent"):
        execute(session, database, make_request(), owner="t")


@pytest.mark.usefixtures("quick_settle")
def test_an_order_that_was_acknowledged_and_vanished_is_never_sent_again(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: None
    session.wait_terminal = lambda order, seconds: (_ for _ in ()).throw(GatewayUnavailable("hung up"))
    with pytest.raises(GatewayUnavailable):
        execute(session, database, make_request(), owner="t")
    assert state_of(database, make_request()) is IntentState.WORKING
    broker.orders.clear()
    with pytest.raises(AmbiguousOrder, match="does not know it any more"):
        execute(session, database, make_request(), owner="t")


@pytest.mark.usefixtures("quick_settle")
def test_two_orders_with_one_reference_need_a_human(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = accept_then(BrokerTimeout("late"), fills=True)
    with pytest.raises(BrokerTimeout):
        execute(session, database, make_request(), owner="t")
    broker.orders[9001] = replace(broker.orders[9000], perm_id=9001)
    broker.fill(9001, Decimal(10))
    with pytest.raises(AmbiguousOrder, match="2 orders"):
        execute(session, database, make_request(), owner="t")
    assert position(database) == 20  # booked all the same: the money has moved


@pytest.mark.usefixtures("quick_settle")
def test_the_broker_has_it_although_we_never_sent_it(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    """The trading database was set back to before the order was sent."""
    request = make_request()
    session.place(
        request.instrument, request.ticket, order_id=7, order_ref=request.key.order_ref, account=request.account
    )
    outcome = execute(session, database, request, owner="t")
    assert (outcome.state, len(broker.orders)) == (IntentState.FILLED, 1)
    assert moves(database, outcome.intent_id) == ["reserved", "sending", "filled"]


def test_a_rejection_is_an_outcome(session: Any, broker: Any, database: Database, make_request: Make) -> None:
    def reject(broker: Any, perm_id: int) -> None:
        broker.end(perm_id, "Cancelled")
        raise OrderRejected("no", code=201)

    broker.fate = reject
    outcome = execute(session, database, make_request(), owner="t")
    assert (outcome.state, outcome.reason) == (IntentState.REJECTED, "no")
    assert execute(session, database, make_request(), owner="t") == outcome


def test_what_is_left_at_the_time_out_is_cancelled_and_what_filled_is_kept(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: broker.fill(perm_id, Decimal(3))
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal(100))
    outcome = execute(session, database, make_request(ticket=ticket), owner="t")
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 3)
    assert moves(database, outcome.intent_id) == ["reserved", "sending", "working", "cancelling", "cancelled"]
    assert position(database) == 3
    with database.read() as transaction:
        assert Intents(transaction).reserved_quantity(outcome.source, outcome.account, 756733) == 0


def test_a_fill_that_beats_the_cancel_is_a_fill(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: None

    def cancel(order: Any, *, seconds: float) -> Any:
        broker.fill(order.perm_id)
        return session.find_by_perm_id(order.perm_id)

    session.cancel = cancel
    assert execute(session, database, make_request(), owner="t").state is IntentState.FILLED


def test_a_cancel_without_confirmation_stays_open_and_is_asked_for_again(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: None
    cancel, tries = session.cancel, []

    def late(order: Any, *, seconds: float) -> Any:
        tries.append(order)
        if len(tries) == 1:
            raise BrokerTimeout("not confirmed")
        return cancel(order, seconds=seconds)

    session.cancel = late
    with pytest.raises(BrokerTimeout):
        execute(session, database, make_request(), owner="t")
    assert state_of(database, make_request()) is IntentState.CANCELLING
    assert execute(session, database, make_request(wait_seconds=600.0), owner="t").state is IntentState.CANCELLED


def test_a_cancelled_whose_fills_are_missing_is_not_believed_yet(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.fate = lambda broker, perm_id: None

    def cancel(order: Any, *, seconds: float) -> Any:
        broker.fill(order.perm_id, Decimal(4))
        broker.end(order.perm_id, "Cancelled")
        return replace(session.find_by_perm_id(order.perm_id), executions=())

    session.cancel = cancel
    with pytest.raises(BrokerTimeout, match="not all its fills"):
        execute(session, database, make_request(), owner="t")
    outcome = execute(session, database, make_request(), owner="t")
    assert (outcome.state, outcome.filled) == (IntentState.CANCELLED, 4)


# --- others at work ---------------------------------------------------------------------------------------------


def test_another_worker_at_the_same_intent_is_waited_for(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    broker.unreachable = True
    with pytest.raises(BrokerTimeout):
        execute(session, database, make_request(), owner="t")
    broker.unreachable = False
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(make_request().key.order_ref)
    assert row is not None
    with hold(database, row.id, "t", seconds=60), pytest.raises(IntentBusy) as raised:
        execute(session, database, make_request(), owner="t")
    assert raised.value.family is Family.RETRY_AFTER
    assert raised.value.retry_after == pytest.approx(60, abs=5)
    assert execute(session, database, make_request(), owner="t").filled == 10


def test_a_worker_that_lost_its_lease_stores_nothing_and_sends_nothing(
    session: Any, broker: Any, database: Database, make_request: Make
) -> None:
    """It stood still after its question to the broker; another worker took over."""
    find = session.find_by_ref

    def slow(order_ref: str) -> Any:
        with database.write() as transaction:
            row = Intents(transaction).by_order_ref(order_ref)
            assert row is not None
            later = datetime.now(UTC) + timedelta(seconds=61)
            assert Intents(transaction).acquire_lease(row.id, "another", now=later, seconds=60)
        return find(order_ref)

    session.find_by_ref = slow
    with pytest.raises(IntentBusy, match="lost"):
        execute(session, database, make_request(), owner="t")
    assert state_of(database, make_request()) is IntentState.RESERVED
    assert not broker.orders


def test_a_worker_that_stood_still_after_its_last_commit_does_not_send(
    session: Any, broker: Any, database: Database, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = send_module.Job.move

    def stopped(job: Any, *arguments: Any, **changes: Any) -> Any:
        row = move(job, *arguments, **changes)
        job.lease._renewed -= 31.0
        return row

    monkeypatch.setattr(send_module.Job, "move", stopped)
    with pytest.raises(IntentBusy, match="stood still"):
        execute(session, database, make_request(), owner="t")
    assert not broker.orders


# --- every place at which a worker can die ------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a worker at once: nothing catches it."""


class Killer:
    """Counts the boundaries that a worker passes, commits and messages, and ends it before or after the n-th."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after, self.passed = at, after, 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.passed += 1
            mine = self.passed == self.at
            if mine and not self.after:
                raise Killed
            result = function(*arguments, **named)
            if mine:
                raise Killed
            return result

        return wrapped

    def wrap_commits(self, database: Database) -> None:
        write = database.write

        @contextmanager
        def wrapped(**named: Any) -> Iterator[Any]:
            self.passed += 1
            mine = self.passed == self.at
            with write(**named) as transaction:
                yield transaction
                if mine and not self.after:
                    raise Killed
            if mine:
                raise Killed

        database.write = wrapped  # type: ignore[method-assign]


MESSAGES = ("now", "next_order_id", "quote", "account_snapshot", "find_by_ref", "place", "wait_terminal", "cancel")


@pytest.mark.usefixtures("quick_settle")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fills", [True, False])
def test_killed_at_any_message_or_commit_and_tried_again_there_is_one_order_and_the_books_are_equal(
    broker: Any,
    make_session: Callable[..., Any],
    empty_database: Any,
    tmp_path: Any,
    make_request: Make,
    after: bool,
    fills: bool,
) -> None:
    at = 0
    while True:
        at += 1
        path = tmp_path / f"{at}.db"
        path.write_bytes(empty_database.read_bytes())
        database = Database(f"sqlite:///{path}")
        broker.orders.clear()
        broker.executions.clear()
        broker.fate = None if fills else lambda broker, perm_id: broker.fill(perm_id, Decimal(2))
        killer = Killer(at, after=after)
        doomed = make_session()
        for name in MESSAGES:
            setattr(doomed, name, killer.wrap(getattr(doomed, name)))
        dying = Database(f"sqlite:///{path}")
        killer.wrap_commits(dying)
        try:
            execute(doomed, dying, make_request(), owner="1")
        except Killed:
            dying.dispose()
            with database.write() as transaction:  # time goes by: the lease of the dead runs out
                for row in Intents(transaction).for_run("demo", "run-1"):
                    row.lease_until = row.lease_until and datetime.now(UTC)
            outcome = execute(make_session(), database, make_request(), owner="2")
        else:
            assert killer.passed < at
            database.dispose()
            break
        assert len(broker.orders) == 1, f"killed at {at}"
        assert outcome.state is (IntentState.FILLED if fills else IntentState.CANCELLED)
        assert position(database) == broker.position() == outcome.filled == (10 if fills else 2)
        database.dispose()
    assert at > 16


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


def test_strategies_racing_for_one_limit_never_pass_it(
    make_session: Callable[..., Any], broker: Any, database: Database, make_request: Make
) -> None:
    limit = ((RULES["position_size"], {"max_quantity": 25}),)
    start = threading.Barrier(6)
    highest: list[Decimal] = []

    def trade(number: int) -> None:
        start.wait()
        for run in range(3):
            request = make_request(quantity=4, strategy=f"s{number}", run_id=str(run), rules=limit)
            execute(make_session(client_id=10 + number), database, request, owner=str(number))
            highest.append(broker.position())

    threads = [threading.Thread(target=trade, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(highest) == 18
    assert max(highest) == broker.position() == 25
    assert sum(position(database, f"s{number}") for number in range(6)) == 25
