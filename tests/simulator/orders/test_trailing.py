"""Trailing stops follow the market and never go back."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import ib_insync as ibi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.simulator.market.catalogue import synthetic
from airflow_ibkr_plugin.simulator.orders import trailing
from airflow_ibkr_plugin.simulator.orders.book import Order

Seen = list[tuple[int, int]]
APPLE = next(item for item in synthetic(2026) if item.symbol == "AAPL")


def trail(action: str, **terms: Any) -> Order:
    return Order(
        perm_id=1, client_id=1, order_id=1, con_id=APPLE.con_id, action=action, quantity=Decimal(1), order_type="TRAIL",
        limit_price=None, stop_price=None, tif="GTC", outside_hours=False, fields={}, placed=0.0, checked=0, **terms,
    )  # fmt: skip


prices = st.lists(st.integers(5000, 30_000).map(lambda cents: cents / 100), min_size=1, max_size=30)
terms = st.one_of(
    st.integers(1, 3000).map(lambda cents: {"trail_amount": Decimal(cents) / 100}),
    st.integers(1, 99).map(lambda percent: {"trail_percent": Decimal(percent)}),
)


@given(prices, st.sets(st.integers(1, 29)), st.sampled_from(["BUY", "SELL"]), terms)
def test_a_path_cut_anywhere_gives_the_same_stops(
    path: list[float], cuts: set[int], action: str, distance: dict[str, Decimal]
) -> None:
    whole = trailing.stops(trail(action, **distance), np.array(path))
    order, pieces = trail(action, **distance), []
    bounds = [0, *sorted(cut for cut in cuts if cut < len(path)), len(path)]
    for start, end in pairwise(bounds):
        part = np.array(path[start:end])
        pieces.extend(trailing.stops(order, part))
        trailing.follow(order, APPLE, part)
    assert np.allclose(whole, pieces, atol=1e-9)


@given(prices, st.sampled_from(["BUY", "SELL"]), terms)
def test_a_stop_only_moves_towards_the_market(path: list[float], action: str, distance: dict[str, Decimal]) -> None:
    order, seen = trail(action, **distance), []
    for price in path:
        trailing.follow(order, APPLE, np.array([price]))
        assert order.stop_price is not None
        seen.append(order.stop_price)
        assert order.stop_price % APPLE.min_tick == 0
    best = min(path) if action == "BUY" else max(path)
    away = distance.get("trail_amount") or Decimal(repr(best)) * distance["trail_percent"] / 100
    if action == "BUY":
        assert seen == sorted(seen, reverse=True)
        assert 0 <= seen[-1] - (Decimal(repr(best)) + away) < APPLE.min_tick
    else:
        assert seen == sorted(seen)
        assert 0 <= (Decimal(repr(best)) - away) - seen[-1] < APPLE.min_tick


def shown(ib: ibi.IB, connect: Any, simulator: SimulatorHandle, client: int) -> ibi.Order:
    """The order as a client that never saw it gets it."""
    watcher = connect(simulator, client)
    order = watcher.reqAllOpenOrders()[0].order
    watcher.disconnect()
    return order


@pytest.mark.parametrize("terms", [{"auxPrice": 30.0}, {"trailingPercent": 12.0}])
def test_the_stop_price_is_shown_and_follows_the_market(
    simulator: SimulatorHandle,
    ib: ibi.IB,
    apple: Any,
    quote: Any,
    place: Any,
    connect: Any,
    terms: dict[str, float],
    wire: list[list[str]],
) -> None:
    start = quote(apple).last
    trade = place(ibi.Order(action="SELL", totalQuantity=10, orderType="TRAIL", tif="GTC", **terms))
    assert (trade.orderStatus.status, trade.orderStatus.whyHeld) == ("PreSubmitted", "trigger")
    first = shown(ib, connect, simulator, 21)
    # Also in the first message.
    assert str(first.trailStopPrice) in wire[0]
    away = terms.get("auxPrice") or start * terms["trailingPercent"] / 100
    assert first.trailStopPrice == pytest.approx(start - away, abs=0.01)
    assert first.auxPrice == terms.get("auxPrice", 0.0)
    assert "trailingPercent" not in terms or first.trailingPercent == terms["trailingPercent"]
    simulator.control("clock", advance=4 * 3600)
    second = shown(ib, connect, simulator, 22)
    bars = ib.reqHistoricalData(apple, "", "1 D", "1 min", "TRADES", True)
    high = max(bar.high for bar in bars if bar.date.strftime("%H:%M") >= "11:00")
    away = terms.get("auxPrice") or high * terms["trailingPercent"] / 100
    assert second.trailStopPrice == pytest.approx(high - away, abs=0.02)
    assert second.trailStopPrice >= first.trailStopPrice


def test_it_becomes_a_market_order_when_the_market_turns(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, quote: Any, place: Any, until: Any
) -> None:
    place(ibi.MarketOrder("BUY", 10))
    statuses: list[str] = []
    trade = place(ibi.Order(action="SELL", totalQuantity=10, orderType="TRAIL", tif="GTC", auxPrice=0.5))
    trade.statusEvent += lambda changed: statuses.append(changed.orderStatus.status)
    simulator.control("clock", advance=3 * 86400)
    until(trade.isDone)
    assert statuses[:2] == ["Submitted", "Filled"]
    execution = trade.fills[0].execution
    day = execution.time.strftime("%Y%m%d 23:59:59 US/Eastern")
    bars = ib.reqHistoricalData(apple, day, "1 D", "1 min", "TRADES", True)
    placed = execution.time.replace(hour=16, minute=0, second=0)
    before = [bar.high for bar in bars if placed <= bar.date <= execution.time]
    # What it got is what the market had fallen by, and the spread.
    assert execution.price <= max(before) - 0.5 + 0.02


def test_a_jump_and_many_steps_find_the_same_fill(start: Any, connect: Any, until: Any, tmp_path: Any) -> None:
    """Also across a restart on the way."""
    found = []
    for kind in ("jump", "steps", "restart"):
        state = tmp_path / f"{kind}.db"
        handle = start(state=state)
        ib = connect(handle, 1)
        apple = ib.qualifyContracts(ibi.Stock("AAPL", "SMART", "USD"))[0]
        order = ibi.Order(action="SELL", totalQuantity=10, orderType="TRAIL", tif="GTC", auxPrice=1.5)
        trade = ib.placeOrder(apple, order)
        until(lambda trade=trade: trade.orderStatus.permId)
        if kind == "restart":
            handle.control("clock", advance=900)
            ib.disconnect()
            handle.stop()
            handle = start(state=state, clock=datetime(2026, 11, 20, 16, 15, tzinfo=UTC))
            ib = connect(handle, 1)
        for seconds in [17_000] if kind == "jump" else [100] * 170:
            handle.control("clock", advance=seconds)
        (fill,) = ib.reqExecutions()
        found.append((fill.execution.time, fill.execution.price))
        ib.disconnect()
    assert found[0] == found[1] == found[2]


def test_trail_limit(simulator: SimulatorHandle, ib: ibi.IB, apple: Any, quote: Any, place: Any, connect: Any) -> None:
    last = quote(apple).last
    place(
        ibi.Order(action="SELL", totalQuantity=10, orderType="TRAIL LIMIT", tif="GTC", auxPrice=20.0,
                  trailStopPrice=round(last - 20, 2), lmtPriceOffset=0.05),
    )  # fmt: skip
    first = shown(ib, connect, simulator, 21)
    assert first.lmtPrice == pytest.approx(first.trailStopPrice - 0.05)
    simulator.control("clock", advance=4 * 3600)
    second = shown(ib, connect, simulator, 22)
    assert second.lmtPrice == pytest.approx(second.trailStopPrice - 0.05)
    assert (second.lmtPriceOffset, second.auxPrice) == (0.05, 20.0)


@pytest.mark.parametrize(("action", "sign"), [("BUY", 1), ("SELL", -1)])
def test_a_limit_price_gives_the_offset_from_the_first_stop(
    simulator: SimulatorHandle, ib: ibi.IB, quote: Any, apple: Any, place: Any, connect: Any, action: str, sign: int
) -> None:
    stop = round(quote(apple).last + sign * 20, 2)
    place(
        ibi.Order(action=action, totalQuantity=10, orderType="TRAIL LIMIT", tif="GTC", auxPrice=20.0,
                  trailStopPrice=stop, lmtPrice=round(stop + sign * 0.25, 2)),
    )  # fmt: skip
    simulator.control("clock", advance=4 * 3600)
    later = shown(ib, connect, simulator, 21)
    assert later.lmtPriceOffset == 0.25
    assert later.lmtPrice == pytest.approx(later.trailStopPrice + sign * 0.25)


def test_a_stop_that_is_through_the_market_triggers_at_once(ib: ibi.IB, apple: Any, quote: Any, place: Any) -> None:
    now = quote(apple)
    far = round(now.last + 20, 2)
    market = place(ibi.Order(action="SELL", totalQuantity=10, orderType="TRAIL", auxPrice=1.0, trailStopPrice=far))
    assert market.fills[0].execution.price == now.bid
    limit = place(
        ibi.Order(
            action="SELL", totalQuantity=10, orderType="TRAIL LIMIT", auxPrice=1.0, trailStopPrice=far, lmtPrice=far
        )
    )
    assert (limit.orderStatus.status, limit.orderStatus.whyHeld) == ("Submitted", "")


def test_a_bracket_with_a_trailing_stop_starts_it_when_the_parent_fills(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, quote: Any, place: Any, until: Any, connect: Any
) -> None:
    now = quote(apple)
    parent = place(ibi.LimitOrder("BUY", 10, round(now.last - 60, 2), tif="GTC"))
    stop = place(
        ibi.Order(action="SELL", totalQuantity=10, orderType="TRAIL", auxPrice=5.0, tif="GTC",
                  parentId=parent.order.orderId)
    )  # fmt: skip
    assert stop.orderStatus.whyHeld == "child,trigger"
    parent.order.lmtPrice = now.ask
    ib.placeOrder(apple, parent.order)
    until(lambda: stop.orderStatus.whyHeld == "trigger")
    assert shown(ib, connect, simulator, 23).trailStopPrice == pytest.approx(now.last - 5, abs=0.01)


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({}, 321),
        ({"trailingPercent": 100.0}, 321),
        ({"trailingPercent": -1.0}, 321),
        ({"auxPrice": 0.001}, 110),
        ({"auxPrice": 1.0, "trailStopPrice": 100.001}, 110),
        ({"orderType": "TRAIL LIMIT", "auxPrice": 1.0}, 321),
        ({"orderType": "TRAIL LIMIT", "auxPrice": 1.0, "trailStopPrice": 100.0}, 321),
    ],
)
def test_incomplete_terms_are_refused(
    ib: ibi.IB, apple: Any, until: Any, seen: Seen, terms: dict[str, Any], code: int
) -> None:
    order = ibi.Order(**{"action": "SELL", "totalQuantity": 1, "orderType": "TRAIL", "tif": "DAY"} | terms)
    trade = ib.placeOrder(apple, order)
    until(lambda: (trade.order.orderId, code) in seen)
    assert not ib.reqAllOpenOrders()


def test_another_distance_starts_the_stop_anew(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, quote: Any, place: Any, connect: Any
) -> None:
    trade = place(ibi.Order(action="SELL", totalQuantity=10, orderType="TRAIL", tif="GTC", auxPrice=30.0))
    simulator.control("clock", advance=3600)
    trade.order.auxPrice = 40.0
    ib.placeOrder(apple, trade.order)
    assert shown(ib, connect, simulator, 24).trailStopPrice == pytest.approx(quote(apple).last - 40, abs=0.01)
