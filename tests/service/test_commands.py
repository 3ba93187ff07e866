"""A halt whose command line has gone is carried on by the leader."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import BrokerTimeout, NotLeader
from airflow_ibkr_plugin.execution import halt as halt_module
from airflow_ibkr_plugin.execution.halt import Enforcement, enforce, set_state
from airflow_ibkr_plugin.service import commands
from airflow_ibkr_plugin.service.commands import command_jobs, enforce_commands
from airflow_ibkr_plugin.service.jobs import Fault
from airflow_ibkr_plugin.service.term import stand
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.trading.orders import IntentState, OrderTicket, OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.trading_state import INSTALLATION, TradingState

FAR_BELOW = OrderTicket(
    side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal("1.25"), tif=TimeInForce.GTC
)
pytestmark = pytest.mark.usefixtures("quick")


def halt(floor: Any, command_id: str = "c1", strategy: str = INSTALLATION) -> None:
    set_state(floor.database, strategy, TradingState.HALTED, by="t", reason="t", command_id=command_id)


def uncancelled(floor: Any) -> list[str]:
    with floor.database.read() as session:
        return [command.id for command in TradingCommands(session).uncancelled()]


def test_what_works_is_cancelled_once_the_gateway_can_be_asked(
    floor: Any, term: Any, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch, ticket=FAR_BELOW)
    assert enforce_commands(floor.database, term, lambda _: floor.spec)  # nobody has halted
    assert floor.intent(order_ref).state is IntentState.WORKING
    halt(floor)
    with pytest.raises(BrokerTimeout, match=r"c1: .*No gateway"):
        enforce_commands(floor.database, term, lambda _: replace(floor.spec, port=unused_port))
    assert uncancelled(floor) == ["c1"]
    assert enforce_commands(floor.database, term, lambda _: floor.spec)
    assert floor.intent(order_ref).state is IntentState.CANCELLED
    assert [order["status"] for order in floor.gateway.control("orders", order_ref=order_ref)["orders"]] == [
        "Cancelled"
    ]
    assert uncancelled(floor) == []


def test_nothing_is_cancelled_in_the_name_of_a_term_that_is_over(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch, ticket=FAR_BELOW)
    halt(floor)
    term.end()
    with pytest.raises(NotLeader):
        enforce_commands(floor.database, term, lambda _: floor.spec)
    assert floor.intent(order_ref).state is IntentState.WORKING


def test_one_that_stood_still_stores_nothing_of_what_it_found(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch, ticket=FAR_BELOW)
    halt(floor)
    look = halt_module._working

    def late(*given: Any) -> Any:
        found = look(*given)
        if not found and term.release():  # cancelled; meanwhile another leads
            assert stand(floor.database, "another") is not None
        return found

    monkeypatch.setattr(halt_module, "_working", late)
    with pytest.raises(NotLeader):
        enforce_commands(floor.database, term, lambda _: floor.spec)
    assert floor.intent(order_ref).state is IntentState.WORKING
    assert uncancelled(floor) == ["c1"]


def test_a_term_that_ends_while_it_cancels_cancels_no_more(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("run-1", "run-2"):
        floor.leave_order(monkeypatch, run_id, ticket=FAR_BELOW)
    halt(floor)
    cancel = halt_module._cancel

    def last(*given: Any) -> str:
        term.end()
        return cancel(*given)

    monkeypatch.setattr(halt_module, "_cancel", last)
    with pytest.raises(NotLeader):
        enforce_commands(floor.database, term, lambda _: floor.spec)

    assert [order["status"] for order in floor.gateway.control("orders")["orders"]].count("Cancelled") == 1


def test_a_command_that_fails_keeps_no_other_from_being_carried_out(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_ref = floor.leave_order(monkeypatch, ticket=FAR_BELOW)
    halt(floor, "c0", strategy="another")
    halt(floor)

    def broken(database: Database, command_id: str, **options: Any) -> Enforcement:
        if command_id == "c0":
            raise ZeroDivisionError("a bug")
        return enforce(database, command_id, **options)

    monkeypatch.setattr(commands, "enforce", broken)
    with pytest.raises(ZeroDivisionError):
        enforce_commands(floor.database, term, lambda _: floor.spec)
    assert floor.intent(order_ref).state is IntentState.CANCELLED
    assert uncancelled(floor) == ["c0"]


def test_a_command_that_is_ended_in_its_round_is_no_fault(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt(floor)

    def late(database: Database, command_id: str, **options: Any) -> Enforcement:
        set_state(database, INSTALLATION, TradingState.ACTIVE, by="t", reason="well again")
        return enforce(database, command_id, **options)

    monkeypatch.setattr(commands, "enforce", late)
    assert enforce_commands(floor.database, term, lambda _: floor.spec)
    assert uncancelled(floor) == []


def test_a_gateway_that_was_away_for_long_is_asked_again_within_seconds(database: Database, term: Any) -> None:
    (job,) = command_jobs(database, term, lambda _: None)  # type: ignore[arg-type,return-value]
    fault = Fault(database, job.name, longest_wait=job.longest_wait)
    at = datetime(2026, 3, 2, tzinfo=UTC)
    assert max(fault.failed(BrokerTimeout("away"), at) for _ in range(50)) == 10.0
