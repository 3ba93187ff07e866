"""The books: whatever is traded in whatever currency, cash, positions and profit add up to the cent."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.simulator.account.money import ZERO, cents
from airflow_ibkr_plugin.simulator.account.portfolio import Portfolio
from airflow_ibkr_plugin.simulator.market.catalogue import synthetic
from airflow_ibkr_plugin.simulator.state import StateStore

from .conftest import START, Trade

if TYPE_CHECKING:
    from .conftest import Account

INSTRUMENTS = {instrument.con_id: instrument for instrument in synthetic(2026)}
properties = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def trade(draw: st.DrawFn) -> Trade:
    instrument = INSTRUMENTS[draw(st.sampled_from(sorted(INSTRUMENTS)))]
    level = int(instrument.level / float(instrument.min_tick))
    price = draw(st.integers(max(level // 2, 1), level * 2)) * instrument.min_tick
    most = 40_000 if instrument.is_forex else 3_000
    fills = draw(st.lists(st.integers(1, most), min_size=1, max_size=4))
    return Trade(instrument.con_id, draw(st.sampled_from(["BOT", "SLD"])), fills, price)


trades = st.lists(trade(), max_size=25)


def paid(made: list[Trade], commissions: dict[str, Decimal]) -> dict[str, Decimal]:
    """What orders change in cash: their value rounded to the cent, both legs of a pair, and commissions."""
    cash: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for one in made:
        instrument = INSTRUMENTS[one.con_id]
        cash[instrument.currency] -= cents(one.signed * one.price)
        if instrument.is_forex:
            cash[instrument.symbol] += one.signed
    for currency, amount in commissions.items():
        cash[currency] -= amount
    return cash


def commissions(account: Account) -> dict[str, Decimal]:
    total: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for execution in account.executions:
        total[execution.commission_currency] += execution.commission
    return total


@properties
@given(trades)
def test_cash_is_what_was_not_paid(euro_account: Account, made: list[Trade]) -> None:
    portfolio = euro_account.open()
    euro_account.fill(made)
    expected = paid(made, commissions(euro_account))
    for currency in expected.keys() | START.keys():
        assert portfolio.cash[currency] == START.get(currency, ZERO) + expected[currency]
    for con_id, position in portfolio.positions.items():
        assert position.quantity == sum((one.signed for one in made if one.con_id == con_id), ZERO)


@properties
@given(trades)
def test_what_cash_lacks_is_in_positions(euro_account: Account, made: list[Trade]) -> None:
    """In each currency: cash - start = realized - cost of what is quoted in it + what pairs hold of it - fees."""
    portfolio = euro_account.open()
    profits = euro_account.fill(made)
    expected: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for con_id, position in portfolio.positions.items():
        instrument = INSTRUMENTS[con_id]
        expected[instrument.currency] += position.realized - position.cost
        if instrument.is_forex:
            expected[instrument.symbol] += position.quantity
        assert position.cost == 0 or position.quantity != 0
    for currency, fees in portfolio.forex_commissions.items():
        expected[currency] -= fees
    for currency, amount in portfolio.cash.items():
        assert amount == START.get(currency, ZERO) + expected[currency]
    assert sum(profits, ZERO) == sum((position.realized for position in portfolio.positions.values()), ZERO)


@properties
@given(trades)
def test_closing_everything_leaves_profit_alone(euro_account: Account, made: list[Trade]) -> None:
    portfolio = euro_account.open()
    euro_account.fill(made)
    for con_id, position in list(portfolio.positions.items()):
        if position.quantity:
            side = "SLD" if position.quantity > 0 else "BOT"
            euro_account.fill([Trade(con_id, side, [int(abs(position.quantity))], INSTRUMENTS[con_id].min_tick * 300)])
    expected: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for con_id, position in portfolio.positions.items():
        assert (position.quantity, position.cost) == (0, 0)
        expected[INSTRUMENTS[con_id].currency] += position.realized
    for currency, fees in portfolio.forex_commissions.items():
        expected[currency] -= fees
    for currency, amount in portfolio.cash.items():
        assert amount == START.get(currency, ZERO) + expected[currency]


@properties
@given(trades)
def test_an_order_costs_the_same_however_it_is_filled(euro_account: Account, made: list[Trade]) -> None:
    parts = euro_account.open()
    euro_account.fill(made)
    whole = euro_account.open()
    euro_account.fill(one._replace(fills=[sum(one.fills)]) for one in made)
    assert dict(parts.cash) == dict(whole.cash)
    assert {con: item.quantity for con, item in parts.positions.items()} == {
        con: item.quantity for con, item in whole.positions.items()
    }


def books(portfolio: Portfolio) -> dict[str, Any]:
    return vars(portfolio) | {"cash": dict(portfolio.cash), "_day_cash": dict(portfolio.day_cash(portfolio._day))}


@properties
@given(trades)
def test_stored_executions_make_the_same_books(euro_account: Account, made: list[Trade]) -> None:
    portfolio = euro_account.open()
    euro_account.fill(made)
    store = StateStore(Path(":memory:"))
    for execution in euro_account.executions:
        store.add_execution(execution)
    again = Portfolio(START)
    for execution in store.executions():
        again.apply(execution, INSTRUMENTS[execution.con_id])
    store.close()
    assert books(again) == books(portfolio)


ratios = st.sampled_from([Decimal(4), Decimal(2), Decimal("1.5"), Decimal("0.1"), Decimal("0.05")])


@properties
@given(trades, st.integers(0, 20), ratios)
def test_a_split_keeps_what_the_account_is_worth(
    euro_account: Account, made: list[Trade], which: int, ratio: Decimal
) -> None:
    portfolio = euro_account.open()
    euro_account.fill(made)
    held = [con for con, item in portfolio.positions.items() if item.quantity and not INSTRUMENTS[con].is_forex]
    if not held:
        return
    con_id = held[which % len(held)]
    currency, position = INSTRUMENTS[con_id].currency, portfolio.positions[con_id]
    cash, quantity, cost, realized = portfolio.cash[currency], position.quantity, position.cost, position.realized
    price = Decimal("12.34")
    portfolio.split(con_id, ratio, price, euro_account.gateway.today, currency)
    fraction = quantity * ratio - position.quantity
    assert position.quantity == int(quantity * ratio)
    assert portfolio.cash[currency] - cash == cents(fraction * price)
    # What the fraction cost is realized with what it was paid for.
    assert position.cost - position.realized == cost - realized - (portfolio.cash[currency] - cash)
    assert fraction or (position.cost, position.realized) == (cost, realized)


def test_average_cost_has_the_commission_and_profit_is_after_it(euro_account: Account) -> None:
    portfolio = euro_account.open()
    apple = euro_account.con_id("AAPL", "USD")
    assert euro_account.fill([Trade(apple, "BOT", [60, 40], Decimal("200.00"))]) == []
    assert portfolio.positions[apple].average_cost == Decimal("200.01")
    # Sold through zero: 100 close at a profit, 50 open short; each bears its part of the commission of 1.00.
    profit = euro_account.fill([Trade(apple, "SLD", [150], Decimal("210.00"))])
    assert profit == [Decimal("21000.00") - Decimal("20001.00") - Decimal("0.67")]
    assert portfolio.positions[apple].quantity == -50
    assert portfolio.positions[apple].cost == -Decimal("10500.00") + Decimal("0.33")


def test_a_pair_moves_both_currencies_and_has_its_profit_in_the_second(euro_account: Account) -> None:
    portfolio = euro_account.open()
    pair = euro_account.con_id("EUR", "GBP")
    euro_account.fill([Trade(pair, "BOT", [100_000], Decimal("0.85"))])
    assert portfolio.cash["GBP"] == -Decimal(85_000)
    fee = START["EUR"] + 100_000 - portfolio.cash["EUR"]
    assert fee == cents(portfolio.forex_commissions["EUR"]) > 0
    assert portfolio.positions[pair].average_cost == Decimal("0.85")
    assert euro_account.fill([Trade(pair, "SLD", [40_000], Decimal("0.86"))]) == [Decimal("400.00")]
    assert portfolio.cash["GBP"] == -Decimal(85_000) + Decimal(34_400)
