"""Figures: ledgers, base currency, rates, margins and commissions."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.account.commissions import order_commission
from airflow_ibkr_plugin.simulator.account.figures import holding, in_base, ledgers
from airflow_ibkr_plugin.simulator.account.funds import parse_cash
from airflow_ibkr_plugin.simulator.account.margin import currency_margin, stock_margin
from airflow_ibkr_plugin.simulator.account.money import ZERO, cents, decimals
from airflow_ibkr_plugin.simulator.account.values import account_values
from airflow_ibkr_plugin.simulator.market.catalogue import synthetic
from airflow_ibkr_plugin.simulator.market.hours import sessions_back

from .conftest import START, Trade

if TYPE_CHECKING:
    from .conftest import Account

INSTRUMENTS = {instrument.con_id: instrument for instrument in synthetic(2026)}
SUMS = ("CashBalance", "TotalCashBalance", "StockMarketValue", "RealizedPnL", "UnrealizedPnL")
properties = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
orders = st.lists(
    st.tuples(st.sampled_from(sorted(INSTRUMENTS)), st.sampled_from(["BOT", "SLD"]), st.integers(1, 20_000)),
    max_size=12,
)


def trade(account: Account, made: list[tuple[int, str, int]]) -> None:
    """Fill them 1 % off the market, on the price grid."""
    account.open()
    for con_id, side, shares in made:
        instrument = INSTRUMENTS[con_id]
        price = account.gateway.last_price(instrument) * Decimal("1.01")
        account.fill([Trade(con_id, side, [shares], price - price % instrument.min_tick)])


@properties
@given(orders)
def test_clients_can_add_the_figures_up(euro_account: Account, made: list[tuple[int, str, int]]) -> None:
    trade(euro_account, made)
    values = {(key, currency): value for key, value, currency in account_values(euro_account.gateway)}
    currencies = [currency for key, currency in values if key == "Currency" and currency != "BASE"]
    rates = {currency: Decimal(values["ExchangeRate", currency]) for currency in currencies}
    for key in SUMS:
        total = sum((cents(Decimal(values[key, currency]) * rates[currency]) for currency in currencies), ZERO)
        assert Decimal(values[key, "BASE"]) == total
    texts = ("AccountOrGroup", "Currency", "RealCurrency")
    amount = {key: Decimal(value) for (key, column), value in values.items() if column == "EUR" and key not in texts}
    base = {key: Decimal(values[key, "BASE"]) for key in (*SUMS, "NetLiquidationByCurrency")}
    assert amount["NetLiquidation"] == base["TotalCashBalance"] + base["StockMarketValue"]
    assert amount["NetLiquidation"] == base["NetLiquidationByCurrency"]
    assert amount["TotalCashValue"] == base["TotalCashBalance"]
    assert amount["AvailableFunds"] == amount["EquityWithLoanValue"] - amount["InitMarginReq"]
    assert amount["ExcessLiquidity"] == amount["EquityWithLoanValue"] - amount["MaintMarginReq"]
    assert amount["InitMarginReq"] >= amount["MaintMarginReq"] >= 0
    assert amount["SMA"] == amount["RegTEquity"] - amount["RegTMargin"]
    least = min(amount["EquityWithLoanValue"], amount["PreviousDayEquityWithLoanValue"])
    assert amount["BuyingPower"] == max((least - amount["InitMarginReq"]) * 4, ZERO)
    for currency in currencies:
        cash, stock = (Decimal(values[key, currency]) for key in ("CashBalance", "StockMarketValue"))
        assert Decimal(values["NetLiquidationByCurrency", currency]) == cash + stock


@properties
@given(orders)
def test_what_the_account_gained_is_its_profit(euro_account: Account, made: list[tuple[int, str, int]]) -> None:
    """In each currency, to the cent. A pair holds one currency and owes the other: its value is no stock's."""
    trade(euro_account, made)
    gateway = euro_account.gateway
    pairs = [
        held for con_id in gateway.portfolio_of("").positions if (held := holding(gateway, con_id)).instrument.is_forex
    ]
    for book in ledgers(gateway):
        gained = book.cash + book.stock - START.get(book.currency, ZERO)
        holds = sum((pair.quantity for pair in pairs if pair.instrument.symbol == book.currency), ZERO)
        owes = sum((pair.value for pair in pairs if pair.instrument.currency == book.currency), ZERO)
        assert gained == book.realized + book.unrealized + holds - owes


@properties
@given(orders, st.sampled_from(sorted(INSTRUMENTS)), st.integers(-2000, 2000))
def test_buying_at_the_last_price_leaves_the_equity(
    euro_account: Account, made: list[tuple[int, str, int]], con_id: int, shares: int
) -> None:
    trade(euro_account, made)
    gateway = euro_account.gateway
    before, after = ledgers(gateway), ledgers(gateway, {con_id: Decimal(shares)})
    instrument, was = INSTRUMENTS[con_id], {book.currency: book for book in before}
    price = gateway.last_price(instrument)
    for book in after:
        old = was.get(book.currency, book)
        paid = cents(shares * price) if book.currency == instrument.currency and book.currency in was else ZERO
        if instrument.is_forex:
            got = shares if book.currency == instrument.symbol and book.currency in was else ZERO
            assert (book.cash - old.cash, book.stock) == (got - paid, old.stock)
        else:
            assert (book.cash - old.cash, book.stock - old.stock) == (-paid, paid)
            assert abs(in_base(before).equity - in_base(after).equity) <= Decimal("0.01")


@properties
@given(st.sampled_from(sorted(INSTRUMENTS)), st.floats(1.7e9, 1.8e9))
def test_positions_are_valued_at_the_quotes_last_price(euro_account: Account, con_id: int, moment: float) -> None:
    market, instrument = euro_account.gateway.market, INSTRUMENTS[con_id]
    quote = market.quote(instrument, moment)
    assert market.last(instrument, moment) == (quote.last if quote else None)


def test_rates_are_those_of_the_pairs(euro_account: Account) -> None:
    gateway = euro_account.gateway

    def last(base: str, quote: str) -> Decimal:
        pair = gateway.catalogue.pair(base, quote)
        assert pair is not None
        return gateway.last_price(pair)

    near = Decimal("0.000000005")
    assert gateway.rate("EUR") == 1
    assert abs(gateway.rate("GBP") - 1 / last("EUR", "GBP")) <= near
    assert abs(gateway.rate("USD") - 1 / last("EUR", "USD")) <= near
    # No pair of EUR and CAD: by way of USD.
    assert abs(gateway.rate("CAD") - 1 / last("USD", "CAD") / last("EUR", "USD")) <= near


CROSSES = [
    (("EUR", "GBP"), ("EUR", "USD"), ("GBP", "USD"), True),
    (("EUR", "CHF"), ("EUR", "USD"), ("USD", "CHF"), False),
    (("EUR", "JPY"), ("EUR", "USD"), ("USD", "JPY"), False),
]


@pytest.mark.parametrize(("cross", "first", "second", "divides"), CROSSES)
def test_a_cross_is_what_its_pairs_imply_but_for_extremes(
    euro_account: Account, cross: tuple[str, str], first: tuple[str, str], second: tuple[str, str], divides: bool
) -> None:
    market, near = euro_account.gateway.market, []
    instruments = [INSTRUMENTS[euro_account.con_id(*pair)] for pair in (cross, first, second)]
    for session in itertools.islice(sessions_back(instruments[0].hours, 1_795_000_000, regular=True), 10):
        made, base, other = (market.path(one, session, session.open, session.close) for one in instruments)
        bar = market.day_bar(instruments[0], session.day)
        assert bar is not None
        assert (made[0], made.max(), made.min(), made[-1]) == (bar.open, bar.high, bar.low, bar.close)
        implied = base / other if divides else base * other
        near.append(np.abs(made - implied) <= float(instruments[0].min_tick))
    assert np.mean(near) > 0.9


@pytest.mark.parametrize(
    ("quantity", "price", "currency", "margin"),
    [
        (100, "200", "USD", "5000.00"),
        (-100, "200", "USD", "6000.00"),
        (-100, "10", "USD", "500.00"),  # below 16.67: 5.00 a share
        (-100, "4", "USD", "400.00"),  # below 5: the whole value
        (-100, "1", "USD", "250.00"),  # at most 2.50: 2.50 a share
        (-100, "4", "EUR", "120.00"),
    ],
)
def test_stock_margins_are_ibkrs(quantity: int, price: str, currency: str, margin: str) -> None:
    value = quantity * Decimal(price)
    assert stock_margin(Decimal(quantity), Decimal(price), value, currency) == Decimal(margin)


def test_debts_are_margined_as_ibkr_does() -> None:
    # The example of IBKR's Knowledge Base article 970, with CHF for its KRW.
    worth = {"EUR": Decimal("-19712.72"), "USD": Decimal("15073.07"), "CHF": Decimal("5032.04")}
    initial, maintenance = currency_margin(worth)
    assert initial == cents(Decimal("15073.07") * Decimal("0.03") + Decimal("4639.65") * Decimal("0.05"))
    assert maintenance == cents(Decimal("19712.72") * Decimal("0.03"))
    assert currency_margin({"EUR": Decimal(5), "USD": Decimal(7)}) == (0, 0)
    # What nothing covers has its own rate.
    assert currency_margin({"GBP": Decimal(-1000)}) == (Decimal("25.00"), Decimal("25.00"))


def test_commissions_are_ibkrs(euro_account: Account) -> None:
    def fee(symbol: str, currency: str, shares: int, price: str, charged: str = "0") -> tuple[Decimal, str]:
        instrument = INSTRUMENTS[euro_account.con_id(symbol, currency)]
        return order_commission(euro_account.gateway, instrument, Decimal(shares), Decimal(price), Decimal(charged))

    assert fee("AAPL", "USD", 100, "25") == (Decimal("1.00"), "USD")
    assert fee("AAPL", "USD", 1000, "25") == (Decimal("5.00"), "USD")
    assert fee("AAPL", "USD", 1000, "0.25") == (Decimal("2.50"), "USD")
    assert fee("AAPL", "USD", 300, "25", charged="1.00") == (Decimal("0.50"), "USD")
    assert fee("AAPL", "USD", 150, "25", charged="1.00") == (Decimal(0), "USD")
    assert fee("SHOP", "CAD", 1000, "100") == (Decimal("10.00"), "CAD")
    assert fee("SAP", "EUR", 100, "40") == (Decimal("3.00"), "EUR")
    assert fee("SAP", "EUR", 1000, "40") == (Decimal("20.00"), "EUR")
    assert fee("GLAB", "GBP", 1000, "27") == (Decimal("13.50"), "GBP")
    assert fee("NESN", "CHF", 10, "85") == (Decimal("5.00"), "CHF")
    assert fee("7203", "JPY", 100, "2500") == (Decimal("200.00"), "JPY")
    dollar = euro_account.gateway.rate("USD")
    assert fee("GBP", "USD", 20_000, "1.25") == (cents(2 * dollar), "EUR")
    assert fee("GBP", "USD", 1_000_000, "1.25") == (cents(25 * dollar), "EUR")


def test_cash_is_read_or_refused() -> None:
    assert parse_cash("USD=1000000, EUR=50000.50") == {"USD": 1_000_000, "EUR": Decimal("50000.50")}
    for text in ("USD", "USD=", "USD=x", "USD=-1", "USD=1,USD=2", "USD=0.001", "USD=nan", ""):
        with pytest.raises(ConfigError, match="--cash"):
            parse_cash(text)


def test_rates_are_written_as_ibkr_writes_them() -> None:
    assert [decimals(Decimal(text)) for text in ("1", "1.10", "1.11238010", "100")] == [
        "1.00", "1.10", "1.1123801", "100.00",
    ]  # fmt: skip
