"""Order intents: what we decided to do, before and after it reaches the broker, and how they move on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


class Side(StrEnum):
    """IBKR's order actions."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for BUY, -1 for SELL."""
        return 1 if self is Side.BUY else -1


class OrderType(StrEnum):
    """IBKR's order types that this package sends."""

    MARKET = "MKT"
    LIMIT = "LMT"
    STOP = "STP"
    STOP_LIMIT = "STP LMT"
    TRAIL = "TRAIL"


class TimeInForce(StrEnum):
    """IBKR's times in force that this package sends."""

    DAY = "DAY"
    GTC = "GTC"
    IOC = "IOC"


#: Order types that wait for a stop price.
STOPS = frozenset({OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAIL})
#: Order types with a limit price.
LIMITED = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})


def unfit(order_type: OrderType, tif: TimeInForce, *, outside_rth: bool) -> str:
    """Why IBKR would not take an order type with this time in force and these hours; '' where it would.

    Source: TWS API, message code 111 (time in force and order type are incompatible); IBKR, "Extended hours trading":
    only limit prices trade outside regular hours.
    """
    if tif is TimeInForce.IOC and order_type in STOPS:
        return f"{order_type} waits for its stop price, and IOC does not wait"
    if outside_rth and order_type not in LIMITED:
        return f"{order_type} does not trade outside regular hours; LMT and STP LMT do"
    return ""


@dataclass(frozen=True, kw_only=True)
class OrderTicket:
    """The order as it is to be sent. Prices in the instrument's currency, quantity in units of the instrument.

    :param stop_price: of a TRAIL, where its stop begins.
    :param trail_amount, trail_percent: how far a TRAIL follows the market, one of the two: in the instrument's
        currency, or in percent of the price (0..100).
    """

    side: Side
    quantity: Decimal
    order_type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_amount: Decimal | None = None
    trail_percent: Decimal | None = None
    tif: TimeInForce = TimeInForce.DAY
    outside_rth: bool = False

    def __post_init__(self) -> None:
        if not (self.quantity.is_finite() and self.quantity > 0):
            raise ValueError(f"quantity {self.quantity} is not positive")
        needs_limit, needs_stop = self.order_type in LIMITED, self.order_type in STOPS
        if (self.limit_price is not None) != needs_limit or (self.stop_price is not None) != needs_stop:
            raise ValueError(f"{self.order_type}: limit {self.limit_price} and stop {self.stop_price} do not fit")
        trails = [trail for trail in (self.trail_amount, self.trail_percent) if trail is not None]
        if len(trails) != (self.order_type is OrderType.TRAIL):
            raise ValueError(f"{self.order_type}: trail {self.trail_amount} and {self.trail_percent} % do not fit")
        for price in (self.limit_price, self.stop_price, *trails):
            if price is not None and not (price.is_finite() and price > 0):
                raise ValueError(f"price {price} is not positive")
        if self.trail_percent is not None and self.trail_percent >= 100:
            raise ValueError(f"a trail of {self.trail_percent} % leaves no price above zero")
        if why := unfit(self.order_type, self.tif, outside_rth=self.outside_rth):
            raise ValueError(why)


@dataclass(frozen=True, kw_only=True)
class IntentKey:
    """What makes two intents the same one. The map index is no part of it: lists reorder.

    :param generation: 0, raised only by an authorised re-trade.
    """

    installation: str
    dag_id: str
    run_id: str
    task_id: str
    con_id: int
    leg: str = "entry"
    generation: int = 0

    @property
    def order_ref(self) -> str:
        """The orderRef that the broker keeps: `aip-` and 128 bits of SHA-256 over the key, hexadecimal."""
        parts = (
            self.installation,
            self.dag_id,
            self.run_id,
            self.task_id,
            self.con_id,
            self.leg,
            self.generation,
        )
        text = "\x1f".join(str(part) for part in parts)
        return "aip-" + hashlib.sha256(text.encode()).hexdigest()[:32]


class IntentState(StrEnum):
    """Where an order intent stands."""

    DECIDED = "decided"  # stored; no exposure counted, nothing sent
    DENIED = "denied"  # refused by risk; terminal
    RESERVED = "reserved"  # risk passed, exposure counted, nothing sent
    SENDING = "sending"  # about to be sent, or sent without an answer yet
    AMBIGUOUS = "ambiguous"  # the broker could not be asked, or its answer does not settle it
    WORKING = "working"  # acknowledged by the broker with a permId
    CANCELLING = "cancelling"  # a cancel was sent, not yet confirmed
    FILLED = "filled"  # terminal
    CANCELLED = "cancelled"  # confirmed by the broker, perhaps after partial fills; terminal
    REJECTED = "rejected"  # refused by the broker, confirmed; terminal
    ABANDONED = "abandoned"  # sent once, absent from the broker, and not to be sent again; terminal


_S = IntentState
TRANSITIONS: dict[IntentState, frozenset[IntentState]] = {
    _S.DECIDED: frozenset({_S.DENIED, _S.RESERVED}),
    _S.RESERVED: frozenset({_S.SENDING, _S.DENIED, _S.DECIDED}),
    _S.SENDING: frozenset({_S.WORKING, _S.FILLED, _S.CANCELLED, _S.REJECTED, _S.AMBIGUOUS, _S.SENDING}),
    _S.AMBIGUOUS: frozenset({_S.WORKING, _S.FILLED, _S.CANCELLED, _S.REJECTED, _S.SENDING, _S.ABANDONED}),
    _S.WORKING: frozenset({_S.FILLED, _S.CANCELLED, _S.REJECTED, _S.CANCELLING, _S.AMBIGUOUS}),
    _S.CANCELLING: frozenset({_S.FILLED, _S.CANCELLED, _S.REJECTED, _S.WORKING, _S.AMBIGUOUS}),
    _S.DENIED: frozenset(),
    _S.FILLED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.REJECTED: frozenset(),
    _S.ABANDONED: frozenset(),
}
TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
# States in which the broker may hold the order: whoever comes next must ask before it sends.
MAYBE_AT_BROKER = frozenset({_S.SENDING, _S.AMBIGUOUS, _S.WORKING, _S.CANCELLING})


def check_transition(current: IntentState, new: IntentState) -> None:
    """:raises ValueError: the table does not allow this move."""
    if new not in TRANSITIONS[current]:
        raise ValueError(f"an order intent cannot go from {current} to {new}")


class BracketState(StrEnum):
    """Where a bracket stands: an entry and the exits that protect it."""

    OPEN = "open"  # whatever the entry has filled, or may fill, must have a working stop
    CLOSED = "closed"  # nothing of it is held any more, or a command has taken the exit over


@dataclass(frozen=True, kw_only=True)
class BrokerOrder:
    """An order as the broker reports it.

    :param order_id: 0 where the broker does not tell it (completed orders).
    :param status: IBKR's order status, such as `Submitted`, `Filled`, `Cancelled`.
    :param average_price: per unit, None before the first fill.
    """

    order_ref: str
    account: str
    con_id: int
    side: Side
    quantity: Decimal
    order_type: str
    status: str
    filled: Decimal
    remaining: Decimal
    perm_id: int
    order_id: int = 0
    client_id: int = -1
    average_price: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    tif: str = "DAY"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One fill. Price per unit in the instrument's currency; commission and realised PnL in `commission_currency`.

    :param commission: None until the broker's commission report has come.
    :param time: of the fill, aware UTC.
    """

    exec_id: str
    order_ref: str
    account: str
    con_id: int
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    time: datetime
    perm_id: int
    order_id: int
    client_id: int
    exchange: str = ""
    commission: Decimal | None = None
    commission_currency: str = ""
    realized_pnl: Decimal | None = None
