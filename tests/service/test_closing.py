"""Positions that a command wants closed are closed by the leader, when whoever gave the command has gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.errors import BrokerTimeout, IntentBusy, NotLeader
from airflow_ibkr_plugin.execution import flatten as flatten_module
from airflow_ibkr_plugin.execution import gate, send
from airflow_ibkr_plugin.execution import halt as halt_module
from airflow_ibkr_plugin.execution.close import begin_close
from airflow_ibkr_plugin.execution.halt import enforce, set_state
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.service import closing
from airflow_ibkr_plugin.service.closing import close_positions
from airflow_ibkr_plugin.service.commands import enforce_commands
from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.trading.orders import OrderTicket, Side
from airflow_ibkr_plugin.trading.trading_state import INSTALLATION, TradingState

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def held(floor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The market is open, and the strategy holds ten SPY."""
    monkeypatch.setattr(halt_module, "SETTLE_SECONDS", 0.2)
    floor.open_market()
    with leased_session(floor.spec, floor.database, owner="t") as session:
        request = floor.request(session, "run-1", ticket=OrderTicket(side=Side.BUY, quantity=Decimal(10)))
        assert execute(session, floor.database, request, owner="t").filled == 10


def halt(floor: Any) -> None:
    """The command line died when the cancel was confirmed."""
    set_state(floor.database, INSTALLATION, TradingState.HALTED, by="t", reason="t", command_id="c1", flatten=True)
    assert enforce(floor.database, "c1", gateway_of=lambda _: floor.spec, owner="t").verified


def open_commands(floor: Any) -> list[str]:
    with floor.database.read() as session:
        return [command.id for command in TradingCommands(session).unflattened()]


def test_what_a_halt_wanted_closed_is_closed(floor: Any, term: Any) -> None:
    assert close_positions(floor.database, term, lambda _: floor.spec)  # nobody has halted
    assert floor.position() == 10
    halt(floor)
    assert open_commands(floor) == ["c1"]
    assert close_positions(floor.database, term, lambda _: floor.spec)
    assert floor.position() == 0
    assert open_commands(floor) == []
    assert close_positions(floor.database, term, lambda _: floor.spec)
    assert len(floor.gateway.control("orders")["orders"]) == 2


def test_what_a_person_wanted_closed_is_cancelled_and_closed(floor: Any, term: Any) -> None:
    begin_close(floor.database, "c1", "demo", symbol="SPY", quantity=Decimal(4), by="t")
    assert open_commands(floor) == []  # what works is cancelled first
    assert enforce_commands(floor.database, term, lambda _: floor.spec)
    assert close_positions(floor.database, term, lambda _: floor.spec)
    assert floor.position() == 6


def test_what_cannot_be_closed_yet_is_said_and_tried_again(floor: Any, term: Any, unused_port: int) -> None:
    halt(floor)
    with pytest.raises(BrokerTimeout, match=r"c1: .*No gateway"):
        close_positions(floor.database, term, lambda _: replace(floor.spec, port=unused_port))
    floor.gateway.control("clock", set="2026-03-02T22:30:00+00:00")
    with pytest.raises(BrokerTimeout, match=r"10 SPY of demo in DU1234567: its market is closed"):
        close_positions(floor.database, term, lambda _: floor.spec)
    floor.gateway.control("clock", set="2026-03-03T15:00:00+00:00")
    assert close_positions(floor.database, term, lambda _: floor.spec)
    assert floor.position() == 0


def test_a_person_who_is_about_it_is_not_disturbed(floor: Any, term: Any) -> None:
    halt(floor)
    with floor.database.write() as session:
        name, now = "flatten:simulator:DU1234567", datetime.now(UTC)
        assert ClientLeases(session).acquire(name, range(1), "c1", now, 60) is not None
    with pytest.raises(BrokerTimeout, match="Another command, or the service, closes"):
        close_positions(floor.database, term, lambda _: floor.spec)
    assert floor.position() == 10


def test_a_looser_state_ends_it(floor: Any, term: Any) -> None:
    halt(floor)
    set_state(floor.database, INSTALLATION, TradingState.ACTIVE, by="t", reason="over")
    assert close_positions(floor.database, term, lambda _: floor.spec)
    assert floor.position() == 10


def test_nothing_is_closed_in_the_name_of_a_term_that_is_over(floor: Any, term: Any) -> None:
    halt(floor)
    term.end()
    with pytest.raises(NotLeader):
        close_positions(floor.database, term, lambda _: floor.spec)
    assert floor.position() == 10


def test_who_leads_takes_over_at_once_from_who_led_and_that_one_notices(floor: Any, term: Any) -> None:
    """As after a kill; or of one that stood still, and goes on beside the new leader."""
    halt(floor)
    with (
        leased_session(floor.spec, floor.database, owner="old") as session,
        flatten_module._claim(floor.database, session, "service/0", "service/") as renew,
    ):
        renew()
        assert close_positions(floor.database, term, lambda _: floor.spec)
        with pytest.raises(IntentBusy):
            renew()
    assert floor.position() == 0


def test_a_term_that_ends_between_two_holdings_closes_no_more(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leased_session(floor.spec, floor.database, owner="t") as session:
        request = floor.request(session, "run-2", symbol="AAPL", ticket=OrderTicket(side=Side.BUY, quantity=Decimal(3)))
        assert execute(session, floor.database, request, owner="t").filled == 3
    halt(floor)
    sent: list[str] = []

    def last(*given: Any, **options: Any) -> Any:
        outcome = execute(*given, **options)
        sent.append(outcome.symbol)
        term.end()
        return outcome

    monkeypatch.setattr(flatten_module, "execute", last)
    with pytest.raises(NotLeader):
        close_positions(floor.database, term, lambda _: floor.spec)
    assert len(sent) == 1
    assert floor.position() in (3, 10)
    assert open_commands(floor) == ["c1"]


def test_a_term_that_ends_before_the_send_sends_nothing(floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    halt(floor)
    before = len(floor.gateway.control("orders")["orders"])

    def stood_still(*given: Any, **options: Any) -> Any:
        sending = gate.begin_sending(*given, **options)
        term.end()
        return sending

    monkeypatch.setattr(send, "begin_sending", stood_still)
    with pytest.raises(NotLeader):
        close_positions(floor.database, term, lambda _: floor.spec)
    assert len(floor.gateway.control("orders")["orders"]) == before


def test_a_command_that_fails_keeps_no_other_from_its_round(
    floor: Any, term: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_close(floor.database, "c0", "demo", symbol="SPY", quantity=Decimal(4), by="t")
    assert enforce_commands(floor.database, term, lambda _: floor.spec)
    halt(floor)

    def broken(database: Any, command_id: str, **options: Any) -> Any:
        if command_id == "c0":
            raise ZeroDivisionError("a bug")
        return flatten_module.flatten(database, command_id, **options)

    monkeypatch.setattr(closing, "flatten", broken)
    with pytest.raises(ZeroDivisionError):
        close_positions(floor.database, term, lambda _: floor.spec)
    assert floor.position() == 0
    assert open_commands(floor) == ["c0"]


def test_a_service_closes_what_a_dead_command_left(floor: Any, servers: Any, until: Any) -> None:
    set_state(floor.database, INSTALLATION, TradingState.HALTED, by="t", reason="t", command_id="c1", flatten=True)
    servers.start()
    until("closed", lambda: floor.position() == 0)
    until("said", lambda: "command done: all positions of it are closed" in servers.log.read_text())
