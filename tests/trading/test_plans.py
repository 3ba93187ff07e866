"""From an order as a workflow describes it to a ticket."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError, NoMarketData
from airflow_ibkr_plugin.trading.brackets import BRACKET_SCHEMA, BracketPlan, Distance
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.plans import TicketPlan
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Quote
from airflow_ibkr_plugin.trading.sizing import Sizing

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
FIVE = Sizing.parse({"quantity": 5})


def stock(**changes: Any) -> Instrument:
    return Instrument(**{"symbol": "SPY", "con_id": 1, "min_tick": Decimal("0.01")} | changes)


def account(worth: int = 100_000) -> AccountSnapshot:
    return AccountSnapshot(
        account="DU1",
        at=NOW,
        currency="USD",
        net_liquidation=Decimal(worth),
        values_at=NOW,
        cash=Decimal(50_000),
        buying_power=Decimal(200_000),
    )


def quote(bid: str | None = "99.98", ask: str | None = "100.02") -> Quote:
    return Quote(con_id=1, at=NOW, bid=Decimal(bid) if bid else None, ask=Decimal(ask) if ask else None)


def bracket(**given: Any) -> BracketPlan:
    jsonschema.validate(given, BRACKET_SCHEMA)
    return BracketPlan.parse(given)


def test_a_plan_becomes_a_ticket() -> None:
    plan = TicketPlan(
        side=Side.BUY,
        sizing=Sizing.parse({"notional": 5000}),
        order_type=OrderType.LIMIT,
        limit_offset=Decimal("0.01"),
    )
    ticket = plan.ticket(stock(), quote(), account())
    assert ticket.limit_price == Decimal("101.00")
    assert ticket.quantity == 49  # sized at the limit, not at the lower reference
    assert (ticket.side, ticket.tif, ticket.outside_rth) == (Side.BUY, TimeInForce.DAY, False)
    other = replace(plan, side=Side.SELL, tif=TimeInForce.GTC, outside_rth=True).ticket(stock(), quote(), account())
    assert (other.side, other.tif, other.outside_rth) == (Side.SELL, TimeInForce.GTC, True)


@pytest.mark.parametrize(("side", "quantity"), [(Side.BUY, 49), (Side.SELL, 50)])
def test_a_stop_order_is_sized_at_the_highest_price_it_may_meet(side: Side, quantity: int) -> None:
    plan = TicketPlan(
        side=side, sizing=Sizing.parse({"notional": 5000}), order_type=OrderType.STOP, stop_offset=Decimal("0.02")
    )
    assert plan.ticket(stock(), quote(), account()).quantity == quantity  # the reference is 100


@pytest.mark.parametrize(("side", "stop", "limit"), [(Side.BUY, "102.00", "103.02"), (Side.SELL, "98.00", "97.02")])
def test_a_stop_order_stands_away_from_the_reference(side: Side, stop: str, limit: str) -> None:
    plan = TicketPlan(
        side=side,
        sizing=Sizing.parse({"quantity": 5}),
        order_type=OrderType.STOP_LIMIT,
        limit_offset=Decimal("0.01"),
        stop_offset=Decimal("0.02"),
    )
    ticket = plan.ticket(stock(), quote(), account())
    assert (ticket.stop_price, ticket.limit_price) == (Decimal(stop), Decimal(limit))
    with pytest.raises(NoMarketData, match="stop price needs a reference"):
        plan.ticket(stock(), quote(bid=None, ask=None), account())


@pytest.mark.parametrize("order_type", [OrderType.STOP, OrderType.STOP_LIMIT])
@pytest.mark.parametrize("offset", [None, "0", "-0.01", "1", "NaN"])
def test_a_stop_order_needs_its_offset(order_type: OrderType, offset: str | None) -> None:
    given_offset = Decimal(offset) if offset else None
    with pytest.raises(ConfigError, match="stop_offset"):
        TicketPlan(side=Side.BUY, sizing=Sizing.parse({"quantity": 5}), order_type=order_type, stop_offset=given_offset)


def test_a_limit_without_a_reference_is_refused() -> None:
    plan = TicketPlan(side=Side.BUY, sizing=Sizing.parse({"quantity": 5}), order_type=OrderType.LIMIT)
    with pytest.raises(NoMarketData, match="reference"):
        plan.ticket(stock(), quote(bid=None, ask=None), account())


@pytest.mark.parametrize(
    ("side", "given_trail", "stop", "amount", "percent"),
    [
        (Side.BUY, {"trail_offset": "0.02"}, "102.00", None, "2.00"),
        (Side.SELL, {"trail_offset": "0.02"}, "98.00", None, "2.00"),
        (Side.SELL, {"trail_amount": "1.509"}, "98.50", "1.50", None),
        (Side.BUY, {"trail_amount": "1.5", "stop_offset": "0.03"}, "103.00", "1.5", None),
    ],
)
def test_a_trailing_stop_begins_at_its_distance_or_where_it_is_told(
    side: Side, given_trail: dict[str, str], stop: str, amount: str | None, percent: str | None
) -> None:
    trail: dict[str, Any] = {name: Decimal(value) for name, value in given_trail.items()}
    ticket = TicketPlan(side=side, sizing=FIVE, order_type=OrderType.TRAIL, **trail).ticket(stock(), quote(), account())
    assert ticket.stop_price == Decimal(stop)
    assert ticket.trail_amount == (Decimal(amount) if amount else None)
    assert ticket.trail_percent == (Decimal(percent) if percent else None)


@pytest.mark.parametrize(
    ("given_trail", "why"),
    [
        ({}, "one of the two"),
        ({"trail_offset": "0.01", "trail_amount": "1"}, "one of the two"),
        ({"trail_offset": "1"}, "fraction"),
        ({"trail_offset": "NaN"}, "fraction"),
        ({"trail_amount": "-1"}, "above 0"),
    ],
)
def test_a_trailing_stop_has_one_distance(given_trail: dict[str, str], why: str) -> None:
    trail: dict[str, Any] = {name: Decimal(value) for name, value in given_trail.items()}
    with pytest.raises(ConfigError, match=why):
        TicketPlan(side=Side.BUY, sizing=FIVE, order_type=OrderType.TRAIL, **trail)
    with pytest.raises(ConfigError, match="than a tick"):
        TicketPlan(side=Side.BUY, sizing=FIVE, order_type=OrderType.TRAIL, trail_amount=Decimal("0.009")).ticket(
            stock(), quote(), account()
        )


PLANS: dict[OrderType, dict[str, Any]] = {
    OrderType.MARKET: {},
    OrderType.LIMIT: {},
    OrderType.STOP: {"stop_offset": Decimal("0.01")},
    OrderType.STOP_LIMIT: {"stop_offset": Decimal("0.01")},
    OrderType.TRAIL: {"trail_offset": Decimal("0.01")},
}


@pytest.mark.parametrize("order_type", OrderType)
@pytest.mark.parametrize("tif", TimeInForce)
@pytest.mark.parametrize("outside_rth", [False, True])
def test_each_type_with_each_time_in_force_is_accepted_or_refused_by_name(
    order_type: OrderType, tif: TimeInForce, outside_rth: bool
) -> None:
    refused = (tif is TimeInForce.IOC and order_type in ("STP", "STP LMT", "TRAIL")) or (
        outside_rth and order_type not in ("LMT", "STP LMT")
    )

    def made() -> TicketPlan:
        return TicketPlan(
            side=Side.BUY, sizing=FIVE, order_type=order_type, tif=tif, outside_rth=outside_rth, **PLANS[order_type]
        )

    if refused:
        with pytest.raises(ConfigError, match=f"^{order_type} .*(IOC|outside)"):
            made()
    else:
        assert made().ticket(stock(), quote(), account()).tif is tif


@pytest.mark.parametrize(("side", "stop", "target"), [(Side.BUY, "98.02", "104.03"), (Side.SELL, "101.97", "95.98")])
def test_a_bracket_stands_around_the_side_of_the_quote_that_its_entry_takes(side: Side, stop: str, target: str) -> None:
    plan = TicketPlan(side=side, sizing=FIVE, bracket=bracket(stop={"offset": 0.02}, target={"offset": 0.04}))
    ticket = plan.ticket(stock(), quote(), account())
    first, last = plan.exits(stock(), ticket, quote())
    # A stop is rounded towards the entry, a target away from it.
    assert (last.leg, last.ticket.stop_price, last.ticket.order_type) == ("stop", Decimal(stop), OrderType.STOP)
    assert (first.leg, first.ticket.limit_price) == ("target", Decimal(target))
    for out in (first, last):
        assert (out.ticket.side is not side, out.ticket.quantity, out.ticket.tif) == (True, 5, TimeInForce.GTC)


@pytest.mark.parametrize(
    ("stop", "order_type", "prices"),
    [
        ({"amount": 2}, "STP", ("98.02", None, None, None)),
        ({"amount": 2.009, "order_type": "TRAIL"}, "TRAIL", ("98.02", None, "2.00", None)),
        ({"offset": 0.02, "order_type": "TRAIL"}, "TRAIL", ("98.02", None, None, "2.00")),
        ({"amount": 2, "order_type": "STP LMT", "limit_offset": 0.01}, "STP LMT", ("98.02", "97.04", None, None)),
    ],
)
def test_the_stop_of_a_bracket_may_trail_or_have_a_limit(
    stop: dict[str, Any], order_type: str, prices: tuple[str | None, ...]
) -> None:
    plan = TicketPlan(side=Side.BUY, sizing=FIVE, bracket=bracket(stop=stop))
    (out,) = plan.exits(stock(), plan.ticket(stock(), quote(), account()), quote())
    found = (out.ticket.stop_price, out.ticket.limit_price, out.ticket.trail_amount, out.ticket.trail_percent)
    assert out.ticket.order_type == order_type
    assert found == tuple(Decimal(price) if price else None for price in prices)


@pytest.mark.parametrize(
    "given_bracket",
    [
        {},
        {"target": {"offset": 0.1}},
        {"stop": {}},
        {"stop": {"offset": 0.1, "amount": 1}},
        {"stop": {"offset": 1}},
        {"stop": {"offset": -0.1}},
        {"stop": {"amount": float("nan")}},
        {"stop": {"offset": True}},
        {"stop": {"offset": 0.1, "order_type": "LMT"}},
        {"stop": {"offset": 0.1, "order_type": "STP LMT"}},
        {"stop": {"offset": 0.1, "limit_offset": 0.01}},
        {"stop": {"offset": 0.1}, "target": {"offset": "far"}},
        {"stop": {"offset": 0.1}, "hedge": {"offset": 1}},
        {"stop": 0.1},
        None,
    ],
)
def test_a_bracket_that_is_none_is_refused(given_bracket: Any) -> None:
    with pytest.raises(ConfigError):
        BracketPlan.parse(given_bracket)


def test_an_exit_on_the_wrong_side_of_a_price_at_which_the_entry_may_fill_is_refused() -> None:
    aggressive = TicketPlan(
        side=Side.BUY,
        sizing=FIVE,
        order_type=OrderType.LIMIT,
        limit_offset=Decimal("0.03"),  # may fill at 100, and its stop would stand at 100.94
        bracket=bracket(stop={"offset": 0.02}),
    )
    with pytest.raises(ConfigError, match=r"stop at 100\.94 is not below 100"):
        aggressive.exits(stock(), aggressive.ticket(stock(), quote(), account()), quote())
    with pytest.raises(ConfigError, match="at least a tick"):
        replace(aggressive, bracket=bracket(stop={"amount": 0.001})).bracket.loss(  # type: ignore[union-attr]
            stock(), Side.BUY, Decimal(100)
        )
    with pytest.raises(ConfigError, match="above zero"):
        bracket(stop={"amount": 200}).loss(stock(), Side.BUY, Decimal(100))


@pytest.mark.parametrize(("side", "limit", "target"), [(Side.BUY, "95.00", "96.00"), (Side.SELL, "105.00", "104.00")])
def test_a_limit_that_waits_for_a_better_price_has_its_target_on_the_near_side_of_the_market(
    side: Side, limit: str, target: str
) -> None:
    """It cannot fill where the market is now."""
    plan = TicketPlan(
        side=side,
        sizing=FIVE,
        order_type=OrderType.LIMIT,
        limit_offset=Decimal("-0.05"),
        bracket=bracket(stop={"offset": 0.02}, target={"amount": 1}),
    )
    ticket = plan.ticket(stock(), quote(), account())
    assert ticket.limit_price == Decimal(limit)
    assert plan.exits(stock(), ticket, quote())[0].ticket.limit_price == Decimal(target)


def test_a_stop_entry_waits_for_its_price_and_so_its_exits_need_not_stand_around_the_market() -> None:
    plan = TicketPlan(
        side=Side.BUY,
        sizing=FIVE,
        order_type=OrderType.STOP,
        stop_offset=Decimal("0.03"),
        bracket=bracket(stop={"offset": 0.01}, target={"amount": 1}),
    )
    target, stop = plan.exits(stock(), plan.ticket(stock(), quote(), account()), quote())
    assert (stop.ticket.stop_price, target.ticket.limit_price) == (Decimal("101.97"), Decimal("104.00"))


def test_risk_per_trade_takes_its_distance_from_the_bracket() -> None:
    risk = Sizing.parse({"risk_per_trade": 0.01})
    with pytest.raises(ConfigError, match="needs a stop"):
        TicketPlan(side=Side.BUY, sizing=risk)
    plan = TicketPlan(side=Side.BUY, sizing=risk, bracket=bracket(stop={"amount": 2}))
    assert plan.ticket(stock(), quote(), account()).quantity == 500
    limited = bracket(stop={"amount": 2, "order_type": "STP LMT", "limit_offset": 0.02})  # 98.02 down to 96.06
    assert replace(plan, bracket=limited).ticket(stock(), quote(), account()).quantity == 252


distances = st.one_of(
    st.decimals("0.0001", "0.9", places=4).map(lambda value: Distance(offset=value)),
    st.decimals("0.0001", "1000", places=4).map(lambda value: Distance(amount=value)),
)


@given(
    side=st.sampled_from(Side),
    share=st.decimals("0.0001", "0.5", places=4),
    worth=st.integers(1_000, 10**9),
    bid=st.decimals("0.01", "10000", places=2),
    spread=st.decimals("0.01", "5", places=2),
    stop=distances,
    tick=st.sampled_from([Decimal("0.01"), Decimal("0.05"), Decimal("0.25")]),
    order_type=st.sampled_from([OrderType.MARKET, OrderType.LIMIT, OrderType.STOP]),
)
def test_a_bracket_loses_no_more_at_its_stop_than_its_budget_and_its_distance(
    side: Side,
    share: Decimal,
    worth: int,
    bid: Decimal,
    spread: Decimal,
    stop: Distance,
    tick: Decimal,
    order_type: OrderType,
) -> None:
    instrument, prices = stock(min_tick=tick), quote(str(bid), str(bid + spread))
    plan = TicketPlan(
        side=side,
        sizing=Sizing.parse({"risk_per_trade": str(share)}),
        order_type=order_type,
        stop_offset=Decimal("0.01") if order_type is OrderType.STOP else None,
        bracket=BracketPlan(stop=stop, target=stop),
    )
    try:
        ticket = plan.ticket(instrument, prices, account(worth))
        target, out = plan.exits(instrument, ticket, prices)
    except ConfigError:
        assume(False)
    taken = prices.ask if side is Side.BUY else prices.bid
    entry = ticket.limit_price or ticket.stop_price or taken
    assert entry is not None
    assert out.ticket.stop_price is not None
    assert target.ticket.limit_price is not None
    lost = (entry - out.ticket.stop_price) * side.sign
    assert 0 < lost <= stop.of(entry) <= (target.ticket.limit_price - entry) * side.sign
    assert lost * ticket.quantity <= share * worth
    assert out.ticket.stop_price % tick == target.ticket.limit_price % tick == 0
