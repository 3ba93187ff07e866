"""What a session hears of orders that are not its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.queries import select
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import GatewayUnavailable, SessionInvalid
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import BrokerOrder, OrderTicket, OrderType, Side

SPY = InstrumentSpec(symbol="SPY")


@pytest.fixture
def own(own_spec: GatewaySpec) -> Iterator[BrokerSession]:
    """The only listener at a gateway of the test's own."""
    with BrokerSession.open(own_spec, client_id=10) as opened:
        opened.everything()
        yield opened


def buy(session: BrokerSession, ref: str, limit: str | None = None) -> BrokerOrder:
    ticket = OrderTicket(side=Side.BUY, quantity=Decimal(3))
    if limit:
        ticket = replace(ticket, order_type=OrderType.LIMIT, limit_price=Decimal(limit))
    return session.place(
        session.resolve(SPY), ticket, order_id=session.next_order_id(), order_ref=ref, account=session.account
    )


def test_what_was_said_before_the_listening_began_is_heard(own: BrokerSession, own_spec: GatewaySpec) -> None:
    with BrokerSession.open(own_spec, client_id=11) as other:
        assert other.wait_terminal(buy(other, "early"), seconds=30).ended
        while not own.listen(seconds=1):
            pass
        assert own.listen(seconds=0)
    own.everything()
    assert not own.listen(seconds=0.2)


def test_a_fill_of_another_client_is_heard_and_silence_is_not(own: BrokerSession, own_spec: GatewaySpec) -> None:
    assert not own.listen(seconds=0.2)
    heard: list[bool] = []
    listener = threading.Thread(target=lambda: heard.append(own.listen(seconds=60)))
    listener.start()
    with BrokerSession.open(own_spec, client_id=11) as other:
        assert other.wait_terminal(buy(other, "heard"), seconds=30).ended
        listener.join(60)
        assert heard == [True]


@pytest.mark.parametrize(
    ("fault", "error"),
    [({"cmd": "connectivity", "state": "lost"}, SessionInvalid), ({"cmd": "drop"}, GatewayUnavailable)],
    ids=["IBKR is lost", "the gateway is lost"],
)
def test_what_is_lost_ends_the_listening(
    own: BrokerSession, own_simulator: SimulatorHandle, fault: dict[str, str], error: type[Exception]
) -> None:
    own_simulator.control(**fault)
    with pytest.raises(error):
        own.listen(seconds=30)


def test_everything_is_known_of_every_client_in_one_answer(own: BrokerSession, own_spec: GatewaySpec) -> None:
    with BrokerSession.open(own_spec, client_id=11) as other:
        filled = other.wait_terminal(buy(other, "filled"), seconds=30).orders[0]
        working = buy(other, "working", limit="1.25")
    truth = own.everything()
    assert {order.order_ref: order.status for order in truth.orders} == {"filled": "Filled", "working": "Submitted"}
    one = select(truth.orders, truth.executions, lambda item: item.order_ref == "filled")
    assert (one.orders[0].perm_id, one.filled) == (filled.perm_id, 3)
    assert working.perm_id in {order.perm_id for order in truth.orders}


def test_ids_to_avoid_are_used_only_where_there_is_no_other(spec: GatewaySpec, database: Database) -> None:
    with leased_session(spec, database, owner="a", avoid={10, 12}) as first:
        assert first.client_id == 11
    narrow = replace(spec, client_ids=range(10, 11))
    with leased_session(narrow, database, owner="a", avoid={10}) as only:
        assert only.client_id == 10
