"""What a client goes through: refusals, lost connections, and what it finds when it comes back."""

from __future__ import annotations

from typing import Any

import pytest
from driver import ConnectionRefused, Driver, Wanted


def test_a_client_id_in_use_is_refused_with_326(client: Driver, connect: Any, client_id: int) -> None:
    with pytest.raises(ConnectionRefused) as refused:
        connect(client_id)
    assert 326 in refused.value.codes
    assert client.server_time() > 0


def test_it_finds_its_orders_again(client: Driver, connect: Any, gateway: Any, client_id: int) -> None:
    ref = f"again-{client_id}"
    bought = client.place("KO", Wanted(quantity=5, ref=ref))
    low = round(client.snapshot("KO")["bid"] * 0.9, 2)
    waiting = client.place("KO", Wanted(kind="LMT", limit=low, quantity=7, ref=ref))
    client.until(lambda: (order := client.order(waiting)) and order.status == "Submitted")
    client.until(lambda: client.fills(bought))
    client.disconnect()
    client.until(lambda: client_id not in gateway.control("status")["clients"])
    back = connect(client_id)
    [order] = back.open_orders(everyone=False)
    assert (order.order_id, order.ref, order.limit, order.status) == (waiting, ref, low, "Submitted")
    assert [fill.order_id for fill in back.executions(client_id=client_id)] == [bought]
    assert [done.filled for done in back.completed_orders() if done.ref == ref] == [5]
    assert back.new_order_id() > waiting
    back.cancel_all()
    back.until(lambda: not back.open_orders(everyone=False))


def test_an_order_whose_acknowledgement_is_lost_is_found_by_its_ref(
    client: Driver, connect: Any, gateway: Any, client_id: int
) -> None:
    ref = f"lost-{client_id}"
    gateway.control("drop_after_accept")
    client.place("SPY", Wanted(quantity=3, ref=ref))
    client.until(lambda: not client.connected)
    back = connect(client_id)
    assert [(fill.ref, fill.shares) for fill in back.executions() if fill.ref == ref] == [(ref, 3)]
    assert [(done.ref, done.filled) for done in back.completed_orders() if done.ref == ref] == [(ref, 3)]


def test_an_order_that_was_lost_before_it_was_taken_is_nowhere(
    client: Driver, connect: Any, gateway: Any, client_id: int
) -> None:
    ref = f"nowhere-{client_id}"
    gateway.control("drop_before_accept")
    client.place("SPY", Wanted(quantity=3, ref=ref))
    client.until(lambda: not client.connected)
    back = connect(client_id)
    assert all(fill.ref != ref for fill in back.executions())
    assert all(order.ref != ref for order in back.open_orders(everyone=True) + back.completed_orders())
    assert gateway.control("orders", order_ref=ref)["orders"] == []


def test_an_error_reaches_the_client_it_is_for(client: Driver, gateway: Any, client_id: int) -> None:
    gateway.control("error", client=client_id, id=-1, code=1100, message="Connectivity has been lost.")
    client.until(lambda: (-1, 1100, "Connectivity has been lost.") in client.errors)
    assert client.connected
