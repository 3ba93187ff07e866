"""How large an order is and where its limit stands. Pure; every rounding goes the careful way.

A quantity is rounded down to the instrument's size increment. A limit price is rounded to the tick so that it never
gives away more than was configured: down for a BUY, up for a SELL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_UP, Context, Decimal, localcontext
from enum import StrEnum
from typing import Any, NoReturn

from airflow_ibkr_plugin.errors import ConfigError, NoMarketData
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec, SecType
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot


class SizingBy(StrEnum):
    """What the size of an order is measured by."""

    QUANTITY = "quantity"
    NOTIONAL = "notional"
    SHARE_OF_NET_LIQUIDATION = "share_of_net_liquidation"
    RISK_PER_TRADE = "risk_per_trade"


#: What is a fraction of the account's net liquidation value.
_SHARES = (SizingBy.SHARE_OF_NET_LIQUIDATION, SizingBy.RISK_PER_TRADE)

#: JSON Schema (2020-12) of `sizing:` in a workflow.
SIZING_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Exactly one of the properties.",
    "properties": {
        "quantity": {"type": "number", "exclusiveMinimum": 0, "description": "Units of the instrument."},
        "notional": {"type": "number", "exclusiveMinimum": 0, "description": "Value, in the account's base currency."},
        "share_of_net_liquidation": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "description": "Value, as a fraction of the account's net liquidation value.",
        },
        "risk_per_trade": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "description": "What may be lost between entry and stop, as a fraction of the account's net liquidation"
            " value. Needs a `bracket`.",
        },
    },
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}


@contextmanager
def careful_arithmetic() -> Iterator[None]:
    """Decimal arithmetic that never raises and rounds away from zero at 60 digits.

    What cannot be computed becomes NaN or infinity, and a comparison with NaN is False: callers write each condition
    so that False refuses.
    """
    with localcontext(Context(prec=60, rounding=ROUND_UP, traps=[])):
        yield


def usable_price(price: Decimal | None) -> bool:
    """Whether it is a finite price above zero."""
    return price is not None and price.is_finite() and price > 0


def unit_value(instrument: InstrumentSpec, price: Decimal, account: AccountSnapshot, now: datetime) -> Decimal | None:
    """Value of one unit of the instrument in the account's base currency; None where its rate is missing or too old.

    A unit of forex is one of its own currency (a dollar of USD.JPY), whatever it costs in the other one.

    :param now: broker's clock, which the age of the rate is measured by.
    """
    if instrument.currency == account.currency:
        return price
    if instrument.sec_type is SecType.FOREX and (own := account.rate(instrument.symbol, now)) is not None:
        return own
    rate = account.rate(instrument.currency, now)
    with careful_arithmetic():
        return None if rate is None else price * rate


def whole_increments(value: Decimal, per_unit: Decimal, increment: Decimal) -> Decimal:
    """The largest multiple of the size increment whose value does not pass `value`; 0 where none does."""
    with careful_arithmetic():
        count = value // (per_unit * increment)
        quantity = count * increment
        return quantity if quantity.is_finite() and quantity > 0 else Decimal(0)


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The size of an order as a workflow states it. `value` is units, base currency, or a fraction, by `by`."""

    by: SizingBy
    value: Decimal

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Sizing:
        """Read `{quantity: 10}`, `{notional: 5000}`, `{share_of_net_liquidation: 0.02}` or `{risk_per_trade: 0.01}`.

        :raises ConfigError: it is none of them.
        """
        try:
            ((name, given),) = value.items()
            number = Decimal(str(given))
            sizing = cls(by=SizingBy(name), value=number)
            good = not isinstance(given, bool) and number.is_finite() and number > 0
            if not good or (sizing.by in _SHARES and number > 1):
                raise ValueError(name)
        except (ValueError, ArithmeticError, AttributeError) as error:
            raise ConfigError(
                f"sizing {value!r} cannot be used.",
                remedy="Write one of quantity: 10, notional: 5000, share_of_net_liquidation: 0.02 (at most 1),"
                " risk_per_trade: 0.01 (at most 1).",
            ) from error
        return sizing

    def quantity(
        self,
        instrument: Instrument,
        *,
        price: Decimal | None,
        account: AccountSnapshot,
        stop_distance: Decimal | None = None,
    ) -> Decimal:
        """Units to order, rounded down to the size increment.

        :param price: what one unit is taken to cost, in the instrument's currency.
        :param stop_distance: what one unit loses between entry and stop, in the instrument's currency; for
            `risk_per_trade`.
        :raises ConfigError: less than the smallest size is left, or the broker tells no rate of the currency, or there
            is no stop distance above zero where one is needed.
        :raises NoMarketData: there is no usable price, or the exchange rate is too old.
        """
        increment = instrument.size_increment
        if self.by is SizingBy.QUANTITY:
            rounded = whole_increments(self.value, Decimal(1), increment)
        else:
            unit = (
                self._loss(instrument, stop_distance, account)
                if self.by is SizingBy.RISK_PER_TRADE
                else self._unit(instrument, price, account)
            )
            rounded = whole_increments(self._target(account.net_liquidation), unit, increment)
        if rounded < instrument.min_size or rounded <= 0:
            raise ConfigError(
                f"{instrument.name}: sizing {self.by} {self.value} comes to {rounded} units;"
                f" the smallest order is {instrument.min_size}.",
                remedy="Raise the sizing of the workflow, or take the symbol out.",
            )
        return rounded

    def _target(self, net_liquidation: Decimal) -> Decimal:
        # Rounded down: what is made larger here is spent.
        with localcontext(Context(prec=60, rounding=ROUND_FLOOR, traps=[])):
            return self.value * net_liquidation if self.by in _SHARES else self.value

    def _unit(self, instrument: Instrument, price: Decimal | None, account: AccountSnapshot) -> Decimal:
        if price is None or not usable_price(price):
            raise NoMarketData(
                f"{instrument.name}: sizing by {self.by} needs a price, and there is {price}.",
                remedy="Check the market data subscription, or size by quantity.",
            )
        value = unit_value(instrument, price, account, account.at)
        return value if value is not None else self._no_rate(instrument, account)

    def _loss(self, instrument: Instrument, stop_distance: Decimal | None, account: AccountSnapshot) -> Decimal:
        if stop_distance is None or not usable_price(stop_distance):
            raise ConfigError(
                f"{instrument.name}: sizing by {self.by} needs a distance above zero between entry and stop, and it is"
                f" {stop_distance}.",
                remedy="Give the order a `bracket` with a stop that is further away from its entry.",
            )
        # A distance is money of the instrument's currency, whatever a unit is worth.
        rate = account.rate(instrument.currency, account.at)
        if rate is None:
            return self._no_rate(instrument, account)
        with careful_arithmetic():
            return stop_distance * rate

    def _no_rate(self, instrument: Instrument, account: AccountSnapshot) -> NoReturn:
        needed = (
            f"{instrument.name}: sizing by {self.by} needs the rate from {instrument.currency} to {account.currency}"
        )
        if account.rates.keys() & {instrument.currency, instrument.symbol}:
            raise NoMarketData(f"{needed}, and it is too old.", remedy="Try again in a new session.")
        raise ConfigError(
            f"{needed}, and the broker tells none.",
            remedy=f"Size by quantity, or have some {instrument.currency} in the account: IBKR tells the rates of the"
            " currencies that it holds.",
        )


def round_to_tick(price: Decimal, min_tick: Decimal, *, up: bool) -> Decimal:
    """The nearest multiple of the tick that is not below (`up`) or not above (not `up`) the price."""
    with localcontext(Context(prec=60)):
        steps = (price / min_tick).to_integral_value(rounding=ROUND_CEILING if up else ROUND_FLOOR)
        return steps * min_tick


def limit_price(instrument: Instrument, side: Side, reference: Decimal, offset: Decimal) -> Decimal:
    """A limit `offset` away from the reference, on the far side of it: above for a BUY, below for a SELL.

    :param offset: fraction of the reference; negative stands on the near side and waits for a better price.
    :raises ConfigError: no tick above zero is left.
    """
    with localcontext(Context(prec=60)):
        raw = reference * (1 + side.sign * offset)
    price = round_to_tick(raw, instrument.min_tick, up=side is Side.SELL)
    if price <= 0:
        raise ConfigError(
            f"{instrument.name}: a limit {offset} away from {reference} is {price}.",
            remedy="Make limit_offset smaller.",
        )
    return price


def stop_price(instrument: Instrument, side: Side, reference: Decimal, offset: Decimal) -> Decimal:
    """A stop `offset` away from the reference, above for a BUY, below for a SELL, rounded to trigger no earlier.

    :param offset: fraction of the reference, > 0.
    :raises ConfigError: no tick above zero is left.
    """
    with localcontext(Context(prec=60)):
        raw = reference * (1 + side.sign * offset)
    price = round_to_tick(raw, instrument.min_tick, up=side is Side.BUY)
    if price <= 0:
        raise ConfigError(
            f"{instrument.name}: a stop {offset} away from {reference} is {price}.",
            remedy="Make stop_offset smaller.",
        )
    return price


def trail_step(instrument: Instrument, amount: Decimal) -> Decimal:
    """The distance of a trailing stop, rounded down to the tick, so that it is never wider than configured.

    :raises ConfigError: it is less than a tick.
    """
    step = round_to_tick(amount, instrument.min_tick, up=False)
    if step <= 0:
        raise ConfigError(
            f"{instrument.name}: a trail of {amount} is less than a tick of {instrument.min_tick}.",
            remedy="Give a wider trail.",
        )
    return step
