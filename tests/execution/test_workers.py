"""Several workers, and workers that die, against the broker in memory (see conftest)."""

from __future__ import annotations

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
from airflow_ibkr_plugin.execution import send as send_module
from airflow_ibkr_plugin.execution.lease import hold
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.orders import IntentState
from airflow_ibkr_plugin.trading.risk_rules import rules

RULES = {rule.name: rule for rule in rules()}
Make = Callable[..., OrderRequest]


def position(database: Database, strategy: str = "demo") -> Decimal:
    with database.read() as transaction:
        rows = Positions(transaction).list(strategy=strategy)
        return sum((row.quantity for row in rows), Decimal(0))


def state_of(database: Database, request: OrderRequest) -> IntentState:
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(request.key.order_ref)
        assert row is not None
        return row.state


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


def test_strategies_racing_for_one_limit_never_pass_it(
    make_session: Callable[..., Any], broker: Any, either_database: Database, make_request: Make
) -> None:
    limit = ((RULES["position_size"], {"max_quantity": 25}),)
    start = threading.Barrier(6)
    highest: list[Decimal] = []

    def trade(number: int) -> None:
        start.wait()
        source = f"simulator:connection_{number % 2}"  # one account, two connections
        for run in range(3):
            request = make_request(quantity=4, strategy=f"s{number}", run_id=str(run), rules=limit, source=source)
            execute(make_session(client_id=10 + number, source=source), either_database, request, owner=str(number))
            highest.append(broker.position())

    threads = [threading.Thread(target=trade, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(highest) == 18
    assert max(highest) == broker.position() == 25
    assert sum(position(either_database, f"s{number}") for number in range(6)) == 25
