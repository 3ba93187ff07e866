"""Exposure of the whole account, and the rules that limit it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.testing.risk import risk_context
from airflow_ibkr_plugin.trading.exposure import elsewhere, own_units
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.portfolio import Position
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext
from airflow_ibkr_plugin.trading.risk_account_rules import rules
from airflow_ibkr_plugin.trading.risk_facts import Margin, OpenOrder

RULES = {rule.name: rule for rule in rules()}
GOOD = risk_context()
SPY = GOOD.instrument
QQQ = replace(SPY, symbol="QQQ", con_id=1)
SAP = replace(SPY, symbol="SAP", con_id=2, currency="EUR")
PRICES = {SPY.con_id: 100, QQQ.con_id: 50, SAP.con_id: 40}  # SAP in EUR: 50 USD


def held(instrument: Instrument, quantity: int, price: str | None = None) -> Position:
    return Position(
        account="DU1234567",
        con_id=instrument.con_id,
        symbol=instrument.symbol,
        quantity=Decimal(quantity),
        average_cost=Decimal(1),
        currency=instrument.currency,
        market_price=Decimal(price or PRICES[instrument.con_id]),
    )


def order(instrument: Instrument, signed: int) -> OpenOrder:
    return OpenOrder(
        strategy="other",
        instrument=instrument,
        side=Side.BUY if signed > 0 else Side.SELL,
        remaining=Decimal(abs(signed)),
        price=Decimal(PRICES[instrument.con_id]),
    )


def desk(
    side: Side = Side.BUY, quantity: int = 10, *, spy: int = 0, qqq: int = 0, sap: int = 0, orders: Any = ()
) -> Any:
    """An order in SPY at 100 in an account that holds so many SPY, QQQ and SAP."""
    positions = tuple(held(what, count) for what, count in ((SPY, spy), (QQQ, qqq), (SAP, sap)) if count)
    context = risk_context(side, str(quantity), position=Decimal(spy), open_orders=tuple(orders))
    return replace(context, account=replace(context.account, positions=positions))


def check(name: str, context: RiskContext, **parameters: float) -> tuple[Outcome, Decimal | None]:
    jsonschema.validate(parameters, RULES[name].parameters)
    verdict = RULES[name].check(context, parameters)
    return verdict.outcome, verdict.quantity


def test_gross_exposure_adds_up_long_and_short_in_the_base_currency() -> None:
    several = desk(spy=10, qqq=-20, sap=40)  # 1000 + 1000 + 2000, and 1000 more
    assert check("gross_exposure", several, max=5000) == (Outcome.ALLOW, None)
    assert check("gross_exposure", several, max=4999) == (Outcome.CLAMP, Decimal(9))
    assert check("gross_exposure", several, max=4000) == (Outcome.DENY, None)
    assert check("gross_exposure", several, max_share=0.05) == (Outcome.ALLOW, None)
    assert check("gross_exposure", several, max_share=0.0499, max=9000) == (Outcome.CLAMP, Decimal(9))


def test_gross_exposure_counts_what_open_orders_may_add() -> None:
    working = [order(QQQ, 20), order(QQQ, -10), order(SPY, 10)]
    context = desk(orders=working)  # QQQ at most 1000 long or 500 short; SPY 2000
    assert check("gross_exposure", context, max=3000) == (Outcome.ALLOW, None)
    assert check("gross_exposure", context, max=2999) == (Outcome.CLAMP, Decimal(9))
    selling = desk(orders=[order(SPY, -30)])  # 30 short at worst: the 10 that are bought come on top of nothing
    assert check("gross_exposure", selling, max=1) == (Outcome.ALLOW, None)


@pytest.mark.parametrize("name", ["gross_exposure", "concentration"])
def test_an_order_that_brings_the_position_closer_to_zero_passes_even_blind(name: str) -> None:
    closing = desk(Side.SELL, 10, spy=10, qqq=1000)
    blind = replace(closing, account=replace(closing.account, values_at=None))
    assert check(name, blind, max_share=0.001)[0] is Outcome.ALLOW
    # What is sold beyond zero is an increase on the other side; as much as is held is none.
    assert check(name, desk(Side.SELL, 25, spy=10), max_share=0.001) == (Outcome.CLAMP, Decimal(20))
    assert check(name, desk(Side.SELL, 25, spy=10), max_share=0.012) == (Outcome.CLAMP, Decimal(22))


def test_net_exposure_takes_short_from_long() -> None:
    hedged = desk(qqq=-20, sap=40)  # -1000 + 2000, and 1000 more
    assert check("net_exposure", hedged, max=2000) == (Outcome.ALLOW, None)
    assert check("net_exposure", hedged, max=1500) == (Outcome.CLAMP, Decimal(5))
    assert check("net_exposure", hedged, max=1000) == (Outcome.DENY, None)
    assert check("net_exposure", replace(hedged, ticket=replace(hedged.ticket, side=Side.SELL)), max=1) == (
        Outcome.ALLOW,
        None,
    )
    short = desk(Side.SELL, qqq=-20)
    assert check("net_exposure", short, max=1500) == (Outcome.CLAMP, Decimal(5))


def test_net_exposure_counts_open_orders_of_the_same_direction_only() -> None:
    working = [order(QQQ, 20), order(SAP, -1000), order(SPY, 5)]
    assert check("net_exposure", desk(orders=working), max=2500) == (Outcome.ALLOW, None)
    assert check("net_exposure", desk(orders=working), max=2499) == (Outcome.CLAMP, Decimal(9))


def test_concentration_is_a_share_of_the_account() -> None:
    assert check("concentration", desk(spy=10, sap=9000), max_share=0.02) == (Outcome.ALLOW, None)
    assert check("concentration", desk(spy=11), max_share=0.02) == (Outcome.CLAMP, Decimal(9))
    assert check("concentration", desk(spy=20), max_share=0.02) == (Outcome.DENY, None)
    assert check("concentration", desk(orders=[order(SPY, 11)]), max_share=0.02) == (Outcome.CLAMP, Decimal(9))


@pytest.mark.parametrize("worth", ["NaN", "Infinity", "-1", "0"])
@pytest.mark.parametrize("name", ["gross_exposure", "net_exposure", "concentration"])
def test_a_share_of_nothing_is_nothing(name: str, worth: str) -> None:
    poor = replace(GOOD, account=replace(GOOD.account, net_liquidation=Decimal(worth)))
    assert check(name, poor, max_share=1) == (Outcome.DENY, None)


@pytest.mark.parametrize("name", ["gross_exposure", "net_exposure"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: replace(c, open_orders=None), "other orders are not known"),
        (lambda c: replace(c, account=replace(c.account, values_at=None)), "market price of SAP"),
        (lambda c: replace(c, now=c.now + timedelta(seconds=301)), "market price of SAP"),
        (lambda c: replace(c, account=replace(c.account, rates={})), "rate from EUR to USD"),
        (lambda c: replace(c, account=replace(c.account, positions=(held(SAP, 1, "NaN"),))), "market price of SAP"),
        (lambda c: replace(c, open_orders=(replace(order(QQQ, 1), price=None),)), "open order in QQQ"),
        (lambda c: replace(c, quote=replace(c.quote, delayed=True)), "delayed"),
    ],
)
def test_what_is_not_known_of_the_account_denies(name: str, change: Any, why: str) -> None:
    context = desk(sap=1)
    assert check(name, context, max=1_000_000)[0] is Outcome.ALLOW
    verdict = RULES[name].check(change(context), {"max": 1_000_000})
    assert verdict.outcome is Outcome.DENY
    assert why in verdict.reason


_signed = st.integers(-5, 5).filter(bool)


@settings(max_examples=200)
@given(
    side=st.sampled_from(Side),
    positions=st.tuples(*[st.integers(-5, 5)] * 3),
    working=st.lists(st.tuples(st.sampled_from([SPY, QQQ, SAP]), _signed), max_size=5),
)
def test_it_is_the_worst_that_any_fills_can_make_of_it(
    side: Side, positions: tuple[int, int, int], working: list[tuple[Instrument, int]]
) -> None:
    """Against every way in which the open orders can fill or not."""
    spy, qqq, sap = positions
    context = desk(side, spy=spy, qqq=qqq, sap=sap, orders=[order(*each) for each in working])
    gross, net, own = [], [], []
    for filled in itertools.product([False, True], repeat=len(working)):
        ends = {SPY.con_id: spy, QQQ.con_id: qqq, SAP.con_id: sap}
        for (instrument, signed), yes in zip(working, filled, strict=True):
            ends[instrument.con_id] += signed * yes
        own.append(ends.pop(SPY.con_id) * side.sign)
        gross.append(sum(abs(count) * 50 for count in ends.values()))
        net.append(sum(count * 50 for count in ends.values()) * side.sign)
    units, others = own_units(context), elsewhere(context)
    assert (units.ahead, units.behind) == (max(own), -min(own))
    assert (others.gross, others.ahead) == (max(gross), max(net))


def margin(before: str, after: str, equity: str, **more: str) -> Margin:
    return Margin(
        initial_before=Decimal(before),
        initial_after=Decimal(after),
        equity_after=Decimal(equity),
        refused=more.get("refused", ""),
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (margin("0", "500", "600"), Outcome.ALLOW),
        (margin("0", "500", "599"), Outcome.DENY),
        (margin("700", "600", "100"), Outcome.ALLOW),  # closing takes margin away, and must always be possible
        (margin("600", "600", "100"), Outcome.ALLOW),
        (margin("0", "500", "600", refused="no trading permissions"), Outcome.DENY),
        (margin("NaN", "500", "599"), Outcome.DENY),
        (margin("0", "NaN", "600"), Outcome.DENY),
        (margin("0", "500", "NaN"), Outcome.DENY),
        (Margin(initial_before=Decimal(0), initial_after=Decimal(500)), Outcome.DENY),
        (Margin(initial_before=Decimal(0), equity_after=Decimal(600)), Outcome.DENY),
        (Margin(initial_after=Decimal(500), equity_after=Decimal(600)), Outcome.DENY),
        (None, Outcome.DENY),
    ],
)
def test_buying_power_is_what_the_broker_says(told: Margin | None, expected: Outcome) -> None:
    assert check("buying_power", replace(desk(), margin=told), min_excess=100)[0] is expected


@pytest.mark.parametrize(
    ("context", "growth"),
    [
        (desk(), 0),
        (desk(orders=[order(SPY, 5), order(QQQ, 4), order(SAP, -2)]), 500 + 200 + 100),
        (desk(spy=-5, orders=[order(SPY, 5)]), 0),  # closes
        (desk(spy=-5, orders=[order(SPY, 15)]), 500),  # closes, and goes on to the other side
        (desk(qqq=-5, orders=[order(QQQ, 15)]), 250),
        (desk(qqq=1000, sap=1000), 0),
    ],
)
def test_buying_power_leaves_room_for_open_orders_at_their_full_worth(context: RiskContext, growth: int) -> None:
    for left, expected in ((growth, Outcome.ALLOW), (growth - 1, Outcome.DENY)):
        told = margin("0", "500", str(500 + left))
        assert check("buying_power", replace(context, margin=told))[0] is expected


def test_buying_power_needs_prices_only_of_what_is_being_ordered() -> None:
    context = replace(desk(qqq=10), margin=margin("0", "500", "600"))
    unpriced = replace(held(QQQ, 10), market_price=None)
    blind = replace(context, account=replace(context.account, positions=(unpriced,)))
    assert check("buying_power", blind)[0] is Outcome.ALLOW
    assert check("buying_power", replace(blind, open_orders=(order(QQQ, 1),)))[0] is Outcome.DENY
