from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import AdjustmentKind, OrderIntent, PositionAdjustment
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import TRANSITIONS, IntentState, OrderType, Side
from airflow_ibkr_plugin.trading.reconcile import Result
from airflow_ibkr_plugin.trading.risk_facts import OpenOrder, OrderHistory, open_quantity

SOURCE = "simulator:ibkr_default"
S = IntentState
OPEN = {S.RESERVED, S.SENDING, S.AMBIGUOUS, S.WORKING, S.CANCELLING}
MakeIntent = Callable[..., OrderIntent]
QQQ = Instrument(symbol="QQQ", con_id=1, min_tick=Decimal("0.01"))


def way_to(state: IntentState) -> list[IntentState]:
    """The shortest way from DECIDED."""
    ways = [[S.DECIDED]]
    while ways[0][-1] is not state:
        ways = [*ways[1:], *([*ways[0], step] for step in sorted(TRANSITIONS[ways[0][-1]]))]
    return ways[0][1:]


def walk(database: Database, intent: OrderIntent, state: IntentState, at: datetime) -> OrderIntent:
    for step in way_to(state):
        with database.write() as session:
            intent = Intents(session).transition(intent, step, at=at, reason="")
    return intent


def open_orders(database: Database, account: str = "DU1", **more: Any) -> tuple[OpenOrder, ...]:
    with database.read() as session:
        return AccountOrders(session, "simulator:another_connection", account, **more).open()


def history(database: Database, now: datetime, *, seconds: float = 60, most: int = 10, **more: Any) -> OrderHistory:
    with database.read() as session:
        orders = AccountOrders(session, SOURCE, "DU1", **more)
        return orders.history(now=now, seconds=seconds, most=most)


@pytest.mark.parametrize("state", list(S))
def test_what_is_open_by_state(database: Database, make_intent: MakeIntent, now: datetime, state: IntentState) -> None:
    intent = walk(database, make_intent(), state, now)
    assert len(open_orders(database)) == (state in OPEN)
    assert open_orders(database, excluding=intent.id) == ()


def test_what_is_open_is_signed_less_what_is_filled_and_of_one_account(
    database: Database, make_intent: MakeIntent, new_key: Any, new_execution: Any, now: datetime
) -> None:
    bought = walk(database, make_intent(new_key(task_id="1")), S.WORKING, now)
    walk(database, make_intent(new_key(task_id="2"), side=Side.SELL, quantity=Decimal("2.5")), S.RESERVED, now)
    walk(database, make_intent(new_key(task_id="3"), account="DU2", strategy="other"), S.RESERVED, now)
    walk(database, make_intent(new_key(task_id="4"), source="paper:x"), S.RESERVED, now)
    walk(database, make_intent(new_key(task_id="5", con_id=1), instrument=QQQ.to_dict()), S.RESERVED, now)
    for exec_id, quantity, left in (("1", 4, "3.5"), ("2", 1, "2.5"), ("3", 6, "-2.5")):  # at last more than ordered
        with database.write() as session:
            fill = new_execution(exec_id=exec_id, quantity=Decimal(quantity))
            Executions(session).record(SOURCE, fill, bought, now)
        assert open_quantity(open_orders(database), 756733) == Decimal(left)
    orders = open_orders(database)
    assert [order.instrument.name for order in orders] == ["SPY", "SPY", "QQQ"]
    assert open_quantity(orders, 756733, side=Side.BUY) == 0
    assert (open_quantity(orders, 1), open_quantity(orders, 1, side=Side.SELL)) == (10, 0)
    other = open_orders(database, "DU2")
    assert (open_quantity(other, 756733, strategy="other"), open_quantity(other, 756733, strategy="x")) == (10, 0)


def test_the_exits_of_a_bracket_are_open_for_what_its_entry_has_filled_once(
    database: Database, make_intent: MakeIntent, new_key: Any, new_execution: Any, now: datetime
) -> None:
    entry = walk(database, make_intent(new_key()), S.WORKING, now)
    exits = [
        walk(database, make_intent(new_key(leg=leg), parent_id=entry.id, side=Side.SELL), S.WORKING, now)
        for leg in ("target", "stop")
    ]

    def fill(row: OrderIntent, exec_id: str, quantity: int) -> tuple[Decimal, Decimal]:
        with database.write() as session:
            made = new_execution(exec_id=exec_id, quantity=Decimal(quantity), side=row.side)
            Executions(session).record(SOURCE, made, row, now)
        now_open = open_orders(database)
        return open_quantity(now_open, 756733, side=Side.BUY), open_quantity(now_open, 756733, side=Side.SELL)

    assert open_quantity(open_orders(database), 756733, side=Side.SELL) == 0  # nothing is held yet
    assert fill(entry, "1", 6) == (4, -6)
    assert fill(exits[1], "2", 1) == (4, -5)
    assert fill(exits[0], "3", 5) == (4, 0)
    assert len(open_orders(database)) == 3
    assert open_orders(database, excluding=entry.id) == ()


@pytest.mark.parametrize(
    ("new", "old", "bought", "sold_before", "stop", "target", "sold_after", "left"),
    [
        (4, 1, 10, 0, 40, 0, 0, 40),  # bought before the split; the stop is one of new shares
        (4, 1, 10, 2, 32, 0, 0, 32),  # an exit had filled before it too
        (1, 8, 80, 0, 10, 10, 6, 4),  # fewer shares: the target has closed most of them
        (1, 8, 80, 16, 8, 8, 8, 0),
    ],
)
def test_the_exits_of_a_bracket_are_open_for_what_is_held_in_shares_of_today(
    database: Database,
    make_intent: MakeIntent,
    new_key: Any,
    new_execution: Any,
    now: datetime,
    new: int,
    old: int,
    bought: int,
    sold_before: int,
    stop: int,
    target: int,
    sold_after: int,
    left: int,
) -> None:
    def send(leg: str, quantity: int, state: IntentState, **more: Any) -> OrderIntent:
        return walk(database, make_intent(new_key(leg=leg), quantity=Decimal(quantity), **more), state, now)

    def fill(row: OrderIntent, quantity: int, minutes: int) -> None:
        if not quantity:
            return
        made = {"exec_id": f"{row.id}.{minutes}.01", "quantity": Decimal(quantity), "side": row.side}
        with database.write() as session:
            at = now + timedelta(minutes=minutes)
            Executions(session).record(SOURCE, new_execution(**made, time=at), row, now)

    entry = send("entry", bought, S.FILLED)
    of_entry = {"parent_id": entry.id, "side": Side.SELL}
    fill(entry, bought, 0)
    fill(send("stop", bought, S.CANCELLED, **of_entry), sold_before, 1)
    with database.write() as session:
        made_by = Reconciliations(session, SOURCE, "DU1").add(Result.AGREE, at=now, made_by="test")
        split = PositionAdjustment(
            kind=AdjustmentKind.SPLIT,
            source=SOURCE,
            account="DU1",
            strategy=entry.strategy,
            con_id=entry.con_id,
            new_shares=Decimal(new),
            old_shares=Decimal(old),
            paid_out=Decimal(0),
            price=Decimal(0),
            currency="USD",
            at=now + timedelta(minutes=2),
            made_by="test",
            reason="",
            reconciliation_id=made_by.id,
        )
        session.add(split)
    send("stop.2", stop, S.WORKING, **of_entry)
    if target:
        fill(send("target.2", target, S.WORKING, **of_entry), sold_after, 3)
    assert open_quantity(open_orders(database), 756733, side=Side.SELL) == -left


@pytest.mark.parametrize(
    ("reference", "limit", "stop", "price"),
    [(None, None, None, None), ("100", None, None, 100), ("100", "101", "99", 101), (None, "98", "99", 99)],
)
def test_an_open_order_is_priced_at_its_highest(
    database: Database, make_intent: MakeIntent, now: datetime, reference: Any, limit: Any, stop: Any, price: Any
) -> None:
    prices = {"reference_price": reference, "limit_price": limit, "stop_price": stop}
    given = {name: Decimal(value) for name, value in prices.items() if value}
    walk(database, make_intent(order_type=OrderType.LIMIT, **given), S.RESERVED, now)
    (order,) = open_orders(database)
    assert order.price == price


def test_the_history_is_what_was_sent_lately_or_is_reserved(
    database: Database, make_intent: MakeIntent, new_key: Any, now: datetime
) -> None:
    for number, (state, age) in enumerate(
        [(S.FILLED, 30), (S.REJECTED, 60), (S.WORKING, 61), (S.RESERVED, None), (S.DENIED, None), (S.DECIDED, None)]
    ):
        sent_at = now - timedelta(seconds=age) if age is not None else None
        key = new_key(task_id=str(number))
        intent = walk(database, make_intent(key, sent_at=sent_at, quantity=Decimal(7)), state, now)
        if state is S.FILLED:
            filled = intent
    walk(database, make_intent(new_key(task_id="other"), account="DU2"), S.RESERVED, now)
    told = history(database, now)
    assert [(order.age, order.quantity) for order in told.orders] == [(0, 12), (30, 12), (60, 12)]
    assert told.seconds == 60
    assert [order.age for order in history(database, now, excluding=filled.id).orders] == [0, 60]


def test_a_history_that_is_too_long_says_how_far_it_reaches(
    database: Database, make_intent: MakeIntent, new_key: Any, now: datetime
) -> None:
    for age in (10, 20, 30):
        make_intent(new_key(task_id=str(age)), sent_at=now - timedelta(seconds=age))
    told = history(database, now, most=2)
    assert ([order.age for order in told.orders], told.seconds) == ([10, 20], 20)
    assert history(database, now, most=4).seconds == 60
