"""Several workers, and workers that die, against the broker in memory (see conftest)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import (
    BrokerTimeout,
    Family,
    IntentBusy,
)
from airflow_ibkr_plugin.execution.gate import begin_sending
from airflow_ibkr_plugin.execution.lease import hold
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.orders import IntentState


def test_another_worker_at_the_same_intent_is_waited_for(desk: Any) -> None:
    desk.broker.unreachable = True
    with pytest.raises(BrokerTimeout):
        desk.place()
    desk.broker.unreachable = False
    intent_id = desk.intent(desk.request()).id
    with hold(desk.database, intent_id, "t", seconds=60), pytest.raises(IntentBusy) as raised:
        desk.place()
    assert raised.value.family is Family.RETRY_AFTER
    assert raised.value.retry_after == pytest.approx(60, abs=5)
    assert desk.place().filled == 10


def test_a_worker_that_lost_its_lease_stores_nothing_and_sends_nothing(desk: Any) -> None:
    """It stood still after its question to the broker; another worker took over."""
    find = desk.session.find_by_ref

    def slow(order_ref: str) -> Any:
        with desk.database.write() as transaction:
            later = datetime.now(UTC) + timedelta(seconds=61)
            intent_id = desk.intent(desk.request()).id
            assert Intents(transaction).acquire_lease(intent_id, "another", now=later, seconds=60)
        return find(order_ref)

    desk.session.find_by_ref = slow
    with pytest.raises(IntentBusy, match="lost"):
        desk.place()
    assert desk.state() is IntentState.RESERVED
    assert not desk.broker.orders


def test_a_worker_that_stood_still_after_its_last_commit_does_not_send(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(job: Any, *arguments: Any, **changes: Any) -> Any:
        row = begin_sending(job, *arguments, **changes)
        job.lease._renewed -= 31.0
        return row

    monkeypatch.setattr("airflow_ibkr_plugin.execution.send.begin_sending", stopped)
    with pytest.raises(IntentBusy, match="stood still"):
        desk.place()
    assert not desk.broker.orders


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
    desk: Any, after: bool, fills: bool
) -> None:
    for at in itertools.count(1):
        run = {"run_id": f"run-{at}", "strategy": f"strategy-{at}"}
        desk.broker.orders.clear()
        desk.broker.executions.clear()
        desk.broker.fate = None if fills else lambda broker, perm_id: broker.fill(perm_id, Decimal(2))
        killer = Killer(at, after=after)
        doomed = desk.connect()
        for name in MESSAGES:
            setattr(doomed, name, killer.wrap(getattr(doomed, name)))
        dying = Database(str(desk.database.url))
        killer.wrap_commits(dying)
        try:
            execute(doomed, dying, desk.request(**run), owner="1")
        except Killed:
            desk.let_leases_run_out(run["strategy"], run["run_id"])
            outcome = desk.place(**run)
        else:
            assert killer.passed < at
            break
        finally:
            dying.dispose()
        assert len(desk.broker.orders) == 1, f"killed at {at}"
        assert outcome.state is (IntentState.FILLED if fills else IntentState.CANCELLED)
        assert desk.position(run["strategy"]) == desk.broker.position() == outcome.filled == (10 if fills else 2)
    assert at > 16


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_strategies_racing_for_one_limit_never_pass_it(desk: Any) -> None:
    limit = {"position_size": {"max_quantity": 25}}
    start = threading.Barrier(6)
    highest: list[Decimal] = []

    def trade(number: int) -> None:
        start.wait()
        source = f"simulator:connection_{number % 2}"  # one account, two connections
        for run in range(3):
            request = desk.request(quantity=4, strategy=f"s{number}", run_id=str(run), rules=limit, source=source)
            desk.execute(request, desk.connect(client_id=10 + number, source=source))
            highest.append(desk.broker.position())

    threads = [threading.Thread(target=trade, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(highest) == 18
    assert max(highest) == desk.broker.position() == 25
    assert sum(desk.position(f"s{number}") for number in range(6)) == 25
