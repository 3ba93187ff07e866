"""Brackets: an entry with its target and its stop, sent as one unit. Pure.

Exits are measured from the worst price at which the entry is meant to fill: its limit, its stop price, or the side of
the quote that it takes. A stop is rounded to the tick towards the entry, a target away from it: no more is lost, and no
less is gained, than was configured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal, localcontext
from typing import Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket, OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.sizing import limit_price, round_to_tick, trail_step, usable_price

ENTRY_LEG = "entry"
STOP_LEG = "stop"
TARGET_LEG = "target"
#: A market order that closes what no stop can be had for.
RESCUE_LEG = "rescue"
#: An order of a task that closes what its strategy holds.
CLOSE_LEG = "close"
#: So many stops in a row that were refused, or did not last: what they should protect is closed.
MAX_STOPS = 3

_OFFSET = {
    "type": "number",
    "exclusiveMinimum": 0,
    "exclusiveMaximum": 1,
    "description": "Distance from the entry, as a fraction of its price.",
}
_AMOUNT = {"type": "number", "exclusiveMinimum": 0, "description": "Distance in the instrument's currency."}
_ONE_DISTANCE = {"oneOf": [{"required": ["offset"]}, {"required": ["amount"]}]}

#: JSON Schema (2020-12) of `bracket:` of an order task.
BRACKET_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Exits that are sent with the order as one unit, good until cancelled.",
    "properties": {
        "stop": {
            "type": "object",
            "properties": {
                "offset": _OFFSET,
                "amount": _AMOUNT,
                "order_type": {
                    "enum": [str(OrderType.STOP), str(OrderType.STOP_LIMIT), str(OrderType.TRAIL)],
                    "default": "STP",
                    "description": "TRAIL follows the market at this distance.",
                },
                "limit_offset": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 0.5,
                    "description": "Of a STP LMT: its limit beyond its stop price, as a fraction.",
                },
            },
            "additionalProperties": False,
            **_ONE_DISTANCE,
        },
        "target": {
            "type": "object",
            "properties": {"offset": _OFFSET, "amount": _AMOUNT},
            "additionalProperties": False,
            **_ONE_DISTANCE,
        },
    },
    "required": ["stop"],
    "additionalProperties": False,
}


def is_exit(leg: str) -> bool:
    """Whether orders of this leg only bring a bracket's position closer to zero."""
    return leg.partition(".")[0] in (STOP_LEG, TARGET_LEG, RESCUE_LEG)


def is_stop(leg: str) -> bool:
    """Whether it is the leg of a bracket's stop, the first one or one that was sent in its place (`stop.2`)."""
    return leg.partition(".")[0] == STOP_LEG


@dataclass(frozen=True, kw_only=True)
class Exit:
    """One exit of a bracket."""

    leg: str
    ticket: OrderTicket


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far an exit stands from the entry, one of the two: a fraction of the price, or an amount of money."""

    offset: Decimal | None = None
    amount: Decimal | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.offset, self.amount) if value is not None]
        good = len(given) == 1 and usable_price(given[0]) and (self.offset is None or self.offset < 1)
        if not good:
            raise ConfigError(
                f"a distance of offset {self.offset} and amount {self.amount} cannot be used.",
                remedy="Give one of the two: offset as a fraction (0 to 1), or amount in money, above 0.",
            )

    def of(self, price: Decimal) -> Decimal:
        """In the instrument's currency, at this price."""
        with localcontext(Context(prec=60)):
            return self.amount if self.amount is not None else price * (self.offset or 0)


@dataclass(frozen=True, kw_only=True)
class BracketPlan:
    """The exits of an order as a workflow describes them.

    :param stop_type: STP, STP LMT (with `limit_offset`, from its stop price) or TRAIL (at its distance).
    """

    stop: Distance
    target: Distance | None = None
    stop_type: OrderType = OrderType.STOP
    limit_offset: Decimal | None = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> BracketPlan:
        """Read `{stop: {offset: 0.02}, target: {offset: 0.04}}`; see :data:`BRACKET_SCHEMA`.

        :raises ConfigError: it is no such thing.
        """
        try:
            given = {name: dict(part) for name, part in value.items()}
            stop, target = given.pop("stop"), given.pop("target", None)
            if given:
                raise ValueError(f"unknown: {', '.join(sorted(given))}")
            stop_type, limit = OrderType(stop.pop("order_type", OrderType.STOP)), stop.pop("limit_offset", None)
            return cls(
                stop=Distance(**_decimals(stop)),
                target=None if target is None else Distance(**_decimals(target)),
                stop_type=stop_type,
                limit_offset=None if limit is None else Decimal(str(limit)),
            )
        except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise ConfigError(
                f"bracket {value!r} cannot be used: {error}.",
                remedy="Write stop: {offset: 0.02} and, if wanted, target: {offset: 0.04}.",
            ) from error

    def __post_init__(self) -> None:
        if self.stop_type not in (OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAIL):
            raise ConfigError(f"{self.stop_type} is no stop.", remedy="Use STP, STP LMT or TRAIL.")
        limited = self.stop_type is OrderType.STOP_LIMIT
        offset = self.limit_offset
        if (offset is not None) != limited or (offset is not None and not (usable_price(offset) and offset < 1)):
            raise ConfigError(
                f"a {self.stop_type} stop with limit_offset {offset}.",
                remedy="Give a STP LMT a limit_offset as a fraction above 0, and other stops none.",
            )

    def stop_price(self, instrument: Instrument, side: Side, entry: Decimal) -> Decimal:
        """Where the stop of an entry of this side, at this price, stands or begins.

        :raises ConfigError: no tick is left between it and the entry, or above zero.
        """
        with localcontext(Context(prec=60)):
            raw = entry - side.sign * self.stop.of(entry)
        price = round_to_tick(raw, instrument.min_tick, up=side is Side.BUY)
        if not (price > 0 and (entry - price) * side.sign > 0):
            raise ConfigError(
                f"{instrument.name}: a stop {self.stop.of(entry)} away from {entry} is {price}.",
                remedy="Change the distance of the stop: it must be at least a tick, and leave a price above zero.",
            )
        return price

    def target_price(self, instrument: Instrument, side: Side, entry: Decimal, target: Distance) -> Decimal:
        """Where the target stands.

        :raises ConfigError: no tick above zero is left.
        """
        with localcontext(Context(prec=60)):
            raw = entry + side.sign * target.of(entry)
        price = round_to_tick(raw, instrument.min_tick, up=side is Side.BUY)
        if price <= 0:
            raise ConfigError(
                f"{instrument.name}: a target {target.of(entry)} away from {entry} is {price}.",
                remedy="Make the distance of the target smaller.",
            )
        return price

    def loss(self, instrument: Instrument, side: Side, entry: Decimal) -> Decimal:
        """What a unit loses from this entry to the stop; to its limit, where the stop has one. > 0.

        :raises ConfigError: see :meth:`stop_price`.
        """
        stop = self.stop_price(instrument, side, entry)
        out = self._stop_limit(instrument, side, stop)
        return (entry - (stop if out is None else out)) * side.sign

    def exits(
        self, instrument: Instrument, entry: OrderTicket, price: Decimal, near: Sequence[Decimal]
    ) -> tuple[Exit, ...]:
        """The exits of this entry: the stop last, so that what transmits the unit is the stop.

        :param price: at which the entry is meant to fill at worst. :param near: other prices at which it may.
        :raises ConfigError: an exit would not stand beyond all of them, on its side.
        """
        stop = self.stop_price(instrument, entry.side, price)
        exits = []
        if self.target is not None:
            target = self.target_price(instrument, entry.side, price, self.target)
            _check_beyond(instrument, TARGET_LEG, target, entry.side.sign, near)
            exits.append(Exit(leg=TARGET_LEG, ticket=_out(entry, OrderType.LIMIT, limit_price=target)))
        _check_beyond(instrument, STOP_LEG, stop, -entry.side.sign, near)
        amount, percent = None, None
        if self.stop_type is OrderType.TRAIL:
            amount = None if self.stop.amount is None else trail_step(instrument, self.stop.amount)
            percent = None if self.stop.offset is None else self.stop.offset * 100
        ticket = _out(
            entry,
            self.stop_type,
            stop_price=stop,
            limit_price=self._stop_limit(instrument, entry.side, stop),
            trail_amount=amount,
            trail_percent=percent,
        )
        return (*exits, Exit(leg=STOP_LEG, ticket=ticket))

    def _stop_limit(self, instrument: Instrument, side: Side, stop: Decimal) -> Decimal | None:
        if self.limit_offset is None:
            return None
        return limit_price(instrument, opposite(side), stop, self.limit_offset)


def split_stop(ticket: OrderTicket, instrument: Instrument, ratio: Decimal) -> OrderTicket:
    """A stop at the prices of new shares, rounded to the tick towards the entry.

    :param ratio: new shares for each old one.
    """

    def price(old: Decimal | None) -> Decimal | None:
        return None if old is None else round_to_tick(old / ratio, instrument.min_tick, up=ticket.side is Side.SELL)

    amount = None if ticket.trail_amount is None else trail_step(instrument, ticket.trail_amount / ratio)
    return replace(
        ticket, stop_price=price(ticket.stop_price), limit_price=price(ticket.limit_price), trail_amount=amount
    )


def trailed_stop(ticket: OrderTicket, instrument: Instrument, reached: Sequence[Decimal]) -> OrderTicket:
    """A stop to be sent anew; one that trails begins where those before it had come to, and not behind that.

    :param reached: stop prices that the broker has told of them.
    """
    if ticket.order_type is not OrderType.TRAIL or ticket.stop_price is None:
        return ticket
    sells = ticket.side is Side.SELL
    best = (max if sells else min)(ticket.stop_price, *reached) if reached else ticket.stop_price
    return replace(ticket, stop_price=round_to_tick(best, instrument.min_tick, up=sells))


def opposite(side: Side) -> Side:
    """The side of an exit."""
    return Side.SELL if side is Side.BUY else Side.BUY


def _out(entry: OrderTicket, order_type: OrderType, **prices: Decimal | None) -> OrderTicket:
    """Good until cancelled: a position that is held overnight is protected overnight."""
    return OrderTicket(
        side=opposite(entry.side),
        quantity=entry.quantity,
        order_type=order_type,
        tif=TimeInForce.GTC,
        limit_price=prices.get("limit_price"),
        stop_price=prices.get("stop_price"),
        trail_amount=prices.get("trail_amount"),
        trail_percent=prices.get("trail_percent"),
    )


def _check_beyond(instrument: Instrument, leg: str, price: Decimal, sign: int, near: Sequence[Decimal]) -> None:
    for other in near:
        if not (price - other) * sign > 0:
            raise ConfigError(
                f"{instrument.name}: the {leg} at {price} is not {'above' if sign > 0 else 'below'} {other}, where the"
                " entry may fill.",
                remedy=f"Put the {leg} of the bracket further away.",
            )


def _decimals(given: Mapping[str, Any]) -> dict[str, Decimal]:
    if any(isinstance(value, bool) for value in given.values()):
        raise ValueError("true and false are no distances")
    return {name: Decimal(str(value)) for name, value in given.items()}
