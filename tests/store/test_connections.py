from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.order_ids import OrderIds

_sources = itertools.count(1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offers=st.lists(st.integers(1, 60), min_size=1, max_size=15))
def test_order_ids_only_grow(database: Database, offers: list[int]) -> None:
    source = f"s{next(_sources)}"
    last = 0
    for offer in offers:
        with database.write() as session:
            given_out = OrderIds(session).allocate(source, 1, offer)
        assert given_out == max(offer, last + 1)
        last = given_out


def test_order_ids_are_each_clients_own(database: Database) -> None:
    with database.write() as session:
        ids = OrderIds(session)
        assert [ids.allocate("a", 1, 5), ids.allocate("a", 2, 5), ids.allocate("b", 1, 5)] == [5, 5, 5]
        assert ids.allocate("a", 1, 5) == 6


def test_order_ids_never_repeat_in_a_race(database: Database, race: Any) -> None:
    def work(database: Database, number: int) -> list[int]:
        found = []
        for _ in range(5):
            with database.write() as session:
                found.append(OrderIds(session).allocate("a", 1, 100 if number % 2 else 1))
        return found

    found = [order_id for ids in race(work, 6) for order_id in ids]
    assert len(found) == len(set(found)) == 30


def test_a_client_id_is_one_holders(database: Database, now: datetime) -> None:
    with database.write() as session:
        leases = ClientLeases(session)
        pool = range(10, 12)
        assert leases.acquire("a", pool, "x", now, 30) == 10
        assert leases.acquire("a", pool, "x", now, 30) == 11  # not even its own id twice
        assert leases.acquire("a", pool, "y", now, 30) is None
        assert leases.acquire("b", pool, "y", now, 30) == 10
        assert not leases.release("a", 10, "y")
        assert leases.release("a", 10, "x")
        assert leases.acquire("a", pool, "y", now, 30) == 10


def test_a_client_id_comes_free_by_itself(database: Database, now: datetime) -> None:
    with database.write() as session:
        leases = ClientLeases(session)
        leases.acquire("a", range(1, 2), "x", now, 30)
        assert leases.renew("a", 1, "x", now + timedelta(seconds=20), 30)
        assert not leases.renew("a", 1, "y", now + timedelta(seconds=20), 30)
        assert leases.acquire("a", range(1, 2), "y", now + timedelta(seconds=49), 30) is None
        assert not leases.renew("a", 1, "x", now + timedelta(seconds=50), 30)
        assert leases.acquire("a", range(1, 2), "y", now + timedelta(seconds=50), 30) == 1
        assert not leases.release("a", 1, "x")


def test_racers_get_different_client_ids(database: Database, race: Any, now: datetime) -> None:
    def work(database: Database, number: int) -> int | None:
        with database.write() as session:
            return ClientLeases(session).acquire("a", range(1, 6), f"w{number}", now, 30)

    found = race(work, 8)
    held = [client_id for client_id in found if client_id is not None]
    assert sorted(held) == [1, 2, 3, 4, 5]

    def take_over(database: Database, number: int) -> int | None:
        with database.write() as session:
            return ClientLeases(session).acquire("a", range(1, 6), f"n{number}", now + timedelta(seconds=31), 30)

    assert sorted(i for i in race(take_over, 8) if i is not None) == [1, 2, 3, 4, 5]
