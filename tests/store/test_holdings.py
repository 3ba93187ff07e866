from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.store.holdings import Holding

CENT = Decimal("0.01")
SIZES = st.integers(-5000, 5000).filter(bool).map(lambda n: Decimal(n) / 10)
PRICES = st.decimals(min_value="0.0001", max_value="9999", places=4)
COMMISSIONS = st.decimals(min_value="-1", max_value="30", places=4)
FILLS = st.lists(st.tuples(SIZES, PRICES, COMMISSIONS), max_size=30)


def add_up(fills: list[tuple[Decimal, Decimal, Decimal]]) -> Holding:
    holding = Holding()
    for fill in fills:
        holding = holding.after(*fill)
    return holding


@given(FILLS)
def test_cash_adds_up_to_the_cent(fills: list[tuple[Decimal, Decimal, Decimal]]) -> None:
    cash = sum((-change * price - commission for change, price, commission in fills), Decimal(0))
    holding = add_up(fills)
    assert holding.quantity == sum(change for change, _, _ in fills)
    assert abs(holding.realized_pnl - holding.quantity * holding.average_cost - cash) < CENT


@given(FILLS)
def test_agrees_with_exact_fractions(fills: list[tuple[Decimal, Decimal, Decimal]]) -> None:
    """The average-cost method over again, written apart and without rounding."""
    quantity = cost = realized = Fraction(0)  # cost: signed book value of what is open
    for fill in fills:
        change, price, commission = map(Fraction, fill)
        against = min(abs(change), abs(quantity)) if quantity * change < 0 else Fraction(0)
        if against:
            share = against / abs(change)
            direction = 1 if quantity > 0 else -1
            released = cost * against / abs(quantity)
            realized += direction * against * price - commission * share - released
            cost -= released
            quantity -= direction * against
            change += direction * against
            commission *= 1 - share
        cost += change * price + commission if change else 0
        quantity += change
    holding = add_up(fills)
    assert Fraction(holding.quantity) == quantity
    assert abs(Fraction(holding.realized_pnl) - realized) < Fraction(CENT)
    assert abs(Fraction(holding.quantity * holding.average_cost) - cost) < Fraction(CENT)


@given(FILLS)
def test_a_short_is_the_mirror_of_a_long(fills: list[tuple[Decimal, Decimal, Decimal]]) -> None:
    free = [(change, price, Decimal(0)) for change, price, _ in fills]
    long, short = add_up(free), add_up([(-change, price, c) for change, price, c in free])
    assert (short.quantity, short.average_cost) == (-long.quantity, long.average_cost)
    assert short.realized_pnl == -long.realized_pnl


def test_commissions_raise_the_cost_of_a_long_and_lower_that_of_a_short() -> None:
    assert Holding().after(Decimal(10), Decimal(100), Decimal(1)).average_cost == Decimal("100.1")
    assert Holding().after(Decimal(-10), Decimal(100), Decimal(1)).average_cost == Decimal("99.9")


def test_a_fill_through_zero_splits_its_commission() -> None:
    holding = Holding().after(Decimal(10), Decimal(100), Decimal(1)).after(Decimal(-30), Decimal(110), Decimal(3))
    assert holding.realized_pnl == Decimal(10) * (Decimal(110) - Decimal("100.1")) - Decimal(1)
    assert (holding.quantity, holding.average_cost) == (Decimal(-20), Decimal("109.9"))


def test_flat_has_no_cost() -> None:
    holding = Holding().after(Decimal(3), Decimal(10)).after(Decimal(-3), Decimal(11))
    assert holding == Holding(Decimal(0), Decimal(0), Decimal(3))
