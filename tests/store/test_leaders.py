"""The leader's lease: one at a time, and a term that is over is known to be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from airflow_ibkr_plugin.errors import StoreError
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.leaders import Leaders

SECONDS = 8.0
_names = itertools.count(1)


def acquire(database: Database, owner: str, now: datetime, name: str = "service") -> int | None:
    with database.write() as session:
        return Leaders(session).acquire(name, owner, now, SECONDS)


def test_one_leads_until_its_lease_runs_out(database: Database, now: datetime) -> None:
    assert acquire(database, "a", now) == 1
    assert acquire(database, "b", now) is None
    assert acquire(database, "a", now) is None  # two processes of one name are two
    assert acquire(database, "b", now, name="another") == 1
    later = now + timedelta(seconds=SECONDS)
    with database.read() as session:
        leader = Leaders(session).current("service", now)
        assert leader is not None
        assert (leader.owner, leader.fence, leader.since, leader.until) == ("a", 1, now, later)
        assert Leaders(session).current("service", later) is None
    assert acquire(database, "b", later) == 2


def test_renewing_holds_it_and_nothing_revives_it(database: Database, now: datetime) -> None:
    fence = acquire(database, "a", now)
    assert fence
    later = now + timedelta(seconds=SECONDS - 1)
    with database.write() as session:
        assert Leaders(session).renew("service", fence, later, SECONDS)
    assert acquire(database, "b", now + timedelta(seconds=SECONDS)) is None
    end = later + timedelta(seconds=SECONDS)
    with database.write() as session:
        assert not Leaders(session).renew("service", fence, end, SECONDS)
        assert not Leaders(session).release("service", fence, end)


def test_given_back_another_leads_at_once_under_a_higher_number(database: Database, now: datetime) -> None:
    fence = acquire(database, "a", now)
    assert fence
    with database.write() as session:
        assert Leaders(session).leads("service", fence)
        assert Leaders(session).release("service", fence, now)
    assert acquire(database, "b", now) == fence + 1
    with database.write() as session:
        assert not Leaders(session).leads("service", fence)
        assert not Leaders(session).renew("service", fence, now, SECONDS)
        assert not Leaders(session).release("service", fence, now)
        assert Leaders(session).leads("service", fence + 1)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)  # on SQLite there is one writer anyway
def test_no_term_begins_before_what_is_stored_in_the_name_of_the_last_has_been_committed(
    database: Database, now: datetime
) -> None:
    fence = acquire(database, "a", now)
    assert fence
    later = now + timedelta(seconds=SECONDS)

    def hurry() -> None:
        with database.write() as standing:
            standing.execute(text("SET LOCAL lock_timeout = '50ms'"))
            Leaders(standing).acquire("service", "b", later, SECONDS)

    with database.write() as storing:
        assert Leaders(storing).leads("service", fence)
        with pytest.raises(StoreError, match="lock timeout"):
            hurry()
    assert acquire(database, "b", later) == fence + 1


def test_of_many_that_stand_at_once_one_leads(
    in_processes: Callable[..., list[Any]], now: datetime, database: Database
) -> None:
    fences = in_processes(lambda database, number: acquire(database, f"p{number}", now), 4)
    assert sorted(fence for fence in fences if fence) == [1]


@pytest.mark.usefixtures("database")
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["acquire", "renew", "release"]), st.integers(0, 2), st.integers(0, 10)), max_size=12
    )
)
def test_whatever_happens_one_leads_and_the_number_only_grows(
    database: Database, now: datetime, moves: list[tuple[str, int, int]]
) -> None:
    name = f"service-{next(_names)}"
    held: dict[int, int] = {}  # fence -> end of the term in seconds, as the rule says
    own: dict[int, int] = {}
    clock, last = 0, 0
    for move, who, passed in moves:
        clock += passed
        at = now + timedelta(seconds=clock)
        leading = [fence for fence, end in held.items() if end > clock]
        with database.write() as session:
            leaders = Leaders(session)
            if move == "acquire":
                fence = leaders.acquire(name, f"p{who}", at, 8)
                assert (fence is None) == bool(leading)
                if fence is not None:
                    assert fence == last + 1
                    last, own[who] = fence, fence
                    held[fence] = clock + 8
            elif who in own:
                act = leaders.renew if move == "renew" else leaders.release
                done = act(name, own[who], at, *([8] if move == "renew" else []))
                assert done == (own[who] in leading)
                if done:
                    held[own[who]] = clock + (8 if move == "renew" else 0)
