"""What a client trades."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from driver import Driver, Fill, Order, Wanted

_refs = itertools.count(1)


@pytest.fixture
def ref() -> str:
    """An orderRef of the test's own."""
    return f"scenario-{next(_refs)}"


@pytest.fixture(autouse=True)
def _nothing_left(connect: Any) -> Iterator[None]:
    """No scenario leaves working orders to the next."""
    yield
    driver = connect()
    driver.cancel_all()
    driver.until(lambda: not driver.open_orders(everyone=True))


def shown(client: Driver, order_id: int, *statuses: str) -> Order:
    """The order once it has one of the statuses."""
    return client.until(
        lambda: order if (order := client.order(order_id)) is not None and order.status in statuses else None
    )


def filled(client: Driver, order_id: int) -> Fill:
    """The order's one fill, once its commission is known."""
    [fill] = client.until(
        lambda: fills if (fills := client.fills(order_id)) and fills[0].commission is not None else None
    )
    return fill


def test_a_market_order_fills_with_its_commission(client: Driver, client_id: int, ref: str) -> None:
    ask = client.snapshot("AAPL")["ask"]
    order_id = client.place("AAPL", Wanted(quantity=100, ref=ref))
    order = shown(client, order_id, "Filled")
    assert (order.filled, order.average, order.ref) == (100, ask, ref)
    fill = filled(client, order_id)
    assert fill == Fill(
        exec_id=fill.exec_id, order_id=order_id, perm_id=order.perm_id, client_id=client_id, ref=ref, symbol="AAPL",
        side="BOT", shares=100, price=ask, commission=1.0, currency="USD",
    )  # fmt: skip


def test_a_limit_order_is_placed_changed_and_cancelled(client: Driver, client_id: int, ref: str) -> None:
    bid = client.snapshot("MSFT")["bid"]
    low = round(bid * 0.9, 2)
    order_id = client.place("MSFT", Wanted(kind="LMT", limit=low, quantity=10, tif="GTC", ref=ref))
    order = shown(client, order_id, "Submitted")
    assert (order.limit, order.quantity, order.tif, order.client_id) == (low, 10, "GTC", client_id)
    client.modify(order_id, Wanted(kind="LMT", limit=low + 1, quantity=20, tif="GTC", ref=ref))
    client.until(lambda: (changed := client.order(order_id)) and (changed.limit, changed.quantity) == (low + 1, 20))
    [open_order] = client.open_orders(everyone=False)
    assert (open_order.perm_id, open_order.limit, open_order.quantity) == (order.perm_id, low + 1, 20)
    client.cancel(order_id)
    shown(client, order_id, "Cancelled")
    client.until(lambda: any(error[:2] == (order_id, 202) for error in client.errors))
    assert client.open_orders(everyone=False) == []
    [completed] = [done for done in client.completed_orders() if done.perm_id == order.perm_id]
    assert (completed.status, completed.ref, completed.filled) == ("Cancelled", ref, 0)


def test_a_limit_order_that_crosses_the_market_fills(client: Driver, ref: str) -> None:
    prices = client.snapshot("KO")
    order_id = client.place("KO", Wanted(kind="LMT", limit=round(prices["ask"] + 1, 2), ref=ref))
    shown(client, order_id, "Filled")
    assert filled(client, order_id).price <= prices["ask"] + 1


def test_a_stop_order_waits_for_its_price(client: Driver, ref: str) -> None:
    ask = client.snapshot("IBM")["ask"]
    order_id = client.place("IBM", Wanted(kind="STP", stop=round(ask * 1.2, 2), ref=ref))
    order = shown(client, order_id, "PreSubmitted")
    assert order.stop == round(ask * 1.2, 2)
    client.cancel(order_id)
    shown(client, order_id, "Cancelled")


def test_a_bracket_protects_what_its_parent_bought(client: Driver, ref: str) -> None:
    prices = client.snapshot("MSFT")
    above, below = round(prices["ask"] * 1.2, 2), round(prices["bid"] * 0.8, 2)
    parent = client.place(
        "MSFT", Wanted(quantity=10, kind="LMT", limit=round(prices["ask"] + 1, 2), ref=ref, transmit=False)
    )
    exits = {"action": "SELL", "quantity": 10, "ref": ref, "parent": parent}
    profit = client.place("MSFT", Wanted(kind="LMT", limit=above, transmit=False, **exits))
    loss = client.place("MSFT", Wanted(kind="STP", stop=below, **exits))
    shown(client, parent, "Filled")
    assert shown(client, profit, "Submitted").parent == parent
    assert shown(client, loss, "PreSubmitted", "Submitted").parent == parent
    client.modify(profit, Wanted(kind="LMT", limit=round(prices["bid"] - 1, 2), **exits))
    shown(client, profit, "Filled")
    shown(client, loss, "Cancelled")
    assert [filled(client, order_id).side for order_id in (parent, profit)] == ["BOT", "SLD"]


def test_an_order_for_now_or_never_is_cancelled_where_nobody_trades(client: Driver, ref: str) -> None:
    low = round(client.snapshot("AAPL")["bid"] * 0.9, 2)
    order_id = client.place("AAPL", Wanted(kind="LMT", limit=low, tif="IOC", ref=ref))
    client.until(lambda: [done for done in client.completed_orders() if done.ref == ref])
    [completed] = [done for done in client.completed_orders() if done.ref == ref]
    assert (completed.status, completed.filled) == ("Cancelled", 0)
    assert client.fills(order_id) == []


def test_an_order_beyond_the_account_is_rejected_with_201(client: Driver, ref: str) -> None:
    order_id = client.place("NVDA", Wanted(quantity=10_000_000, ref=ref))
    client.until(lambda: any(error[:2] == (order_id, 201) for error in client.errors))
    assert all(fill.ref != ref for fill in client.executions())


def test_what_if_tells_margin_and_commission_and_places_nothing(client: Driver, gateway: Any, ref: str) -> None:
    before = gateway.control("status")["orders"]
    told = client.what_if("AAPL", Wanted(quantity=100, ref=ref))
    assert told["init_margin_change"] > 0
    assert told["commission"] == 1.0
    assert gateway.control("status")["orders"] == before


def test_a_price_off_the_grid_is_refused_with_110(client: Driver, ref: str) -> None:
    order_id = client.place("AAPL", Wanted(kind="LMT", limit=100.005, ref=ref))
    client.until(lambda: any(error[:2] == (order_id, 110) for error in client.errors))
    assert all(order.ref != ref for order in client.open_orders(everyone=True))


def test_other_clients_see_an_order_and_cannot_cancel_it(
    client: Driver, connect: Any, client_id: int, ref: str
) -> None:
    low = round(client.snapshot("QQQ")["bid"] * 0.9, 2)
    order_id = client.place("QQQ", Wanted(kind="LMT", limit=low, ref=ref))
    order = shown(client, order_id, "Submitted")
    other = connect()
    assert other.open_orders(everyone=False) == []
    [seen] = [one for one in other.open_orders(everyone=True) if one.ref == ref]
    assert (seen.perm_id, seen.client_id, seen.limit) == (order.perm_id, client_id, low)


def test_executions_are_filtered(client: Driver, client_id: int, ref: str) -> None:
    filled(client, client.place("TSLA", Wanted(quantity=2, ref=ref)))
    filled(client, client.place("TSLA", Wanted(quantity=1, action="SELL", ref=ref)))
    assert {fill.symbol for fill in client.executions(symbol="TSLA")} == {"TSLA"}
    own = client.executions(client_id=client_id)
    assert [(fill.side, fill.shares, fill.ref, fill.commission) for fill in own] == [
        ("BOT", 2, ref, 1.0), ("SLD", 1, ref, 1.0),
    ]  # fmt: skip
    assert [fill.side for fill in client.executions(symbol="TSLA", side="SELL", client_id=client_id)] == ["SLD"]


def test_positions_and_profit_follow_the_fills(client: Driver, ref: str) -> None:
    before = {held.symbol: held.quantity for held in client.positions()}.get("IWM", 0)
    fill = filled(client, client.place("IWM", Wanted(quantity=50, ref=ref)))
    [held] = [held for held in client.positions() if held.symbol == "IWM"]
    assert held.quantity == before + 50
    if not before:
        assert held.average_cost == pytest.approx(fill.price + 1.0 / 50)
    profit = client.profit()
    assert profit["unrealized"] == pytest.approx(float(client.account_values()["UnrealizedPnL"]), abs=0.011)


def test_a_global_cancel_ends_the_orders_of_all(client: Driver, connect: Any, ref: str) -> None:
    low = round(client.snapshot("SPY")["bid"] * 0.9, 2)
    mine = client.place("SPY", Wanted(kind="LMT", limit=low, ref=ref))
    shown(client, mine, "Submitted")
    other = connect()
    theirs = other.place("SPY", Wanted(kind="LMT", limit=low, ref=ref))
    shown(other, theirs, "Submitted")
    client.cancel_all()
    shown(client, mine, "Cancelled")
    shown(other, theirs, "Cancelled")
