"""Trading once more for a task of a run, by a person's leave."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import AmbiguousOrder, ConfigError, IntentBusy
from airflow_ibkr_plugin.execution.again import raise_generation
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.generations import Generations
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import GenerationRow
from airflow_ibkr_plugin.trading.orders import BracketState, IntentState

both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def again(database: Database, **changes: Any) -> GenerationRow:
    given = {"dag_id": "demo", "run_id": "run-1", "task_id": "order", "by": "anna@desk", "reason": "bad price"}
    return raise_generation(database, **given | changes)


def clear(desk: Any, **changes: Any) -> Any:
    """What the order task does when it is cleared: the same request, under the generation that is current."""
    request = desk.request(**changes)
    key = request.key
    with desk.database.read() as transaction:
        generation = Generations(transaction).current(key.dag_id, key.run_id, key.task_id, key.con_id)
    return desk.execute(replace(request, key=replace(key, generation=generation)))


@both
def test_a_clear_trades_again_once_a_person_has_raised_the_generation_and_then_no_more(desk: Any) -> None:
    first = clear(desk)
    assert clear(desk).order_ref == first.order_ref
    assert len(desk.broker.orders) == 1
    row = again(desk.database)
    assert (row.generation, row.symbol, row.raised_by, row.reason) == (1, "SPY", "anna@desk", "bad price")
    assert (datetime.now(UTC) - row.at).total_seconds() < 60
    second = clear(desk, quantity=3)
    assert second.order_ref != first.order_ref
    assert (second.quantity, second.filled) == (3, 3)  # sized anew
    assert clear(desk, quantity=3).order_ref == second.order_ref
    assert len(desk.broker.orders) == 2
    assert desk.position("demo") == 13
    assert again(desk.database).generation == 2


def test_what_is_traded_again_goes_through_risk(desk: Any) -> None:
    clear(desk)
    again(desk.database)
    assert clear(desk, rules={"order_quantity": {"max": 3}}).filled == 3
    assert desk.position("demo") == 13


def test_a_denial_may_be_decided_anew(desk: Any) -> None:
    assert clear(desk, rules={"order_quantity": {"max": 0}}).state is IntentState.DENIED
    again(desk.database)
    assert clear(desk).filled == 10


@pytest.mark.usefixtures("quick_settle")
def test_not_while_the_order_may_be_at_the_broker(desk: Any) -> None:
    desk.broker.fate = lambda *_: None  # it works
    clear(desk, leave_working=True)
    with pytest.raises(ConfigError, match="is working: it may still be at the broker"):
        again(desk.database)
    desk.broker.orders.clear()  # and nobody knows it any more
    with pytest.raises(AmbiguousOrder):
        clear(desk)
    with pytest.raises(ConfigError, match="is ambiguous"):
        again(desk.database)
    assert [row.generation for row in rows(desk)] == [0]


def rows(desk: Any) -> list[Any]:
    with desk.database.read() as transaction:
        return Intents(transaction).for_run("demo", "run-1")


@pytest.mark.parametrize("state", [IntentState.DECIDED, IntentState.RESERVED])
def test_what_was_not_sent_needs_no_leave(desk: Any, state: IntentState) -> None:
    desk.broker.unreachable = True
    with pytest.raises(Exception, match="no answer"):
        clear(desk)
    (row,) = rows(desk)
    if state is IntentState.DECIDED:
        with desk.database.write() as transaction:
            Intents(transaction).release_unheld(row.source, row.account, now=datetime.now(UTC))
    with pytest.raises(ConfigError, match=f"is {state}: nothing was sent"):
        again(desk.database)


def test_a_leg_that_works_keeps_the_whole_from_being_traded_again(desk: Any) -> None:
    clear(desk)
    desk.broker.fate = lambda *_: None
    request = desk.request(leave_working=True)
    desk.execute(replace(request, key=replace(request.key, leg="second")))
    with pytest.raises(ConfigError, match=r"second.* is working"):
        again(desk.database)


def test_an_open_bracket_keeps_the_whole_from_being_traded_again(desk: Any) -> None:
    """Its stop is gone, and about to be made anew."""
    clear(desk)
    with desk.database.write() as transaction:
        Intents(transaction).for_run("demo", "run-1")[0].bracket = BracketState.OPEN
    with pytest.raises(ConfigError, match=r"bracket of Order .* is open"):
        again(desk.database)


def test_not_while_a_worker_is_at_an_order_of_the_run(desk: Any) -> None:
    clear(desk)
    other = desk.request()
    desk.execute(replace(other, key=replace(other.key, task_id="other")))
    with desk.database.write() as transaction:
        held = rows(desk)[1]
        assert Intents(transaction).acquire_lease(held.id, "worker", now=datetime.now(UTC), seconds=60)
    with pytest.raises(IntentBusy, match="worked on by worker"):
        again(desk.database)


def test_what_was_raised_and_not_used_is_not_raised_again(desk: Any) -> None:
    clear(desk)
    again(desk.database)
    with pytest.raises(ConfigError, match="anna@desk raised SPY of order to generation 1 at"):
        again(desk.database, by="bert@desk")


@both
def test_raced_by_people_it_is_raised_once(desk: Any) -> None:
    clear(desk)
    barrier, said = threading.Barrier(4), []

    def person(name: str) -> None:
        barrier.wait()
        try:
            said.append(again(desk.database, by=name).raised_by)
        except ConfigError as error:
            said.append(str(error))

    people = [threading.Thread(target=person, args=(f"p{number}",)) for number in range(4)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    winners = [text for text in said if text.startswith("p") and " " not in text]
    assert len(winners) == 1
    assert sum(f"{winners[0]} raised SPY" in text for text in said) == 3


def test_a_task_with_several_instruments_must_name_one(desk: Any) -> None:
    clear(desk)
    aapl = replace(desk.request().instrument, symbol="AAPL", con_id=265598)
    request = desk.request()
    desk.execute(replace(request, key=replace(request.key, con_id=265598), instrument=aapl))
    with pytest.raises(ConfigError, match="has orders in AAPL, SPY"):
        again(desk.database)
    assert again(desk.database, symbol="AAPL").con_id == 265598
    clear(desk)
    assert len(desk.broker.orders) == 2  # SPY's was not raised


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reason": " "}, "needs a reason"),
        ({"task_id": "none"}, "No order of task none of run-1 is on record"),
        ({"symbol": "AAPL"}, "No order in AAPL of task order of run-1 is on record, only in SPY"),
    ],
)
def test_what_cannot_be_raised_is_said(desk: Any, changes: dict[str, Any], said: str) -> None:
    clear(desk)
    with pytest.raises(ConfigError, match=said):
        again(desk.database, **changes)
    assert clear(desk).filled == Decimal(10)
