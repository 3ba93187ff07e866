"""Cash and positions: the sum of all executions. All amounts are exact to the cent."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.orders.book import Execution

CENT = Decimal("0.01")
ZERO = Decimal(0)

# IBKR Pro, fixed: USD (CAD) 0.005 (0.008) a share, 1.00 at least; forex 0.2 basis points of the value, USD 2.00 at
# least. The cap of 1 % of the value is left out. Source: IBKR, "Commissions".
_PER_SHARE = {"USD": Decimal("0.005"), "CAD": Decimal("0.008")}
_STOCK_MINIMUM = Decimal("1.00")
_FOREX_RATE = Decimal("0.00002")
_FOREX_MINIMUM = Decimal("2.00")


def cents(amount: Decimal) -> Decimal:
    """Rounded to the cent, half to even."""
    return amount.quantize(CENT, ROUND_HALF_EVEN)


def commission(instrument: Instrument, shares: Decimal, price: Decimal, quote_rate: Decimal) -> tuple[Decimal, str]:
    """Commission of a fill and its currency.

    :param quote_rate: USD for one unit of the instrument's currency.
    """
    if instrument.is_forex:
        return max(cents(shares * price * quote_rate * _FOREX_RATE), _FOREX_MINIMUM), "USD"
    per_share = _PER_SHARE.get(instrument.currency, _PER_SHARE["USD"])
    return max(cents(shares * per_share), _STOCK_MINIMUM), instrument.currency


@dataclass
class Position:
    """What is held of one contract.

    :param quantity: negative when short. :param cost: what it cost in the instrument's currency, negative when short;
        for stocks with the commissions of opening, as IBKR's average cost has them.
    :param realized: profit so far, in the instrument's currency; for stocks after all commissions.
    """

    quantity: Decimal = ZERO
    cost: Decimal = ZERO
    realized: Decimal = ZERO

    @property
    def average_cost(self) -> Decimal:
        """Per share; 0 when flat."""
        return abs(self.cost / self.quantity) if self.quantity else ZERO


class Portfolio:
    """Cash by currency and positions by conId."""

    def __init__(self, cash: Decimal) -> None:
        self.cash: dict[str, Decimal] = defaultdict(lambda: ZERO, {"USD": cash})
        self.positions: dict[int, Position] = {}
        self.forex_commissions = ZERO

    def apply(self, execution: Execution, instrument: Instrument) -> Decimal | None:
        """Book a fill.

        :return: the profit it realized, None if it closed nothing.
        """
        signed, value = execution.signed, cents(execution.shares * execution.price)
        paid = value if signed > 0 else -value
        self.cash[instrument.currency] -= paid
        self.cash[execution.commission_currency] -= execution.commission
        if instrument.is_forex:
            self.cash[instrument.symbol] += signed
            self.forex_commissions += execution.commission
            return self._move(execution.con_id, signed, paid, ZERO)
        return self._move(execution.con_id, signed, paid, execution.commission)

    def _move(self, con_id: int, signed: Decimal, paid: Decimal, fee: Decimal) -> Decimal | None:
        position = self.positions.setdefault(con_id, Position())
        held = position.quantity
        if held * signed >= 0:
            position.quantity += signed
            position.cost += paid + fee
            return None
        closing = min(abs(signed), abs(held))
        part = closing / abs(signed)
        # What turns a position around closes all of it and opens the rest; each share bears its part of the fee.
        closing_paid, closing_fee = cents(paid * part), cents(fee * part)
        released = position.cost if closing == abs(held) else cents(position.cost * closing / abs(held))
        profit = -closing_paid - released - closing_fee
        position.realized += profit
        position.quantity += signed
        position.cost += -released + (paid - closing_paid) + (fee - closing_fee)
        return profit
