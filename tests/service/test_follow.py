"""What becomes of orders whose task is gone: over sockets, on the simulated gateway."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from structlog.testing import capture_logs

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import BrokerError, ConfigError, GatewayUnavailable, NotLeader
from airflow_ibkr_plugin.execution.halt import set_state
from airflow_ibkr_plugin.execution.lease import hold
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.service import follow, overdue, visit
from airflow_ibkr_plugin.service.follow import Follower, follow_jobs
from airflow_ibkr_plugin.service.jobs import start
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox
from airflow_ibkr_plugin.trading.orders import IntentState, OrderTicket, OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.trading_state import TradingState

SOURCE = "simulator:ibkr_default"
Until = Callable[[str, Callable[[], Any]], Any]
FAR_BELOW = OrderTicket(
    side=Side.BUY,
    quantity=Decimal(10),
    order_type=OrderType.LIMIT,
    limit_price=Decimal("1.25"),
    tif=TimeInForce.GTC,
)
pytestmark = pytest.mark.usefixtures("quick")


@contextmanager
def following(floor: Any, term: Any) -> Iterator[None]:
    """The leader's own thread at this job."""
    (job,) = follow_jobs(floor.database, term, lambda _: floor.spec)
    thread = start(replace(job, period=0.05), term, floor.database)
    try:
        yield
    finally:
        term.end()
        thread.join(60)
        assert not thread.is_alive()


def round_of(floor: Any, term: Any, **changes: Any) -> bool:
    """One round, which ends when nothing is left to follow."""
    return Follower(floor.database, term, SOURCE, lambda _: replace(floor.spec, **changes)).work()


def alerts(floor: Any) -> list[Any]:
    with floor.database.read() as session:
        return Alerts(session).due(datetime(2100, 1, 1, tzinfo=UTC))


def test_an_order_that_fills_after_its_task_has_gone_is_booked_with_its_commission(
    floor: Any, term: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch)
    assert floor.intent(order_ref).state is IntentState.WORKING
    monkeypatch.setattr(follow, "ASK_SECONDS", 600.0)  # what it does not ask for it must hear
    with following(floor, term):
        until("connected", lambda: len(floor.gateway.control("status")["clients"]) == 1)
        floor.open_market()
        until("filled", lambda: floor.intent(order_ref).state is IntentState.FILLED)
    (fill,) = floor.fills(order_ref)
    assert (fill.quantity, fill.strategy) == (10, "demo")
    assert fill.commission is not None
    assert floor.position() == 10
    with floor.database.read() as session:
        records = TrackingOutbox(session).pending(None, "demo", "run-1")
    assert any("filled" in str(record.payload) for record in records)
    assert alerts(floor) == []


def test_what_is_not_to_be_followed_any_more_is_not_remembered(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service runs for months, and each order passes through it."""
    floor.leave_order(monkeypatch)
    floor.open_market()
    follower = Follower(floor.database, term, SOURCE, lambda _: floor.spec)
    assert follower.work()
    assert floor.position() == 10
    assert (follower._booked, follower._rests) == ({}, {})


def test_an_order_that_its_task_left_is_booked_and_found_again_by_the_task(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leased_session(floor.spec, floor.database, owner="t") as session:
        request = floor.request(session, "run-1", leave_working=True, wait_seconds=0.5)
        left = execute(session, floor.database, request, owner="t")
        assert (left.state, left.filled) == (IntentState.WORKING, 0)
        assert execute(session, floor.database, request, owner="t") == left
    floor.open_market()
    assert round_of(floor, term)
    assert floor.intent(request.key.order_ref).state is IntentState.FILLED
    with leased_session(floor.spec, floor.database, owner="t") as session:
        assert execute(session, floor.database, request, owner="t").filled == 10
    assert len(floor.gateway.control("orders", order_ref=request.key.order_ref)["orders"]) == 1


@pytest.mark.parametrize(("leads", "warnings"), [(True, 0), (False, 1)])
def test_leaving_an_order_that_nobody_will_follow_is_said(
    floor: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, leads: bool, warnings: int
) -> None:
    if leads:
        request.getfixturevalue("term")
    with leased_session(floor.spec, floor.database, owner="t") as session:
        left = floor.request(session, "run-1", leave_working=True, wait_seconds=0.5)
        execute(session, floor.database, left, owner="t")
    assert sum("no `airflow ibkr service` leads" in record.getMessage() for record in caplog.records) == warnings


def test_a_halt_cancels_an_order_that_would_be_left(floor: Any) -> None:
    with leased_session(floor.spec, floor.database, owner="t") as session:
        request = floor.request(session, "run-1", leave_working=True, wait_seconds=0.5)
        assert execute(session, floor.database, request, owner="t").state is IntentState.WORKING
        set_state(floor.database, "", TradingState.HALTED, by="t", reason="t", command_id="c1", flatten=False)
        waiting = replace(request, wait_seconds=600.0)
        assert execute(session, floor.database, waiting, owner="t").state is IntentState.CANCELLED


def test_a_cancel_by_another_hand_is_booked_by_asking(
    floor: Any, term: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch, ticket=FAR_BELOW)
    monkeypatch.setattr(follow, "ASK_SECONDS", 0.5)
    with following(floor, term):
        owner = floor.intent(order_ref).client_id
        with leased_session(replace(floor.spec, client_ids=range(owner, owner + 1)), floor.database, owner="t") as own:
            own.cancel(own.find_by_ref(order_ref).orders[0], seconds=30)
        until("cancelled", lambda: floor.intent(order_ref).state is IntentState.CANCELLED)
    assert floor.position() == 0


def test_a_cancel_that_a_dead_task_had_asked_for_is_asked_for_again(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch, ticket=FAR_BELOW)
    with floor.database.write() as session:
        intents = Intents(session)
        row = intents.by_order_ref(order_ref)
        intents.transition(row, IntentState.CANCELLING, at=datetime.now(UTC), reason="not filled within 60 s")
    assert round_of(floor, term)
    assert floor.intent(order_ref).state is IntentState.CANCELLED
    (order,) = floor.gateway.control("orders", order_ref=order_ref)["orders"]
    assert order["status"] == "Cancelled"


def test_what_a_worker_holds_is_left_to_it(
    floor: Any, term: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch)
    floor.open_market()
    with hold(floor.database, floor.intent(order_ref).id, "worker", seconds=60):
        assert follow_jobs(floor.database, term, lambda _: floor.spec) == []
        assert round_of(floor, term)  # nothing to do, and no connection is made for it
    assert floor.fills(order_ref) == []
    assert round_of(floor, term)
    assert floor.position() == 10


def test_a_worker_that_comes_first_after_the_broker_was_asked_keeps_the_intent(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch)
    floor.open_market()
    row = floor.intent(order_ref)
    with leased_session(floor.spec, floor.database, owner="s") as session:
        truth = follow.about(row, session.everything())
        assert truth.known
        look = visit.Visit(floor.database, term, session, "service")
        with hold(floor.database, row.id, "worker", seconds=60):
            assert look.book(row, truth) is None
        assert floor.fills(order_ref) == []
        term.end()
        with pytest.raises(NotLeader):
            look.book(row, truth)


def test_no_client_id_is_taken_that_owns_an_order(
    floor: Any, term: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch)
    assert floor.intent(order_ref).client_id == 10
    with following(floor, term):
        clients = until("connected", lambda: floor.gateway.control("status")["clients"])
    assert clients == [11]


def test_an_order_that_vanished_is_ambiguous_and_told_of_once(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch)
    with floor.database.write() as session:  # the broker never heard of this one
        row = Intents(session).by_order_ref(order_ref)
        row.order_ref, row.perm_id = "aip-vanished", 4711
    assert round_of(floor, term)
    assert floor.intent("aip-vanished").state is IntentState.AMBIGUOUS
    assert round_of(floor, term)
    (alert,) = alerts(floor)
    assert alert.severity == "critical"
    assert "aip-vanished" in alert.body


def test_an_order_lost_on_its_way_is_never_sent_by_the_service_and_told_of_when_nobody_comes(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.gateway.control("drop_before_accept")
    with leased_session(floor.spec, floor.database, owner="t") as session:
        request = floor.request(session, "run-1")
        with pytest.raises(BrokerError):
            execute(session, floor.database, request, owner="t")
    order_ref = request.key.order_ref
    assert round_of(floor, term)
    assert floor.intent(order_ref).state is IntentState.AMBIGUOUS
    assert floor.gateway.control("orders", order_ref=order_ref)["orders"] == []
    assert alerts(floor) == []  # its task may come back
    monkeypatch.setattr(overdue, "ALERT_AFTER", timedelta(0))
    assert overdue.alert_overdue(floor.database, term)
    assert len(alerts(floor)) == 1
    with leased_session(floor.spec, floor.database, owner="t") as session:  # and it does
        floor.open_market()
        assert execute(session, floor.database, request, owner="t").state is IntentState.FILLED


def test_a_commission_that_came_after_the_end_is_booked(floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order_ref = floor.leave_order(monkeypatch)
    floor.open_market()
    assert round_of(floor, term)
    with floor.database.write() as session:
        (fill,) = floor.fills(order_ref)
        session.add(fill)
        fill.commission = None
    assert floor.intent(order_ref).state is IntentState.FILLED
    assert round_of(floor, term)
    assert floor.fills(order_ref)[0].commission is not None


def test_the_nightly_restart_is_outlived(floor: Any, term: Any, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    order_ref = floor.leave_order(monkeypatch)
    with following(floor, term), capture_logs() as logs:
        until("connected", lambda: floor.gateway.control("status")["clients"])
        floor.gateway.control("restart", seconds=3)
        until("noticed", lambda: any(entry["event"] == "job failed" for entry in logs))
        floor.open_market()
        until("filled", lambda: floor.intent(order_ref).state is IntentState.FILLED)
        until("well", lambda: any(entry["event"] == "job is well again" for entry in logs))
    assert floor.position() == 10
    assert alerts(floor) == []


def test_a_connection_that_leads_elsewhere_by_now_is_said(
    floor: Any, term: Any, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch)
    with floor.database.write() as session:
        Intents(session).by_order_ref(order_ref).source = "paper:ibkr_default"
    elsewhere = Follower(floor.database, term, "paper:ibkr_default", lambda _: floor.spec)
    with pytest.raises(ConfigError, match="leads to simulator:ibkr_default now"):
        elsewhere.work()
    with floor.database.write() as session:
        row = Intents(session).by_order_ref(order_ref)
        row.source, row.account = SOURCE, "DU7654321"
    with pytest.raises(ConfigError, match="DU7654321"):
        round_of(floor, term)
    with pytest.raises(GatewayUnavailable):
        round_of(floor, term, port=unused_port)


def test_an_interrupted_follower_hangs_up_at_once(
    floor: Any, term: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.leave_order(monkeypatch)
    listening = threading.Event()
    listen = BrokerSession.listen

    def told(self: BrokerSession, *, seconds: float) -> bool:
        listening.set()
        return listen(self, seconds=seconds)

    monkeypatch.setattr(BrokerSession, "listen", told)
    with following(floor, term):
        assert listening.wait(60)
    until("gone", lambda: not floor.gateway.control("status")["clients"])
    assert follow_jobs(floor.database, term, lambda _: floor.spec)  # it is still to be followed
