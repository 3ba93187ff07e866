"""Cash and positions of an account: the sum of its executions and splits, exact to the cent in every currency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_DOWN, Decimal

from airflow_ibkr_plugin.simulator.account.money import ZERO, cents
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.orders.book import Execution

# No price has more decimals; an average price that was divided may be off behind them.
_PRICE_UNIT = Decimal("0.000001")


@dataclass
class Traded:
    """What was traded of one contract on one of the broker's days, in the instrument's currency.

    :param signed: shares bought less shares sold. :param paid: for them, without commissions.
    :param realized: profit of what was closed. :param fees: commissions, in the currency of `fee_currency`.
    """

    day: date
    signed: Decimal = ZERO
    paid: Decimal = ZERO
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    fee_currency: str = ""
    closed: bool = False


@dataclass
class Position:
    """What is held of one contract, in the instrument's currency.

    :param quantity: negative when short. :param cost: what it cost, negative when short; for stocks with the
        commissions of opening, as IBKR's average cost has them. :param realized: profit since the account was opened;
        for stocks after all commissions.
    """

    quantity: Decimal = ZERO
    cost: Decimal = ZERO
    realized: Decimal = ZERO
    last_traded: Traded = field(default_factory=lambda: Traded(date.min))

    @property
    def average_cost(self) -> Decimal:
        """Per share; 0 when flat."""
        return abs(self.cost / self.quantity) if self.quantity else ZERO

    def traded(self, day: date) -> Traded:
        """What was traded on that day, which is the last one or later."""
        return self.last_traded if self.last_traded.day == day else Traded(day)


class Portfolio:
    """Cash by currency and positions by conId.

    :ivar forex_commissions: by currency; no position's cost or profit has them.
    """

    def __init__(self, cash: Mapping[str, Decimal]) -> None:
        self.cash: dict[str, Decimal] = defaultdict(lambda: ZERO, cash)
        self.positions: dict[int, Position] = {}
        self.forex_commissions: dict[str, Decimal] = defaultdict(lambda: ZERO)
        self._day = date.min
        self._day_cash: dict[str, Decimal] = defaultdict(lambda: ZERO)

    def day_cash(self, day: date) -> Mapping[str, Decimal]:
        """By how much trading has changed cash on that day, which is the last one traded on or later."""
        return self._day_cash if self._day == day else {}

    def apply(self, execution: Execution, instrument: Instrument) -> Decimal | None:
        """Book a fill. Its `cumulative` and `avg_price` are those of its order after it.

        :return: the profit it realized, None if it closed nothing.
        """
        position = self.positions.setdefault(execution.con_id, Position())
        traded = position.last_traded = position.traded(execution.day)
        signed = execution.signed
        paid = paid_for(execution) if signed > 0 else -paid_for(execution)
        self._pay(execution.day, instrument.currency, -paid)
        self._pay(execution.day, execution.commission_currency, -execution.commission)
        if instrument.is_forex:
            self._pay(execution.day, instrument.symbol, signed)
            self.forex_commissions[execution.commission_currency] += execution.commission
        traded.signed += signed
        traded.paid += paid
        traded.fees += execution.commission
        traded.fee_currency = execution.commission_currency
        profit = _move(position, signed, paid, ZERO if instrument.is_forex else execution.commission)
        if profit is not None:
            traded.realized += profit
            traded.closed = True
        return profit

    def split(self, con_id: int, ratio: Decimal, price: Decimal, day: date, currency: str) -> None:
        """Split a position into `ratio` times as many shares for the same cost; fractions are paid out in cash.

        :param price: of a share after the split. :param day: the broker's day. :param currency: the instrument's.
        """
        position = self.positions.get(con_id)
        if position is None:
            return
        traded = position.last_traded = position.traded(day)
        traded.signed *= ratio
        position.quantity *= ratio
        fraction = position.quantity - position.quantity.to_integral_value(ROUND_DOWN)
        if not fraction:
            return
        paid = -cents(fraction * price)
        self._pay(day, currency, -paid)
        traded.signed -= fraction
        traded.paid += paid
        traded.realized += _move(position, -fraction, paid, ZERO) or ZERO
        traded.closed = True

    def _pay(self, day: date, currency: str, amount: Decimal) -> None:
        if self._day != day:
            self._day = day
            self._day_cash.clear()
        self.cash[currency] += amount
        self._day_cash[currency] += amount


def paid_for(execution: Execution) -> Decimal:
    """What a fill is worth: such that an order's fills are worth the same, to the cent, however it is filled."""
    after = (execution.cumulative * execution.avg_price).quantize(_PRICE_UNIT)
    return cents(after) - cents(after - execution.shares * execution.price)


def _move(position: Position, signed: Decimal, paid: Decimal, fee: Decimal) -> Decimal | None:
    """Book shares at average cost.

    :param paid: for them, negative for a sale. :return: the profit realized, None if nothing was closed.
    """
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
