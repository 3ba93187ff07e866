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


class TimeInForce(StrEnum):
    """IBKR's times in force that this package sends."""

    DAY = "DAY"
    GTC = "GTC"
    IOC = "IOC"


@dataclass(frozen=True, kw_only=True)
class OrderTicket:
    """The order as it is to be sent. Prices in the instrument's currency, quantity in units of the instrument."""

    side: Side
    quantity: Decimal
    order_type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    tif: TimeInForce = TimeInForce.DAY
    outside_rth: bool = False

    def __post_init__(self) -> None:
        if not (self.quantity.is_finite() and self.quantity > 0):
            raise ValueError(f"quantity {self.quantity} is not positive")
        needs_limit = self.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)
        needs_stop = self.order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
        if (self.limit_price is not None) != needs_limit or (self.stop_price is not None) != needs_stop:
            raise ValueError(f"{self.order_type}: limit {self.limit_price} and stop {self.stop_price} do not fit")
        for price in (self.limit_price, self.stop_price):
            if price is not None and not (price.is_finite() and price > 0):
                raise ValueError(f"price {price} is not positive")


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
