from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.testing.risk import contexts, risk_context
from airflow_ibkr_plugin.trading.instruments import Instrument, SecType
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.portfolio import Quote
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext, RiskRule, evaluate
from airflow_ibkr_plugin.trading.risk_rules import rules
from airflow_ibkr_plugin.trading.sizing import usable_price

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
RULES: dict[str, RiskRule] = {rule.name: rule for rule in rules()}
PARAMETERS: dict[str, dict[str, Any]] = {
    "market_data": {},
    "short_selling": {},
    "order_notional": {"max": 5000},
    "position_size": {"max_quantity": 100, "max_notional": 20_000},
    "price_collar": {"max_deviation": 0.05, "max_age_seconds": 30},
    "orders_per_day": {"max": 3},
    "trading_hours": {},
}
CHOSEN = [rule for rule in rules() if rule.name in PARAMETERS]


def context(side: Side = Side.BUY, quantity: str = "10", *, increment: str = "1", **changes: Any) -> RiskContext:
    """A good context, see `risk_context`."""
    good = risk_context(side, quantity, **changes)
    return replace(good, instrument=replace(good.instrument, size_increment=Decimal(increment)))


def check(name: str, context: RiskContext, **parameters: Any) -> tuple[Outcome, Decimal | None]:
    verdict = RULES[name].check(context, parameters or PARAMETERS[name])
    return verdict.outcome, verdict.quantity


# --- each rule by example ---------------------------------------------------------------------------------


def test_clamping_rules_run_before_the_others() -> None:
    clamping = {"short_selling", "order_quantity", "order_notional", "position_size"} | {
        "concentration",
        "gross_exposure",
        "net_exposure",
    }
    names = [rule.name for rule in sorted(rules(), key=lambda rule: rule.order)]
    assert set(names[1 : 1 + len(clamping)]) == clamping
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, RULES["position_size"].parameters)


def test_order_notional_clamps_to_whole_increments_or_denies() -> None:
    assert check("order_notional", context(quantity="50")) == (Outcome.ALLOW, None)
    assert check("order_notional", context(quantity="51")) == (Outcome.CLAMP, Decimal(50))
    assert check("order_notional", context(quantity="51"), max=99) == (Outcome.DENY, None)
    assert check("order_notional", context(quantity="90", increment="20")) == (Outcome.CLAMP, Decimal(40))
    # What fits exactly passes as it is, also where it is no multiple of the increment.
    assert check("order_notional", context(quantity="2.5"), max=250) == (Outcome.ALLOW, None)


def test_the_worse_of_limit_and_reference_counts() -> None:
    assert check("order_notional", context(quantity="50", limit="101")) == (Outcome.CLAMP, Decimal(49))
    assert check("order_notional", context(quantity="50", limit="90")) == (Outcome.ALLOW, None)


@pytest.mark.parametrize(("smallest", "expected"), [(50, (Outcome.CLAMP, Decimal(50))), (51, (Outcome.DENY, None))])
def test_a_clamp_below_the_smallest_order_denies(smallest: int, expected: tuple[Outcome, Decimal | None]) -> None:
    small = context(quantity="60")
    small = replace(small, instrument=replace(small.instrument, min_size=Decimal(smallest)))
    assert check("order_notional", small) == expected


@pytest.mark.parametrize("name", ["market_data", "order_notional", "position_size", "price_collar"])
@pytest.mark.parametrize(
    "quote",
    [
        Quote(con_id=1, at=NOW),
        Quote(con_id=1, at=NOW, close=Decimal(100)),
        Quote(con_id=1, at=NOW, bid=Decimal(100), ask=Decimal(100), delayed=True),
        Quote(con_id=1, at=NOW, last=Decimal("NaN")),
        Quote(con_id=1, at=NOW, last=Decimal(0)),
        Quote(con_id=1, at=NOW, last=Decimal(-1)),
    ],
)
def test_a_price_that_is_missing_or_delayed_denies(name: str, quote: Quote) -> None:
    assert check(name, context(quote=quote))[0] is Outcome.DENY


def test_money_limits_are_in_the_base_currency() -> None:
    good = context(quantity="41")
    foreign = replace(good, instrument=replace(good.instrument, currency="EUR"))  # at 125 USD
    assert check("order_notional", foreign) == (Outcome.CLAMP, Decimal(40))
    assert check("position_size", foreign, max_notional=2600) == (Outcome.CLAMP, Decimal(20))
    old = replace(foreign, account=replace(good.account, values_at=NOW - timedelta(seconds=301)))
    assert check("order_notional", old)[0] is Outcome.DENY


def test_a_currency_without_a_rate_denies_money_limits_but_not_quantities() -> None:
    foreign = context()
    foreign = replace(foreign, instrument=replace(foreign.instrument, currency="JPY"))
    assert check("order_notional", foreign)[0] is Outcome.DENY
    assert check("position_size", foreign)[0] is Outcome.DENY
    assert check("position_size", foreign, max_quantity=100)[0] is Outcome.ALLOW


def test_forex_of_the_base_currency_is_worth_its_quantity() -> None:
    usdjpy = Instrument(
        symbol="USD", currency="JPY", sec_type=SecType.FOREX, exchange="IDEALPRO", con_id=1, min_tick=Decimal("0.005")
    )
    assert check("order_notional", context(quantity="6000", instrument=usdjpy)) == (Outcome.CLAMP, Decimal(5000))


def test_position_size_counts_what_is_held_and_reserved() -> None:
    assert check("position_size", context(quantity="40", position=Decimal(60))) == (Outcome.ALLOW, None)
    held = context(quantity="40", position=Decimal(60), reserved=Decimal(20))
    assert check("position_size", held) == (Outcome.CLAMP, Decimal(20))
    assert check("position_size", replace(held, reserved=Decimal(40))) == (Outcome.DENY, None)
    assert check("position_size", context(quantity="40"), max_notional=2_550) == (Outcome.CLAMP, Decimal(25))
    short = context(Side.SELL, "40", position=Decimal(-80))
    assert check("position_size", short) == (Outcome.CLAMP, Decimal(20))
    assert check("position_size", context(quantity="2.5", position=Decimal("97.5"))) == (Outcome.ALLOW, None)


def test_position_size_never_denies_a_reduction_even_without_a_price() -> None:
    blind = context(Side.SELL, "500", position=Decimal(700), quote=Quote(con_id=1, at=NOW))
    assert check("position_size", blind)[0] is Outcome.ALLOW
    # Beyond zero it is an increase on the other side.
    assert check("position_size", context(Side.SELL, "900", position=Decimal(700))) == (Outcome.CLAMP, Decimal(800))


def test_short_selling_is_clamped_to_what_strategy_and_account_have() -> None:
    assert check("short_selling", context(Side.BUY, "10")) == (Outcome.ALLOW, None)
    selling = context(Side.SELL, "10", held=Decimal(10), position=Decimal(10))
    assert check("short_selling", selling) == (Outcome.ALLOW, None)
    assert check("short_selling", replace(selling, held=Decimal(4))) == (Outcome.CLAMP, Decimal(4))
    assert check("short_selling", replace(selling, position=Decimal(3))) == (Outcome.CLAMP, Decimal(3))
    assert check("short_selling", replace(selling, reserved=Decimal(-10))) == (Outcome.DENY, None)
    # `held` has the strategy's own open sells taken off already; `reserved` comes off the account alone.
    shared = replace(selling, position=Decimal(20), reserved=Decimal(-5))
    assert check("short_selling", shared) == (Outcome.ALLOW, None)
    odd = context(Side.SELL, "0.5", held=Decimal("0.5"), position=Decimal("0.5"))
    assert check("short_selling", odd) == (Outcome.ALLOW, None)


def test_the_collar_measures_the_limit_and_the_age_of_the_reference() -> None:
    assert check("price_collar", context(limit="105"))[0] is Outcome.ALLOW
    assert check("price_collar", context(limit="105.01"))[0] is Outcome.DENY
    assert check("price_collar", context(limit="94.99"))[0] is Outcome.DENY
    assert check("price_collar", context())[0] is Outcome.ALLOW
    for age in (timedelta(seconds=31), timedelta(seconds=-31)):
        assert check("price_collar", context(now=NOW + age))[0] is Outcome.DENY
    assert check("price_collar", context(now=NOW + timedelta(seconds=30)))[0] is Outcome.ALLOW


def test_a_reference_is_stale_after_a_minute_unless_the_workflow_says_otherwise() -> None:
    for name, more in (("market_data", {}), ("price_collar", {"max_deviation": 0.05})):
        for age, outcome in ((60, Outcome.ALLOW), (61, Outcome.DENY), (-61, Outcome.DENY)):
            assert check(name, context(now=NOW + timedelta(seconds=age)), **more)[0] is outcome
        assert check(name, context(now=NOW + timedelta(seconds=9)), max_age_seconds=8, **more)[0] is Outcome.DENY


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("market_data", {"max_age_seconds": math.nan}),
        ("order_notional", {"max": math.nan}),
        ("position_size", {"max_quantity": math.nan}),
        ("position_size", {"max_quantity": 100, "max_notional": math.nan}),
        ("position_size", {"max_quantity": math.nan, "max_notional": 20_000}),
        ("price_collar", {"max_deviation": math.nan}),
    ],
)
def test_a_limit_that_is_no_number_denies(name: str, parameters: dict[str, float]) -> None:
    assert check(name, context(limit="100"), **parameters)[0] is Outcome.DENY


def test_the_collar_measures_the_stop_too() -> None:
    assert check("price_collar", context(stop="105"))[0] is Outcome.ALLOW
    assert check("price_collar", context(stop="105.01"))[0] is Outcome.DENY
    assert check("price_collar", context(Side.SELL, stop="94.99"))[0] is Outcome.DENY
    assert check("price_collar", context(stop="105.01", limit="104"))[0] is Outcome.DENY
    assert check("price_collar", context(stop="104", limit="105.01"))[0] is Outcome.DENY
    verdict = RULES["price_collar"].check(context(stop="104", limit="103"), PARAMETERS["price_collar"])
    assert (verdict.outcome, verdict.observed) == (Outcome.ALLOW, "0.040000")


def test_money_limits_measure_a_stop_order_at_its_stop() -> None:
    assert context(stop="500").price == 500
    assert context(stop="500", limit="510").price == 510
    assert context(stop="90").price == 100  # never cheaper than the market
    assert check("order_notional", context(stop="500")) == (Outcome.ALLOW, None)
    assert check("order_notional", context(stop="501")) == (Outcome.CLAMP, Decimal(9))
    assert check("position_size", context(quantity="40", stop="501")) == (Outcome.CLAMP, Decimal(39))


def test_orders_per_day_and_trading_hours() -> None:
    assert check("orders_per_day", context(orders_today=2))[0] is Outcome.ALLOW
    assert check("orders_per_day", context(orders_today=3))[0] is Outcome.DENY
    assert check("trading_hours", context())[0] is Outcome.ALLOW
    assert check("trading_hours", context(market_open=False))[0] is Outcome.DENY
    assert check("trading_hours", context(market_open=None))[0] is Outcome.DENY


# --- what holds for every rule in every context -------------------------------------------------------------


@settings(max_examples=300)
@given(given_context=contexts())
def test_what_passes_all_rules_was_asked_at_a_good_time(given_context: RiskContext) -> None:
    result = evaluate([(rule, PARAMETERS[rule.name]) for rule in CHOSEN], given_context)
    if result.ticket is not None:
        assert usable_price(given_context.quote.reference)
        assert not given_context.quote.delayed
        assert given_context.orders_today < 3
        assert given_context.market_open is True


@st.composite
def contexts_near_the_limits(draw: st.DrawFn) -> RiskContext:
    """Good prices, and quantities around what `PARAMETERS` allow: whether an order passes is a matter of its size."""
    side = draw(st.sampled_from(Side))
    near = st.one_of(st.none(), st.integers(9600, 10400).map(lambda cents: str(Decimal(cents) / 100)))
    quantities = st.integers(-150, 150).map(Decimal)
    chosen = context(
        side,
        draw(st.sampled_from(["1", "2.5", "10", "40", "50", "51", "99", "100", "150"])),
        limit=draw(near),
        stop=draw(near),
        increment=draw(st.sampled_from(["1", "0.5", "20"])),
        position=draw(quantities),
        reserved=draw(st.integers(0, 60).map(lambda open_orders: Decimal(open_orders * side.sign))),
        held=draw(quantities),
    )
    smallest = draw(st.sampled_from([Decimal(1), Decimal(40)]))
    return replace(chosen, instrument=replace(chosen.instrument, min_size=smallest))


def fits(context: RiskContext, quantity: Decimal) -> bool:
    """The limits of `PARAMETERS`, said once more."""
    price = max(Decimal(100), context.ticket.limit_price or 0, context.ticket.stop_price or 0)
    worst = (context.position + context.reserved) * context.ticket.side.sign + quantity
    if context.ticket.side is Side.SELL and quantity > min(context.held, context.position + context.reserved):
        return False
    return quantity * price <= 5000 and (worst <= 0 or (worst <= 100 and worst * price <= 20_000))


@settings(max_examples=500)
@given(given_context=contexts_near_the_limits())
def test_an_order_shrinks_to_the_most_that_fits_and_no_further(given_context: RiskContext) -> None:
    result = evaluate([(rule, PARAMETERS[rule.name]) for rule in CHOSEN], given_context)
    asked, instrument = given_context.ticket.quantity, given_context.instrument
    multiples = (instrument.size_increment * n for n in range(int(asked / instrument.size_increment), 0, -1))
    most = asked if fits(given_context, asked) else next((n for n in multiples if fits(given_context, n)), Decimal(0))
    passes = most == asked or most >= instrument.min_size
    assert (result.ticket.quantity if result.ticket else None) == (most if passes else None)


@given(given_context=contexts())
def test_a_pure_reduction_is_never_denied_by_position_size(given_context: RiskContext) -> None:
    before = (given_context.position + given_context.reserved) * given_context.ticket.side.sign
    assume(before + given_context.ticket.quantity <= 0)
    assert check("position_size", given_context)[0] is Outcome.ALLOW
