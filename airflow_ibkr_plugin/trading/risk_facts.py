"""What a rule may look at besides the order itself: the account's other orders. Frozen values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import Side


@dataclass(frozen=True, kw_only=True)
class OpenOrder:
    """An order that is reserved, or that may be at the broker.

    :param remaining: units that are not filled yet, >= 0.
    :param price: highest of its reference, limit and stop, in the instrument's currency; None if none is known.
    :param booked: it is a fill that was booked while the account was asked, and the position may lack it. Counted as
        if it were still to come, it is never missing.
    """

    strategy: str
    instrument: Instrument
    side: Side
    remaining: Decimal
    price: Decimal | None = None
    booked: bool = False

    @property
    def signed(self) -> Decimal:
        """What is left of it, negative for a SELL."""
        return self.side.sign * self.remaining


def open_quantity(
    orders: Iterable[OpenOrder], con_id: int, *, side: Side | None = None, strategy: str | None = None
) -> Decimal:
    """Signed quantity of an instrument that the orders would still trade; only those of a side, of a strategy."""
    return sum(
        (
            order.signed
            for order in orders
            if order.instrument.con_id == con_id and side in (None, order.side) and strategy in (None, order.strategy)
        ),
        Decimal(0),
    )


@dataclass(frozen=True, kw_only=True)
class Margin:
    """What the broker says that the order, and nothing else, would do to the account; in its base currency.

    :param initial_before, initial_after: initial margin, without and with the order.
    :param equity_after: equity with loan value with the order; less than `initial_after` is a margin call.
    :param refused: why the broker would not take the order; '' if it would.

    None where it does not say.
    """

    initial_before: Decimal | None = None
    initial_after: Decimal | None = None
    equity_after: Decimal | None = None
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Fill:
    """One fill of the strategy, and what it has realised.

    :param age: seconds, by the broker's clock.
    :param today: whether it is of the broker's day.
    :param profit: in `currency`, commissions taken off, as the broker says it with the commission; 0 for a fill that
        closed nothing, None while the broker has not said.
    """

    age: float
    today: bool
    profit: Decimal | None
    currency: str


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The highest net liquidation value of the account that was seen on one of the broker's days.

    :param day: New York's date.
    :param value: in `currency`.
    """

    day: date
    value: Decimal
    currency: str


@dataclass(frozen=True, kw_only=True)
class PastOrder:
    """An order that is reserved or was sent, whatever became of it.

    :param quantity: as it was asked for, before any rule made it smaller.
    :param age: seconds since it was first sent; 0 where that is yet to come.
    """

    strategy: str
    con_id: int
    side: Side
    quantity: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    age: float


@dataclass(frozen=True, kw_only=True)
class OrderHistory:
    """The account's latest orders, all strategies together.

    :param seconds: no order that is younger is missing.
    """

    orders: tuple[PastOrder, ...]
    seconds: float

    def since(self, seconds: float, *, strategy: str | None = None) -> list[PastOrder]:
        """Those that are at most so old; only a strategy's."""
        return [order for order in self.orders if order.age <= seconds and strategy in (None, order.strategy)]
