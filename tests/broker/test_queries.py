"""What an answer of the broker counts for where it is empty, partial, old or about somebody else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.auth import check_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import BrokerTimeout, SessionInvalid
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import OrderTicket, OrderType, Side

SPY = InstrumentSpec(symbol="SPY")
FAR_BELOW = OrderTicket(side=Side.BUY, quantity=Decimal(1), order_type=OrderType.LIMIT, limit_price=Decimal("1.25"))
Impatient = Callable[[BrokerSession], AbstractContextManager[None]]


@pytest.fixture
def own(own_spec: GatewaySpec) -> Any:
    with BrokerSession.open(own_spec, client_id=10) as session:
        yield session


def place(session: BrokerSession, ticket: OrderTicket, order_ref: str) -> Any:
    number = session.next_order_id()
    return session.place(session.resolve(SPY), ticket, order_id=number, order_ref=order_ref, account=session.account)


def test_a_gateway_without_ibkr_does_not_know_that_an_order_is_absent(
    own: BrokerSession, own_simulator: SimulatorHandle
) -> None:
    place(own, FAR_BELOW, "there")
    assert not own.find_by_ref("nowhere").known
    own_simulator.control("connectivity", state="lost")
    assert own.find_by_ref("there").known
    with pytest.raises(SessionInvalid, match="1100"):
        own.find_by_ref("nowhere")
    own_simulator.control("connectivity", state="restored")
    assert not own.find_by_ref("nowhere").known


def test_what_was_heard_of_is_not_absent_because_no_list_has_it(own: BrokerSession) -> None:
    order = place(own, FAR_BELOW, "listed")
    own._gateway.journal.orders[424242] = replace(order, order_ref="heard", perm_id=424242)
    (found,) = own.find_by_ref("heard").orders
    assert found.perm_id == 424242


def test_a_gateway_that_answers_and_has_lost_ibkr_is_no_valid_session(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec
) -> None:
    assert check_session(own_spec).valid
    own_simulator.control("connectivity", state="lost")
    status = check_session(own_spec)
    assert (status.valid, status.listening) == (False, True)
    assert "2110" in status.detail


def test_each_account_of_a_login_has_its_own_positions(clock: datetime) -> None:
    with start_simulator(clock=clock, account="DU1000001,DU1000002") as handle:
        spec = GatewaySpec(
            conn_id="c", host=handle.host, port=handle.port, client_ids=range(1, 9), account="DU1000001", timeout=5
        )
        with BrokerSession.open(spec, client_id=1) as session:
            place(session, OrderTicket(side=Side.BUY, quantity=Decimal(3)), "bought")
            assert [position.quantity for position in session.positions()] == [3]
        with BrokerSession.open(replace(spec, account="DU1000002"), client_id=1) as session:
            assert session.positions() == []


def test_a_position_of_nothing_is_none(session: BrokerSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway goes on naming for the rest of the day what was closed."""
    gateway = session._gateway
    contract = gateway.library.Contract(conId=756733, symbol="SPY", secType="STK")

    def answer() -> None:
        gateway.wrapper.position(session.account, contract, 0.0, 0.0)
        gateway.wrapper.position(session.account, replace(contract, conId=1), 2.0, 10.0)
        gateway.wrapper.positionEnd()

    monkeypatch.setattr(gateway.client, "reqPositions", answer)
    assert [(position.con_id, position.quantity) for position in session.positions()] == [(1, 2)]


def test_the_accounts_worth_is_as_old_as_when_it_was_heard(session: BrokerSession) -> None:
    session._gateway.journal.account_heard -= 100
    snapshot = session.account_snapshot()
    assert snapshot.values_at is not None
    assert snapshot.at - snapshot.values_at >= timedelta(seconds=100)


def test_bid_and_ask_are_a_quote_before_the_snapshot_ends(session: BrokerSession, simulator: SimulatorHandle) -> None:
    spy = session.resolve(SPY)
    simulator.control("mute", messages=["tickSnapshotEnd"])
    try:
        assert session.quote(spy).bid
    finally:
        simulator.control("mute", messages=[])


def test_history_that_is_not_waited_for_is_cancelled(
    own: BrokerSession, own_simulator: SimulatorHandle, impatient: Impatient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it goes on counting against the fifty that may be open."""
    spy, client, cancelled = own.resolve(SPY), own._gateway.client, list[int]()
    cancel = client.cancelHistoricalData

    def noted(number: int) -> None:
        cancelled.append(number)
        cancel(number)

    monkeypatch.setattr(client, "cancelHistoricalData", noted)
    own_simulator.control("delay", messages=["historicalData"], seconds=600, count=1)
    with impatient(own), pytest.raises(BrokerTimeout, match="5 D of 1 day"):
        own.history(spy, bar_size="1 day", duration="5 D", end=None)
    assert len(cancelled) == 1
