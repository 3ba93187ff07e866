"""A term of leading: what holds while it holds, and what it stops when it is over."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.errors import IntentBusy, NotLeader
from airflow_ibkr_plugin.execution.lease import hold
from airflow_ibkr_plugin.service.term import Term, new_owner, stand
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.leaders import SERVICE, Leaders
from airflow_ibkr_plugin.store.models import Meta

both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@both
def test_one_stands_while_another_leads_and_follows_when_its_lease_has_run_out(database: Database) -> None:
    with freeze_time("2026-11-20T16:00:00Z") as clock:
        first = stand(database, new_owner(), seconds=8)
        assert first is not None
        clock.tick(7.9)
        assert not first.over()
        assert stand(database, new_owner()) is None
        clock.tick(0.2)
        assert first.over()
        second = stand(database, new_owner())
        assert second is not None
        assert second.fence == first.fence + 1
        with pytest.raises(NotLeader, match="Term 1"):
            first.renew()
        assert not first.release()
        assert second.release()
        assert stand(database, new_owner()) is not None


@both
def test_renewed_it_goes_on(database: Database) -> None:
    with freeze_time("2026-11-20T16:00:00Z") as clock:
        term = stand(database, "a", seconds=8)
        assert term is not None
        for _ in range(10):
            clock.tick(6)
            term.renew()
        assert not term.over()
        clock.tick(8)
        assert term.over()


def test_once_over_it_is_not_renewed_though_the_lease_still_runs(database: Database) -> None:
    """Its jobs have stopped: it would lead without them."""
    with freeze_time("2026-11-20T16:00:00Z") as clock:
        term = stand(database, "a", seconds=8)
        assert term is not None
        with database.write() as session:  # as a renewal that waited for the database for long
            assert Leaders(session).renew(SERVICE, term.fence, datetime.now(UTC), 60)
        clock.tick(8)
        with pytest.raises(NotLeader):
            term.renew()
        assert term.release()


def test_a_renewal_that_takes_longer_than_the_term_comes_too_late(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with freeze_time("2026-11-20T16:00:00Z") as clock:
        term = stand(database, "a", seconds=8)
        assert term is not None
        renewed = Leaders.renew

        def slow(*given: Any) -> bool:
            done = renewed(*given)
            clock.tick(8)
            return done

        monkeypatch.setattr(Leaders, "renew", slow)
        with pytest.raises(NotLeader):
            term.renew()
        assert term.over()


@both
def test_what_is_written_in_its_name_is_not_committed_once_another_term_has_begun(database: Database) -> None:
    first = stand(database, "a", seconds=600)
    assert first is not None
    with database.write() as session:
        first.check(session)
    assert first.release()
    assert stand(database, "b") is not None
    assert not first.over()  # its own clock knows of nothing
    with pytest.raises(NotLeader), database.write() as session:
        first.check(session)


@both
def test_through_a_database_that_it_guards_nothing_is_committed_behind_it(database: Database) -> None:
    first = stand(database, "a", seconds=600)
    assert first is not None
    guarded = database.guarded(first)
    with guarded.write() as session:
        session.add(Meta(key="in time", value=""))
    guarded.require()
    with pytest.raises(NotLeader):
        write_as_the_term_ends(guarded, first)
    with guarded.read() as session:  # whoever it is may read
        assert session.get(Meta, "in time") is not None
        assert session.get(Meta, "too late") is None
    first.end()
    with pytest.raises(NotLeader):
        guarded.require()
    with guarded.unguarded().write() as session:
        session.delete(session.get(Meta, "in time"))
    guarded.unguarded().require()


def write_as_the_term_ends(guarded: Database, term: Term) -> None:
    with guarded.write() as session:
        session.add(Meta(key="too late", value=""))
        session.flush()
        if session.get_bind().dialect.name == "sqlite":  # which has one writer at a time
            term.end()
        else:  # another leads before it commits
            assert term.release()
            assert stand(guarded.unguarded(), "b") is not None


def test_told_to_end_it_is_over_at_once(database: Database) -> None:
    term = stand(database, "a")
    assert term is not None
    term.end()
    term.wait(600)
    assert term.over()
    with pytest.raises(NotLeader):
        term.require()


def test_a_lease_on_an_intent_lets_nothing_through_after_the_term(floor: Any, term: Any, monkeypatch: Any) -> None:
    row = floor.intent(floor.leave_order(monkeypatch))
    guarded = floor.database.guarded(term)
    with hold(guarded, row.id, "service", seconds=60) as lease:
        with guarded.write() as transaction:
            lease.renew(transaction)
        lease.check_before_send()
        with pytest.raises(IntentBusy), hold(floor.database, row.id, "worker", seconds=60):
            pass
        assert term.release()
        assert stand(floor.database, "another") is not None
        with pytest.raises(NotLeader), guarded.write() as transaction:
            lease.renew(transaction)
        term.end()
        with pytest.raises(NotLeader):
            lease.check_before_send()
    with hold(floor.database, row.id, "worker", seconds=60):  # it was given back all the same
        pass


def test_a_lease_on_an_intent_that_was_lost_lets_nothing_through_either(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = floor.intent(floor.leave_order(monkeypatch))
    with freeze_time(datetime.now(UTC), real_asyncio=True) as clock:
        term = stand(floor.database, "a", seconds=600)
        assert term is not None
        with hold(floor.database.guarded(term), row.id, "service", seconds=60) as lease:
            clock.tick(31)
            with pytest.raises(IntentBusy, match="stood still for 31 s"):
                lease.check_before_send()
            clock.tick(30)
            with (
                hold(floor.database, row.id, "worker", seconds=60),
                pytest.raises(IntentBusy, match="lost to another"),
                floor.database.write() as transaction,
            ):
                lease.renew(transaction)
            assert not term.over()
