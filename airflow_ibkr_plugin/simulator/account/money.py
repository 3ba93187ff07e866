"""Amounts of money: exact decimals. This is the one place that rounds.

Each amount is rounded when it comes into being: what a fill pays, a commission, a position's value. Books are sums of
rounded amounts, and an amount in the base currency is the sum of each currency's amount, converted and rounded: so
sums hold to the cent in every currency and in the base currency.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

CENT = Decimal("0.01")
ZERO = Decimal(0)
#: Decimals of a rate; every conversion uses the rounded rate, which is the one that clients are told.
RATE_UNIT = Decimal("0.00000001")


def cents(amount: Decimal) -> Decimal:
    """Rounded to the cent, half to even; yen and the like too."""
    return amount.quantize(CENT, ROUND_HALF_EVEN)


def decimals(number: Decimal) -> str:
    """A figure as account values write it: no needless digits, at least two decimals."""
    whole, _, fraction = format(number, "f").partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
