from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError, NoMarketData
from airflow_ibkr_plugin.trading.instruments import Instrument, SecType
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot
from airflow_ibkr_plugin.trading.sizing import (
    SIZING_SCHEMA,
    Sizing,
    careful_arithmetic,
    limit_price,
    round_to_tick,
    stop_price,
    unit_value,
    whole_increments,
)

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
positive = st.decimals(min_value="0.000001", max_value="1e9", places=6).filter(lambda d: d > 0)
ticks = st.sampled_from([Decimal(text) for text in ("0.01", "0.05", "0.00005", "0.25", "1")])


def stock(**changes: object) -> Instrument:
    fields = {"symbol": "SPY", "con_id": 1, "min_tick": Decimal("0.01")} | changes
    return Instrument(**fields)  # type: ignore[arg-type]


def pair(symbol: str, currency: str) -> Instrument:
    return stock(symbol=symbol, currency=currency, sec_type=SecType.FOREX, exchange="IDEALPRO")


def account(currency: str = "USD", worth: int = 100_000, *, age: int = 0, **rates: str) -> AccountSnapshot:
    return AccountSnapshot(
        account="DU1",
        at=NOW,
        currency=currency,
        net_liquidation=Decimal(worth),
        rates={name: Decimal(rate) for name, rate in rates.items()},
        values_at=NOW - timedelta(seconds=age),
        cash=Decimal(50_000),
        buying_power=Decimal(200_000),
    )


@pytest.mark.parametrize(
    ("spec", "price", "expected"),
    [
        ({"quantity": 10}, None, "10"),
        ({"quantity": 10.9}, None, "10"),
        ({"quantity": 1}, None, "1"),  # exactly the smallest order
        ({"notional": 5000}, "100", "50"),
        ({"notional": 5000}, "100.01", "49"),
        ({"share_of_net_liquidation": 0.02}, "100", "20"),
        ({"share_of_net_liquidation": "0.02"}, "99.99", "20"),
        ({"share_of_net_liquidation": 1}, "100", "1000"),
    ],
)
def test_a_size_is_rounded_down_to_whole_units(spec: dict[str, object], price: str | None, expected: str) -> None:
    jsonschema.validate({k: float(str(v)) for k, v in spec.items()}, SIZING_SCHEMA)
    size = Sizing.parse(spec).quantity(stock(), price=Decimal(price) if price else None, account=account())
    assert size == Decimal(expected)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"quantity": 1, "notional": 2},
        {"lots": 1},
        {"quantity": 0},
        {"quantity": -3},
        {"quantity": True},
        {"quantity": "many"},
        {"quantity": float("nan")},
        {"share_of_net_liquidation": 1.5},
        None,
    ],
)
def test_a_size_that_is_none_is_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        Sizing.parse(spec)


def test_a_quantity_too_is_rounded_down_to_the_increment() -> None:
    lots = stock(size_increment=Decimal(100), min_size=Decimal(100))
    size = Sizing.parse({"quantity": 199}).quantity(lots, price=None, account=account(worth=0))
    assert size == 100


def test_careful_arithmetic_rounds_away_from_zero_and_never_raises() -> None:
    with careful_arithmetic():
        assert Decimal(1) / 3 * 3 > 1
        assert Decimal(-1) / 3 * 3 < -1
        assert (Decimal(1) / 0).is_infinite()
        assert (Decimal("sNaN") + 1).is_nan()
        assert not Decimal("NaN") <= 1


def test_less_than_the_smallest_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="comes to 0 units"):
        Sizing.parse({"notional": 99}).quantity(stock(), price=Decimal(100), account=account(worth=0))
    with pytest.raises(ConfigError, match="smallest order is 20000"):
        Sizing.parse({"quantity": 19_999}).quantity(
            stock(min_size=Decimal(20_000)), price=None, account=account(worth=0)
        )


def test_an_account_that_is_worth_nothing_orders_nothing() -> None:
    with pytest.raises(ConfigError, match="comes to 0 units"):
        Sizing.parse({"share_of_net_liquidation": 0.5}).quantity(
            stock(), price=Decimal(100), account=account(worth=-5_000)
        )


@pytest.mark.parametrize("price", [None, Decimal("NaN"), Decimal(0), Decimal(-1), Decimal("Infinity")])
def test_notional_without_a_price_is_refused(price: Decimal | None) -> None:
    with pytest.raises(NoMarketData, match="needs a price"):
        Sizing.parse({"notional": 5000}).quantity(stock(), price=price, account=account(worth=0))


@pytest.mark.parametrize(
    ("instrument", "price", "rates", "value"),
    [
        (stock(), "100", {}, "100"),
        (stock(currency="EUR"), "100", {}, None),
        (stock(currency="EUR"), "100", {"EUR": "1.25"}, "125"),
        (stock(currency="EUR"), "100", {"EUR": "NaN"}, None),
        (stock(currency="EUR"), "100", {"EUR": "0"}, None),
        (stock(currency="EUR"), "100", {"EUR": "Infinity"}, None),
        (stock(symbol="USD", currency="EUR"), "100", {}, None),  # a share of that name
        (pair("EUR", "USD"), "1.1", {"EUR": "1.25"}, "1.1"),  # the quote is fresher than the rate
        (pair("USD", "JPY"), "150", {}, "1"),  # a unit is one dollar, whatever the yen costs
        (pair("EUR", "JPY"), "160", {}, None),
        (pair("EUR", "JPY"), "160", {"EUR": "1.25"}, "1.25"),
        (pair("EUR", "JPY"), "160", {"JPY": "0.0075"}, "1.2"),
    ],
)
def test_units_of_foreign_money_need_a_rate(
    instrument: Instrument, price: str, rates: dict[str, str], value: str | None
) -> None:
    found = unit_value(instrument, Decimal(price), account(**rates), NOW)  # type: ignore[arg-type]
    assert found == (Decimal(value) if value else None)


@pytest.mark.parametrize(("age", "value"), [(300, 125), (-300, 125), (301, None), (-301, None)])
def test_a_rate_expires(age: int, value: int | None) -> None:
    assert unit_value(stock(currency="EUR"), Decimal(100), account(age=age, EUR="1.25"), NOW) == value
    undated = replace(account(EUR="1.25"), values_at=None)
    assert unit_value(stock(currency="EUR"), Decimal(100), undated, NOW) is None


def test_foreign_instruments_are_sized_in_the_base_currency() -> None:
    size = Sizing.parse({"notional": 5000})
    abroad = stock(currency="EUR")
    assert size.quantity(abroad, price=Decimal(100), account=account(EUR="1.25")) == 40
    share = Sizing.parse({"share_of_net_liquidation": 0.01})
    assert share.quantity(abroad, price=Decimal(100), account=account(EUR="1.25")) == 8
    with pytest.raises(ConfigError, match="rate from EUR to USD, and the broker tells none"):
        size.quantity(abroad, price=Decimal(100), account=account(JPY="0.0075"))
    with pytest.raises(NoMarketData, match="rate from EUR to USD, and it is too old"):
        size.quantity(abroad, price=Decimal(100), account=account(age=301, EUR="1.25"))


@given(value=positive, per_unit=positive, increment=st.sampled_from([Decimal(1), Decimal("0.0001"), Decimal(100)]))
def test_whole_increments_never_pass_the_value_and_miss_it_by_less_than_one(
    value: Decimal, per_unit: Decimal, increment: Decimal
) -> None:
    quantity = whole_increments(value, per_unit, increment)
    assert quantity % increment == 0
    assert quantity * per_unit <= value < (quantity + increment) * per_unit


@given(price=positive, tick=ticks, up=st.booleans())
def test_a_price_is_rounded_to_the_next_tick_in_the_direction_asked(price: Decimal, tick: Decimal, up: bool) -> None:
    rounded = round_to_tick(price, tick, up=up)
    assert rounded % tick == 0
    assert price <= rounded < price + tick if up else price - tick < rounded <= price


@given(reference=st.decimals("1", "1e6", places=4), offset=st.decimals("-0.5", "0.5", places=4), tick=ticks)
def test_a_limit_never_gives_more_than_was_configured(reference: Decimal, offset: Decimal, tick: Decimal) -> None:
    instrument = stock(min_tick=tick)
    try:
        buy = limit_price(instrument, Side.BUY, reference, offset)
    except ConfigError:
        assert reference * (1 + offset) < tick
    else:
        assert 0 < buy <= reference * (1 + offset)
    assert limit_price(instrument, Side.SELL, reference, offset) >= reference * (1 - offset)


def test_a_stop_is_rounded_away_from_the_market() -> None:
    assert stop_price(stock(), Side.BUY, Decimal(100), Decimal("0.00001")) == Decimal("100.01")
    assert stop_price(stock(), Side.SELL, Decimal(100), Decimal("0.00001")) == Decimal("99.99")
    with pytest.raises(ConfigError, match="stop_offset smaller"):
        stop_price(stock(), Side.SELL, Decimal("0.01"), Decimal("0.5"))


@given(reference=positive, offset=st.decimals("0.000001", "0.5", places=6), tick=ticks)
def test_a_stop_never_triggers_earlier_than_configured(reference: Decimal, offset: Decimal, tick: Decimal) -> None:
    instrument = stock(min_tick=tick)
    assert stop_price(instrument, Side.BUY, reference, offset) >= reference * (1 + offset)
    try:
        sell = stop_price(instrument, Side.SELL, reference, offset)
    except ConfigError:
        assert reference * (1 - offset) < tick
    else:
        assert 0 < sell <= reference * (1 - offset)


def test_no_price_is_left_of_a_limit_below_the_first_tick() -> None:
    assert limit_price(stock(), Side.BUY, Decimal("0.02"), Decimal("-0.5")) == Decimal("0.01")
    with pytest.raises(ConfigError, match="limit_offset smaller"):
        limit_price(stock(), Side.BUY, Decimal("0.01"), Decimal("-0.5"))


@pytest.mark.parametrize(
    ("distance", "rates", "currency", "expected"),
    [("2", {}, "USD", 500), ("2.01", {}, "USD", 497), ("2", {"EUR": "1.25"}, "EUR", 400), ("1500", {}, "USD", 0)],
)
def test_risk_per_trade_loses_no_more_than_its_share_at_the_stop(
    distance: str, rates: dict[str, str], currency: str, expected: int
) -> None:
    size = Sizing.parse({"risk_per_trade": 0.01})  # 1,000 of 100,000

    def quantity() -> Decimal:
        return size.quantity(
            stock(currency=currency),
            price=Decimal(100),
            account=account(**rates),  # type: ignore[arg-type]
            stop_distance=Decimal(distance),
        )

    if expected:
        assert quantity() == expected
    else:
        with pytest.raises(ConfigError, match="comes to 0 units"):
            quantity()


@pytest.mark.parametrize("distance", [None, "0", "-1", "NaN", "sNaN", "Infinity"])
def test_risk_per_trade_without_a_distance_above_zero_is_refused(distance: str | None) -> None:
    given_distance = Decimal(distance) if distance else None
    with pytest.raises(ConfigError, match="distance above zero"):
        Sizing.parse({"risk_per_trade": 0.01}).quantity(
            stock(), price=Decimal(100), account=account(), stop_distance=given_distance
        )


def test_risk_per_trade_needs_the_rate_of_the_quoted_money() -> None:
    size = Sizing.parse({"risk_per_trade": 0.01})
    yen = pair("USD", "JPY")  # a unit is a dollar, but what is lost on it is yen
    lost = size.quantity(yen, price=Decimal(150), account=account(JPY="0.0075"), stop_distance=Decimal("1.5"))
    assert lost == 88_888
    with pytest.raises(ConfigError, match="rate from JPY to USD, and the broker tells none"):
        size.quantity(yen, price=Decimal(150), account=account(), stop_distance=Decimal(1))
    with pytest.raises(NoMarketData, match="too old"):
        size.quantity(yen, price=Decimal(150), account=account(age=301, JPY="0.0075"), stop_distance=Decimal(1))


@given(
    share=st.decimals("0.0001", "1", places=4),
    worth=st.integers(1, 10**9),
    distance=st.decimals("0.0001", "1e5", places=4).filter(lambda d: d > 0),
    rate=st.decimals("0.0001", "1000", places=4).filter(lambda d: d > 0),
)
def test_the_loss_at_the_stop_is_never_above_the_budget(
    share: Decimal, worth: int, distance: Decimal, rate: Decimal
) -> None:
    size = Sizing.parse({"risk_per_trade": str(share)})
    try:
        quantity = size.quantity(
            stock(currency="EUR"),
            price=None,
            account=account(worth=worth, EUR=str(rate)),
            stop_distance=distance,
        )
    except ConfigError:
        assert distance * rate > share * worth
    else:
        assert quantity * distance * rate <= share * worth < (quantity + 1) * distance * rate
