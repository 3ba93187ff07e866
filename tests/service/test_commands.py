"""A halt whose command line has gone is carried on by the leader."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import BrokerTimeout, NotLeader
from airflow_ibkr_plugin.execution.halt import set_state
from airflow_ibkr_plugin.service.commands import enforce_commands
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.trading.orders import IntentState, OrderTicket, OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.trading_state import INSTALLATION, TradingState

FAR_BELOW = OrderTicket(
    side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal("1.25"), tif=TimeInForce.GTC
)
pytestmark = pytest.mark.usefixtures("quick")


def halt(floor: Any) -> None:
    set_state(floor.database, INSTALLATION, TradingState.HALTED, by="t", reason="t", command_id="c1", flatten=False)


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
