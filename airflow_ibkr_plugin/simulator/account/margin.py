"""What must be kept against positions and debts.

Sources: IBKR, "U.S. Stocks Margin" (Reg T Margin account) for stocks: 25 % of a long position, 30 % of a short one, and
50 % of either at the end of the day by Regulation T. IBKR, "Forex Margin" and its Knowledge Base article 970 for
currencies. IBKR margins foreign stocks by models of their exchanges; here they are margined as American ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from airflow_ibkr_plugin.simulator.account.money import ZERO, cents

_LONG = Decimal("0.25")
_SHORT = Decimal("0.30")
_REG_T = Decimal("0.50")
# A cheap share sold short needs at least its price, within these bounds (USD a share).
_SHORT_LOW, _SHORT_HIGH = Decimal("2.50"), Decimal("5.00")
#: Buying power is so many times the funds that are left. Source: IBKR, "Buying Power" of a margin account.
BUYING_POWER = 4

#: Initial and maintenance rate of a debt in the currency, or of what covers one.
CURRENCY_RATES = {
    "USD": (Decimal("0.025"), Decimal("0.025")),
    "EUR": (Decimal("0.03"), Decimal("0.03")),
    "GBP": (Decimal("0.025"), Decimal("0.025")),
    "JPY": (Decimal("0.03"), Decimal("0.025")),
    "CHF": (Decimal("0.05"), Decimal("0.03")),
    "CAD": (Decimal("0.025"), Decimal("0.025")),
}


def stock_margin(quantity: Decimal, price: Decimal, value: Decimal, currency: str) -> Decimal:
    """Initial margin of a stock position, which is its maintenance margin too, in its currency.

    :param value: of the position, negative when short.
    """
    if quantity >= 0:
        return cents(value * _LONG)
    margin = -value * _SHORT
    if currency == "USD":
        margin = max(margin, -quantity * min(max(price, _SHORT_LOW), _SHORT_HIGH))
    return cents(margin)


def reg_t_margin(value: Decimal) -> Decimal:
    """Regulation T's margin of a stock position at the end of the day, in its currency."""
    return cents(abs(value) * _REG_T)


def currency_margin(worth: Mapping[str, Decimal]) -> tuple[Decimal, Decimal]:
    """Initial and maintenance margin of debts in some currencies, covered by what the account has in others.

    The largest debt is covered first, by the currency that covers it at the lowest rate; a pair has the higher rate
    of its two currencies. A debt that nothing covers has its own rate.

    :param worth: net liquidation value by currency, in the base currency.
    """
    return _currency_margin(worth, 0), _currency_margin(worth, 1)


def _currency_margin(worth: Mapping[str, Decimal], kind: int) -> Decimal:
    rates = {currency: CURRENCY_RATES[currency][kind] for currency in worth}
    left = {currency: amount for currency, amount in worth.items() if amount > 0}
    margin = ZERO
    for debt in sorted((name for name, amount in worth.items() if amount < 0), key=lambda name: (worth[name], name)):
        owed = -worth[debt]
        for cover in sorted(left, key=lambda name: (max(rates[debt], rates[name]), name)):
            used = min(owed, left[cover])
            margin += used * max(rates[debt], rates[cover])
            owed -= used
            left[cover] -= used
        margin += owed * rates[debt]
    return cents(margin)
