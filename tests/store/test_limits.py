from __future__ import annotations

import threading
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.trading_states import TradingStates

MINUTE = timedelta(minutes=1)


def change(database: Database, parameters: Any, at: datetime, *, account: str = "DU1", **more: Any) -> Any:
    with database.write() as session:
        return Limits(session).change(account, "order_notional", parameters, by="anna", reason="r", at=at, **more)


def in_force(database: Database, at: datetime, account: str | None = "DU1") -> list[Any]:
    with database.read() as session:
        return [(limit.account, limit.parameters) for limit in Limits(session).in_force(account, at)]


def changes(database: Database) -> list[Any]:
    with database.read() as session:
        found = Limits(session).history("DU1", "order_notional")
    return [(row.old_parameters, row.new_parameters, row.changed_by, row.at) for row in found]


def test_a_limit_holds_for_its_account_and_one_of_every_account_for_all(database: Database, now: datetime) -> None:
    change(database, {"max": 1}, now)
    change(database, {"max": 2}, now, account="")
    change(database, {"max": 3}, now, account="DU2")
    assert in_force(database, now) == [("", {"max": 2}), ("DU1", {"max": 1})]
    assert in_force(database, now, "U9") == [("", {"max": 2})]
    assert len(in_force(database, now, None)) == 3


def test_every_change_is_kept_and_what_changes_nothing_is_none(database: Database, now: datetime) -> None:
    later = now + MINUTE
    assert change(database, None, now) is None
    assert change(database, {"max": 1}, now)
    assert change(database, {"max": 1}, later) is None
    assert change(database, {"max": 2}, later)
    assert change(database, None, later)
    assert in_force(database, later) == []
    assert changes(database) == [
        (None, {"max": 1}, "anna", now),
        ({"max": 1}, {"max": 2}, "anna", later),
        ({"max": 2}, None, "anna", later),
    ]


def test_at_its_end_it_reverts_to_what_was_before_though_no_process_lives(database: Database, now: datetime) -> None:
    change(database, {"max": 1}, now)
    change(database, {"max": 9}, now, until=now + 3 * MINUTE)
    change(database, None, now + MINUTE, until=now + 2 * MINUTE)
    seen = [in_force(database, now + minutes * MINUTE) for minutes in range(1, 4)]
    assert seen == [[("DU1", None)], [("DU1", {"max": 9})], [("DU1", {"max": 1})]]
    with database.write() as session:
        assert len(Limits(session).record_ends(now + 9 * MINUTE)) == 2
        assert Limits(session).record_ends(now + 9 * MINUTE) == []
    assert changes(database)[3:] == [
        (None, {"max": 9}, "expiry", now + 2 * MINUTE),
        ({"max": 9}, {"max": 1}, "expiry", now + 3 * MINUTE),
    ]


_LIMITS = st.sampled_from([None, {"max": 1}, {"max": 2}])
_STEPS = st.lists(st.tuples(st.integers(0, 3), _LIMITS, st.none() | st.integers(1, 12), st.booleans()), max_size=8)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_in_force_is_the_newest_change_whose_time_is_not_over(database: Database, now: datetime, steps: Any) -> None:
    made: list[tuple[Any, datetime | None]] = []

    def expected(at: datetime) -> Any:
        running = [parameters for parameters, until in made if until is None or until > at]
        return running[-1] if running else None

    account = f"DU{datetime.now().timestamp()}"  # noqa: DTZ005  one of its own for each example
    for passed, parameters, minutes, recorded in steps:
        now += passed * MINUTE
        until = now + minutes * MINUTE if minutes else None
        if change(database, parameters, now, account=account, until=until):
            made.append((parameters, until))
        if recorded:
            with database.write() as session:
                Limits(session).record_ends(now)
        for later in range(14):
            at = now + later * MINUTE
            limits = in_force(database, at, account)
            assert (limits[0][1] if limits else None) == expected(at)
    with database.write() as session:
        Limits(session).record_ends(now + timedelta(days=1))
        history = Limits(session).history(account)
    assert all(row.new_parameters == following.old_parameters for row, following in pairwise(history))
    assert not history or history[-1].new_parameters == expected(now + timedelta(days=1))


@pytest.mark.parametrize("backend", ["postgresql"])  # SQLite has one writer
def test_a_change_waits_for_orders_that_are_about_to_be_sent(database: Database, now: datetime) -> None:
    begun, done = threading.Event(), threading.Event()

    def tighten() -> None:
        begun.set()
        change(database, {"max": 1}, now)
        done.set()

    thread = threading.Thread(target=tighten)
    with database.write() as session:
        TradingStates(session).hold()
        thread.start()
        begun.wait(10)
        assert not done.wait(0.3)
        assert in_force(database, now) == []
    thread.join()
    assert done.is_set()
