"""Brackets and trailing stops whose task is gone: the service books their ends, and sees to it that a stop works."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from freezegun import freeze_time

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import BrokerError
from airflow_ibkr_plugin.execution import protect
from airflow_ibkr_plugin.execution.declare import Declared, declare
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.service import visit
from airflow_ibkr_plugin.service.follow import Follower, follow_jobs
from airflow_ibkr_plugin.service.term import stand
from airflow_ibkr_plugin.service.visit import Visit
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.brackets import BracketPlan
from airflow_ibkr_plugin.trading.orders import BracketState, IntentState, OrderTicket, OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.plans import TicketPlan
from airflow_ibkr_plugin.trading.sizing import Sizing

SOURCE = "simulator:ibkr_default"
WIDE = BracketPlan.parse({"stop": {"offset": 0.2}, "target": {"offset": 0.3}})
NEAR = BracketPlan.parse({"stop": {"offset": 0.001, "order_type": "TRAIL"}})
pytestmark = pytest.mark.usefixtures("quick")


def bought(floor: Any, plan: BracketPlan, run_id: str = "run-1") -> None:
    """The run of a task that ended when its entry had filled."""
    floor.open_market()
    with leased_session(floor.spec, floor.database, owner="t") as session:
        ticket = TicketPlan(side=Side.BUY, sizing=Sizing.parse({"quantity": 10}), bracket=plan)
        assert execute(session, floor.database, floor.request(session, run_id, ticket=ticket), owner="t").filled == 10


def legs(floor: Any, run_id: str = "run-1") -> dict[str, Any]:
    with floor.database.read() as transaction:
        return {row.leg: row for row in Intents(transaction).for_run("demo", run_id)}


def alerts(floor: Any) -> list[Any]:
    with floor.database.read() as session:
        return Alerts(session).due(datetime(2100, 1, 1, tzinfo=UTC))


def one_round(floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question to the broker, and all that follows from it."""
    with monkeypatch.context() as patched:
        patched.setattr(Follower, "_listen", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with contextlib.suppress(KeyboardInterrupt):
            Follower(floor.database, term, SOURCE, lambda _: replace(floor.spec, client_ids=range(20, 30))).work()


def test_a_trailing_stop_of_a_bracket_fills_days_later_and_is_booked(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought(floor, NEAR)
    assert floor.position() == 10
    for _ in range(100):
        one_round(floor, term, monkeypatch)
        if floor.position() == 0:
            break
        floor.gateway.control("clock", advance=6 * 3600)
    assert {leg: str(row.state) for leg, row in legs(floor).items()} == {"entry": "filled", "stop": "filled"}
    assert legs(floor)["entry"].bracket is BracketState.CLOSED
    (fill,) = floor.fills(legs(floor)["stop"].order_ref)
    assert (fill.quantity, fill.strategy, fill.commission is not None) == (10, "demo", True)
    assert alerts(floor) == []
    assert follow_jobs(floor.database, term, lambda _: floor.spec) == []


def test_a_trailing_stop_that_its_task_left_is_booked_when_it_triggers(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.open_market()
    with leased_session(floor.spec, floor.database, owner="t") as session:
        execute(session, floor.database, floor.request(session, "buy"), owner="t")
        price = session.quote(floor.request(session, "x").instrument).reference
        assert price is not None
        ticket = OrderTicket(
            side=Side.SELL,
            quantity=Decimal(10),
            order_type=OrderType.TRAIL,
            trail_percent=Decimal("0.2"),
            stop_price=(price * Decimal("0.99")).quantize(Decimal("0.01")),
            tif=TimeInForce.GTC,
        )
        left = floor.request(session, "run-1", ticket=ticket, leave_working=True, wait_seconds=0.2)
        outcome = execute(session, floor.database, left, owner="t")
    assert outcome.state is IntentState.WORKING
    for _ in range(100):
        one_round(floor, term, monkeypatch)
        if floor.position() == 0:
            break
        floor.gateway.control("clock", advance=3600)
    assert floor.intent(outcome.order_ref).state is IntentState.FILLED
    assert floor.position() == 0


def test_a_stop_that_is_gone_is_sent_anew_by_the_service(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought(floor, WIDE)
    one_round(floor, term, monkeypatch)
    assert set(legs(floor)) == {"entry", "target", "stop"}
    stop = legs(floor)["stop"]
    with BrokerSession.open(floor.spec, client_id=stop.client_id) as owner:
        (order,) = owner.find_by_ref(stop.order_ref).orders
        owner.cancel(order, seconds=10)
    one_round(floor, term, monkeypatch)
    assert legs(floor)["stop.2"].state is IntentState.WORKING
    assert len(alerts(floor)) == 1
    one_round(floor, term, monkeypatch)
    assert set(legs(floor)) == {"entry", "target", "stop", "stop.2"}


def test_a_bracket_that_cannot_be_looked_at_keeps_no_other_from_its_stop(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought(floor, WIDE)
    monkeypatch.setattr(type(floor), "open_market", lambda _: None)  # it is
    bought(floor, WIDE, "run-2")
    stop = legs(floor, "run-2")["stop"]
    with BrokerSession.open(floor.spec, client_id=stop.client_id) as owner:
        (order,) = owner.find_by_ref(stop.order_ref).orders
        owner.cancel(order, seconds=10)
    protect_one = Visit.protect

    def refused(self: Any, entry: Any, find: Any) -> None:
        if entry.run_id == "run-1":
            raise BrokerError("the change of its stop was refused", remedy="look")
        protect_one(self, entry, find)

    monkeypatch.setattr(Visit, "protect", refused)
    with pytest.raises(BrokerError, match="was refused"):
        one_round(floor, term, monkeypatch)
    assert legs(floor, "run-2")["stop.2"].state is IntentState.WORKING


def test_a_task_that_died_behind_its_entry_leaves_a_protected_position(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is gone and the task never comes back: the service alone sees to it."""
    floor.open_market()
    with leased_session(floor.spec, floor.database, owner="t") as session, monkeypatch.context() as patched:
        ticket = TicketPlan(side=Side.BUY, sizing=Sizing.parse({"quantity": 10}), bracket=WIDE)
        request = floor.request(session, "run-1", ticket=ticket)
        patched.setattr("airflow_ibkr_plugin.execution.place.settle", _dies)
        with pytest.raises(KeyboardInterrupt):
            execute(session, floor.database, request, owner="t")
        stop = legs(floor)["stop"]
        (order,) = session.find_by_ref(stop.order_ref).orders
        session.cancel(order, seconds=10)
    one_round(floor, term, monkeypatch)
    assert floor.position() == 10
    assert legs(floor)["stop.2"].state is IntentState.WORKING


def _dies(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def cancel_exits(floor: Any) -> None:
    """Somebody cancels the stop by hand; its group goes with it."""
    stop = legs(floor)["stop"]
    with BrokerSession.open(floor.spec, client_id=stop.client_id) as owner:
        (order,) = owner.find_by_ref(stop.order_ref).orders
        owner.cancel(order, seconds=10)


def test_exits_that_are_unknown_on_a_later_day_are_told_at_once_and_a_new_stop_is_sent_when_a_person_has_looked(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They went while no service ran, and IBKR tells of one day: were they cancelled, or did one fill?"""
    monkeypatch.setattr(visit, "LEFT_TO_TASK", timedelta(seconds=60))  # a task may come back: what it holds is told
    bought(floor, WIDE)
    cancel_exits(floor)
    floor.gateway.control("clock", advance=24 * 3600)  # the next day, while the market is open
    one_round(floor, term, monkeypatch)
    entry, lost = legs(floor)["entry"], [legs(floor)[leg] for leg in ("stop", "target")]
    assert [row.state for row in lost] == [IntentState.AMBIGUOUS] * 2
    (alert,) = alerts(floor)
    assert (alert.severity, alert.title) == ("critical", "[IBKR] demo: SPY may be without its stop")
    assert f"Bracket {entry.order_ref}" in alert.body
    assert all(f"airflow ibkr orders settle {row.order_ref} --as ended" in alert.body for row in lost)
    one_round(floor, term, monkeypatch)
    assert len(alerts(floor)) == 1
    assert set(legs(floor)) == {"entry", "target", "stop"}  # the old ones might fill yet
    for row in lost:
        declare(
            floor.database,
            row.order_ref,
            Declared.ENDED,
            by="anna@desk",
            reason="gone in TWS",
            gateway_of=lambda _: floor.spec,
        )
    one_round(floor, term, monkeypatch)
    new = legs(floor)["stop.2"]
    assert (new.state, new.quantity, new.stop_price) == (IntentState.WORKING, 10, lost[0].stop_price)
    assert floor.position() == 10


def test_a_bracket_that_cannot_be_put_right_is_told_after_a_minute(floor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the client id that placed its exits can change them, and another program has that."""
    bought(floor, WIDE)
    monkeypatch.setattr(Follower, "_listen", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(protect, "held_of", lambda *_: Decimal(4))  # and the exits are for ten
    with (
        BrokerSession.open(floor.spec, client_id=legs(floor)["stop"].client_id),
        freeze_time(datetime.now(UTC), real_asyncio=True) as clock,
    ):
        term = stand(floor.database, "test", seconds=600)
        assert term is not None
        follower = Follower(floor.database, term, SOURCE, lambda _: replace(floor.spec, client_ids=range(20, 30)))
        for seconds, told in ((0, 0), (59, 0), (1, 1), (60, 1)):
            clock.tick(seconds)
            with pytest.raises(KeyboardInterrupt):
                follower.work()
            assert len(alerts(floor)) == told
    (alert,) = alerts(floor)
    assert alert.title == "[IBKR] demo: SPY may be without its stop"
    assert "could not be put right for 60 s" in alert.body
