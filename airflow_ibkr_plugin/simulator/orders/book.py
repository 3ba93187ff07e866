"""Orders and executions as the gateway keeps them, and the book that finds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

PRE_SUBMITTED = "PreSubmitted"
SUBMITTED = "Submitted"
FILLED = "Filled"
CANCELLED = "Cancelled"
INACTIVE = "Inactive"

WORKING = frozenset({PRE_SUBMITTED, SUBMITTED})

MARKET_ORDER = "MKT"
LIMIT_ORDER = "LMT"
STOP_ORDER = "STP"
STOP_LIMIT_ORDER = "STP LMT"


@dataclass
class Order:
    """One order. Prices and quantities are Decimal, times epoch seconds.

    :param fields: what of the client's message is only handed back (orderRef, ocaGroup, ...), by tws name.
    :param checked: the market was looked at up to and with this second.
    :param expires: a DAY order ends at this second.
    """

    perm_id: int
    client_id: int
    order_id: int
    con_id: int
    action: str
    quantity: Decimal
    order_type: str
    limit_price: Decimal | None
    stop_price: Decimal | None
    tif: str
    outside_hours: bool
    fields: dict[str, Any]
    placed: float
    checked: int
    expires: int | None = None
    status: str = PRE_SUBMITTED
    triggered: bool = False
    filled: Decimal = Decimal(0)
    avg_price: Decimal = Decimal(0)
    last_price: Decimal = Decimal(0)
    ended: float | None = None
    end_reason: str = ""

    @property
    def working(self) -> bool:
        """Whether it may still fill."""
        return self.status in WORKING

    @property
    def remaining(self) -> Decimal:
        """Quantity not filled."""
        return self.quantity - self.filled

    @property
    def is_buy(self) -> bool:
        """Whether it buys."""
        return self.action == "BUY"

    @property
    def order_ref(self) -> str:
        """The client's own mark."""
        return str(self.fields.get("orderRef", ""))


@dataclass(frozen=True)
class Execution:
    """One fill.

    :param time: epoch seconds. :param commission: in `commission_currency`.
    :param realized: profit of what it closed, after commission, in the instrument's currency; None: it closed nothing.
    """

    exec_id: str
    perm_id: int
    client_id: int
    order_id: int
    con_id: int
    side: str
    shares: Decimal
    price: Decimal
    time: int
    order_ref: str
    cumulative: Decimal
    avg_price: Decimal
    commission: Decimal
    commission_currency: str
    realized: Decimal | None = None
    exchange: str = ""
    day: date = field(default=date.min)

    @property
    def signed(self) -> Decimal:
        """Shares, negative for a sale."""
        return self.shares if self.side == "BOT" else -self.shares


class Book:
    """All orders and executions; the costs of a look-up do not grow with the number of past ones."""

    def __init__(self) -> None:
        self._by_id: dict[tuple[int, int], Order] = {}
        self._working: dict[int, Order] = {}
        self._ended: dict[date, list[Order]] = defaultdict(list)
        self._executions: dict[date, list[Execution]] = defaultdict(list)
        self._last_id: dict[int, int] = defaultdict(int)
        self.last_perm_id = 0
        self.execution_count = 0
        self.last_time = 0.0

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, order: Order, broker_day: date | None = None) -> None:
        """Keep an order; `broker_day` is that of its end if it has ended."""
        self._by_id[order.client_id, order.order_id] = order
        self._last_id[order.client_id] = max(self._last_id[order.client_id], order.order_id)
        self.last_perm_id = max(self.last_perm_id, order.perm_id)
        self.last_time = max(self.last_time, order.placed, order.ended or 0.0)
        if order.working:
            self._working[order.perm_id] = order
        elif broker_day is not None:
            self._ended[broker_day].append(order)

    def end(self, order: Order, broker_day: date) -> None:
        """Note that a working order has ended; its status says how."""
        self._working.pop(order.perm_id, None)
        self._ended[broker_day].append(order)
        self.last_time = max(self.last_time, order.ended or 0.0)

    def add_execution(self, execution: Execution) -> None:
        """Keep a fill."""
        self._executions[execution.day].append(execution)
        self.execution_count += 1
        self.last_time = max(self.last_time, float(execution.time))

    def get(self, client_id: int, order_id: int) -> Order | None:
        """The client's order with that id."""
        return self._by_id.get((client_id, order_id))

    def next_id(self, client_id: int) -> int:
        """The lowest order id that the client may use."""
        return self._last_id[client_id] + 1

    def working(self) -> list[Order]:
        """Orders that may fill, oldest first."""
        return list(self._working.values())

    def ended(self, broker_day: date) -> list[Order]:
        """Orders that ended on that day."""
        return list(self._ended.get(broker_day, ()))

    def executions(self, broker_day: date) -> list[Execution]:
        """Fills of that day."""
        return list(self._executions.get(broker_day, ()))

    def all_orders(self) -> Iterator[Order]:
        """Every order there ever was."""
        yield from self._by_id.values()

    def all_executions(self) -> Iterator[Execution]:
        """Every fill there ever was, oldest day first."""
        for day in sorted(self._executions):
            yield from self._executions[day]
