"""A bracket over weeks: closed piece by piece, halted in the middle of its mending, settled by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import ConfigError, OrderRejected
from airflow_ibkr_plugin.execution import halt as halt_module
from airflow_ibkr_plugin.execution import protect
from airflow_ibkr_plugin.execution.close import begin_close
from airflow_ibkr_plugin.execution.declare import Declared, declare
from airflow_ibkr_plugin.execution.flatten import flatten
from airflow_ibkr_plugin.execution.halt import enforce, set_state
from airflow_ibkr_plugin.execution.reduce import Closing, Reduction, close_position
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.brackets import CLOSE_LEG
from airflow_ibkr_plugin.trading.orders import BracketState, IntentState, OrderType
from airflow_ibkr_plugin.trading.trading_state import TradingState


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halt_module, "SETTLE_SECONDS", 0.3)


def reduce(floor: Any, run_id: str, quantity: int) -> None:
    """As a `close` task does."""
    with floor.session() as session:
        request = floor.request(session, run_id)
        closing = Closing(
            key=replace(request.key, leg=CLOSE_LEG),
            strategy=request.strategy,
            source=request.source,
            account=request.account,
            mode=request.mode,
            instrument=request.instrument,
            reduction=Reduction(quantity=Decimal(quantity)),
            wait_seconds=10.0,
        )
        assert close_position(session, floor.database, closing, owner="t").filled == quantity


def command(floor: Any, command_id: str, quantity: int) -> None:
    """As `airflow ibkr close` does, and then the service."""
    begin_close(floor.database, command_id, "demo", symbol="KO", quantity=Decimal(quantity), by="anna@desk")
    assert enforce(floor.database, command_id, gateway_of=lambda _: floor.spec, owner="e").verified
    assert flatten(floor.database, command_id, gateway_of=lambda _: floor.spec, owner="f").left == ()
    floor.bracket()


def cancel_stop(floor: Any, leg: str = "stop") -> None:
    row = floor.legs()[leg]
    with floor.session(client_ids=range(row.client_id, row.client_id + 1)) as owner:
        owner.cancel(floor.owner(owner, row.order_ref), seconds=10)


@pytest.mark.parametrize("by", ["task", "command"])
def test_closed_piece_by_piece_the_rest_is_held_with_its_stop(floor: Any, by: str) -> None:
    floor.bracket()
    for number in range(1, 6):
        if by == "task":
            reduce(floor, f"close-{number}", 1)
        else:
            command(floor, f"c{number}", 1)
        assert floor.held() == 10 - number
        assert list(floor.working().values()) == [(str(10 - number), "STP")]
    assert not any(leg.startswith("rescue") for leg in floor.legs())
    assert floor.alerts() == []


def test_a_trailing_stop_that_is_sent_anew_begins_where_the_one_before_had_come_to(floor: Any) -> None:
    floor.bracket(bracket={"stop": {"offset": 0.05, "order_type": "TRAIL"}})
    first = floor.legs()["stop"]
    for _ in range(40):
        with floor.session() as session:
            reached = floor.owner(session, first.order_ref).stop_price
        if reached > first.stop_price:
            break
        floor.gateway.control("clock", advance=300)
    floor.gateway.control("clock", freeze=True)
    with floor.session() as session:
        reached = floor.owner(session, first.order_ref).stop_price
    assert reached > first.stop_price
    reduce(floor, "close-1", 4)
    assert floor.legs()["stop.2"].stop_price >= reached
    assert floor.working() == {"stop.2": ("6", "TRAIL")}


def test_a_stop_that_never_lasts_is_not_sent_for_ever(floor: Any) -> None:
    floor.bracket()
    for leg in ("stop", "stop.2", "stop.3"):
        assert floor.held() == 10
        cancel_stop(floor, leg)
        floor.bracket()
    assert floor.held() == 0
    assert floor.legs()["rescue"].state is IntentState.FILLED
    assert "stop.4" not in floor.legs()


def test_a_position_that_can_be_neither_stopped_nor_closed_is_tried_again_after_a_pause(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.bracket()
    cancel_stop(floor)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OrderRejected("IBKR answered with error 201: no.")

    with monkeypatch.context() as refusing:
        refusing.setattr(BrokerSession, "place", refuse)
        for _ in range(6):
            floor.bracket()
    rescues = {"rescue": "rejected", "rescue.2": "rejected", "rescue.3": "rejected"}
    assert {leg: state for leg, state in floor.states().items() if leg.startswith("rescue")} == rescues
    assert sum("on and on" in alert for alert in floor.alerts()) == 1
    assert floor.legs()["entry"].bracket is BracketState.OPEN
    monkeypatch.setattr(protect, "RESCUE_PAUSE", timedelta(0))
    floor.bracket()
    assert floor.states()["rescue.4"] == "filled"
    assert floor.held() == 0
    assert floor.legs()["entry"].bracket is BracketState.CLOSED


def test_a_stop_that_went_out_behind_a_halt_does_not_stand_in_the_way_of_its_closing(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is given, and verified, between the look at the bracket and the sending of its new stop."""
    floor.bracket()
    cancel_stop(floor)
    send = protect._Keeper._send

    def halted_meanwhile(self: Any, leg: str, ticket: Any) -> Any:
        monkeypatch.setattr(protect._Keeper, "_send", send)
        set_state(floor.database, "", TradingState.HALTED, by="t", reason="t", command_id="c1", flatten=True)
        assert enforce(floor.database, "c1", gateway_of=lambda _: floor.spec, owner="e").verified
        return send(self, leg, ticket)

    monkeypatch.setattr(protect._Keeper, "_send", halted_meanwhile)
    floor.bracket()
    floor.bracket()  # as the service does
    assert flatten(floor.database, "c1", gateway_of=lambda _: floor.spec, owner="f").left == ()
    assert (floor.held(), floor.working()) == (0, {})


def test_a_stop_whose_sender_died_is_not_sent_while_its_position_is_being_closed(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.bracket()
    cancel_stop(floor)

    def dies(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(protect, "reserve_and_send", dies)
        with pytest.raises(KeyboardInterrupt):
            floor.bracket()
    assert floor.states()["stop.2"] == "decided"
    set_state(floor.database, "", TradingState.HALTED, by="t", reason="t", command_id="c1", flatten=True)
    assert enforce(floor.database, "c1", gateway_of=lambda _: floor.spec, owner="e").verified
    floor.bracket()
    assert floor.working() == {}
    assert flatten(floor.database, "c1", gateway_of=lambda _: floor.spec, owner="f").left == ()
    floor.bracket()
    assert (floor.held(), floor.working()) == (0, {})
    assert floor.legs()["entry"].bracket is BracketState.CLOSED


def test_an_entry_whose_stop_was_acknowledged_was_sent_whatever_a_person_says(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IBKR tells executions of one day: of yesterday's entry there is only its stop, which works on."""
    floor.bracket()
    rows = floor.legs()
    with floor.database.write() as transaction:  # its fill was never booked
        for name in ("state", "perm_id", "order_id", "client_id"):
            value = IntentState.AMBIGUOUS if name == "state" else None
            setattr(Intents(transaction).get(rows["entry"].id), name, value)
    monkeypatch.setattr(
        BrokerSession, "find_by_ref", lambda self, ref: BrokerSession.find_by_perm_id(self, rows["stop"].perm_id + 999)
    )
    given = {"by": "anna@desk", "reason": "not in TWS", "gateway_of": lambda _: floor.spec}
    with pytest.raises(ConfigError, match=r"acknowledged the \w+ of order .*: the unit was sent"):
        declare(floor.database, rows["entry"].order_ref, Declared.NEVER_SENT, **given)
    assert floor.working().keys() == {"stop", "target"}


def test_an_entry_that_still_works_is_cancelled_before_its_strategy_closes(floor: Any) -> None:
    floor.bracket()
    waiting = {"order_type": OrderType.LIMIT, "limit_offset": Decimal("-0.1")}
    outcome = floor.bracket(run_id="run-2", leave_working=True, wait_seconds=0.2, **waiting)
    assert outcome.state is IntentState.WORKING
    reduce(floor, "close-1", 10)
    assert floor.states("run-2")["entry"] == "cancelled"
    assert (floor.held(), floor.working()) == (0, {})
