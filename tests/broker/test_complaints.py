"""IBKR's complaints about the pace of anything but history: stored for all processes, and heeded by history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.pacing import Pacing
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import GatewayUnavailable, PacingViolation, StoreError
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models.market import PacingEvent
from airflow_ibkr_plugin.store.pacing_events import PacingEvents
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.pacing import HistoryRequest

DAILY = HistoryRequest(con_id=756733, what="TRADES", bar_size="1 day", duration="5 D", end=None, use_rth=True)


def events(database: Database) -> list[PacingEvent]:
    with database.read() as transaction:
        return list(transaction.query(PacingEvent))


def tell(session: BrokerSession, code: int, text: str) -> None:
    """As if the gateway sent this error, which names no request that is open."""

    async def say() -> None:
        session._gateway.journal.on_error(-1, code, text)

    session._loop.run(say())


def test_a_complaint_is_stored_once_and_slows_history_down(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with leased_session(own_spec, database, owner="a") as session:
        spy = session.resolve(InstrumentSpec.parse("SPY"))
        own_simulator.control("message_rate", count=1)
        for _ in range(2):  # the second time the connection is lost, and nobody complains again
            with pytest.raises(GatewayUnavailable, match="Max rate of messages"):
                session.quote(spy)
    (event,) = events(database)
    assert (event.gateway, event.request, event.code) == (own_spec.address, "quote", 100)
    assert timedelta(0) <= event.at - event.sent_at < timedelta(minutes=1)
    assert "history from now on at 1/2 of it" in caplog.text
    with (
        leased_session(own_spec, database, owner="b") as session,
        pytest.raises(PacingViolation, match="leave no room"),
    ):
        Pacing(database, own_spec.address, most_wait=0).history(session, spy, DAILY)


def test_one_that_came_unasked_is_stored_with_the_next_request(spec: GatewaySpec, database: Database) -> None:
    with leased_session(spec, database, owner="a") as leased:
        tell(leased, 420, "Invalid Real-time Query:Pacing violation")
        leased.now()
        leased.now()
    assert [(event.request, event.code) for event in events(database)] == [("now", 420)]


def test_too_many_tickers_at_once_are_no_matter_of_pace(spec: GatewaySpec, database: Database) -> None:
    with leased_session(spec, database, owner="a") as leased:
        tell(leased, 101, "Max number of tickers has been reached")
        leased.now()
    assert events(database) == []


def test_historys_own_complaint_is_stored_by_who_paces_it_and_not_again(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec, database: Database
) -> None:
    with leased_session(own_spec, database, owner="a") as session:
        spy = session.resolve(InstrumentSpec.parse("SPY"))
        own_simulator.control("pacing", count=1)
        with pytest.raises(PacingViolation):
            Pacing(database, own_spec.address, most_wait=0).history(session, spy, DAILY)
        session.now()
    assert [(event.request, event.code) for event in events(database)] == [(DAILY.key, 162)]


def test_the_answer_counts_more_than_the_note(
    spec: GatewaySpec, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(PacingEvents, "add", full)
    with leased_session(spec, database, owner="a") as leased:
        tell(leased, 420, "Pacing violation")
        assert leased.now()
    assert "which is not stored: disk full" in caplog.text
