"""Orders and executions as the gateway keeps them, and the book that finds them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, TypeVar

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
TRAIL_ORDER = "TRAIL"
TRAIL_LIMIT_ORDER = "TRAIL LIMIT"

TRAILING = (TRAIL_ORDER, TRAIL_LIMIT_ORDER)
#: Orders that wait for a stop price, and orders that fill at a limit or better.
STOPPED = (STOP_ORDER, STOP_LIMIT_ORDER, *TRAILING)
LIMITED = (LIMIT_ORDER, STOP_LIMIT_ORDER, TRAIL_LIMIT_ORDER)

#: How an OCA group takes a partial fill: its other orders are cancelled, or reduced (with and without block).
OCA_CANCEL, OCA_REDUCE_WITH_BLOCK, OCA_REDUCE = 1, 2, 3

#: Manual orders of TWS are those of client 0; until they are bound their order id is 0, then it is negative.
MANUAL_CLIENT = 0


@dataclass(slots=True, eq=False)
class Order:
    """One order. Prices and quantities are Decimal, times epoch seconds.

    :param fields: what of the client's message is only handed back (orderRef, ...), by tws name.
    :param checked: the market was looked at up to and with this second.
    :param expires: a DAY order ends at this second.
    :param stop_price: of a trailing order, the stop price as of `checked`.
    :param trail_amount, trail_percent: distance of a trailing stop: one of them.
    :param limit_offset: distance of a TRAIL LIMIT's limit price from its stop price.
    :param trail_extreme: the best price that a trailing order has seen, None before the first.
    :param parent_id, parent_perm_id: of the order it is attached to, 0 without one.
    :param held: it waits for its parent to fill.
    :param account: empty: the only one.
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
    trail_amount: Decimal | None = None
    trail_percent: Decimal | None = None
    limit_offset: Decimal | None = None
    trail_extreme: Decimal | None = None
    parent_id: int = 0
    parent_perm_id: int = 0
    held: bool = False
    oca_group: str = ""
    oca_type: int = OCA_REDUCE
    account: str = ""

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
    def is_manual(self) -> bool:
        """Whether it was entered in TWS, not by an API client."""
        return self.client_id == MANUAL_CLIENT and self.order_id <= 0

    @property
    def waits_for_stop(self) -> bool:
        """Whether its stop price has not been reached yet."""
        return self.order_type in STOPPED and not self.triggered

    @property
    def why_held(self) -> str:
        """IBKR's words for what it waits for: `child`, `trigger`, both, or nothing."""
        if not self.working:
            return ""
        return ",".join(word for word, so in (("child", self.held), ("trigger", self.waits_for_stop)) if so)

    @property
    def order_ref(self) -> str:
        """The client's own mark."""
        return str(self.fields.get("orderRef", ""))


@dataclass(frozen=True, slots=True)
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
    account: str = ""

    @property
    def signed(self) -> Decimal:
        """Shares, negative for a sale."""
        return self.shares if self.side == "BOT" else -self.shares


Key = TypeVar("Key", bound=Hashable)


class Book:
    """All orders and executions; the costs of a look-up do not grow with the number of past ones."""

    def __init__(self) -> None:
        self._orders: dict[int, Order] = {}
        self._by_client: dict[int, dict[int, Order]] = defaultdict(dict)
        self._working: dict[int, Order] = {}
        self._sides: Counter[tuple[str, int, str]] = Counter()
        # Working orders by their parent's permId, and by client and OCA group.
        self._children: dict[int, dict[int, Order]] = defaultdict(dict)
        self._groups: dict[tuple[int, str], dict[int, Order]] = defaultdict(dict)
        self._filled_groups: set[tuple[int, str]] = set()
        self._fills: dict[int, list[Execution]] = defaultdict(list)
        self._ended: dict[date, list[Order]] = defaultdict(list)
        self._executions: dict[date, list[Execution]] = defaultdict(list)
        self._last_id: dict[int, int] = defaultdict(int)
        self._last_bound_id = 0
        self.last_perm_id = 0
        self.execution_count = 0
        self.last_time = 0.0

    def __len__(self) -> int:
        return len(self._orders)

    # --- writing ---------------------------------------------------------------------------------

    def add(self, order: Order, broker_day: date | None = None) -> None:
        """Keep an order; `broker_day` is that of its end if it has ended."""
        self._orders[order.perm_id] = order
        self.reserve(order.client_id, order.order_id)
        if order.order_id:
            self._by_client[order.client_id][order.order_id] = order
            self._last_bound_id = min(self._last_bound_id, order.order_id)
        self.last_perm_id = max(self.last_perm_id, order.perm_id)
        self.last_time = max(self.last_time, order.placed, order.ended or 0.0)
        if order.working:
            self._working[order.perm_id] = order
            self._sides[order.account, order.con_id, order.action] += 1
            if order.parent_perm_id:
                self._children[order.parent_perm_id][order.perm_id] = order
            if order.oca_group:
                self._groups[order.client_id, order.oca_group][order.perm_id] = order
        elif broker_day is not None:
            self._note_end(order, broker_day)

    def reserve(self, client_id: int, order_id: int) -> None:
        """Note that the client has used the id."""
        self._last_id[client_id] = max(self._last_id[client_id], order_id)

    def bind(self, order: Order) -> None:
        """Give a manual order the next negative order id."""
        self._last_bound_id -= 1
        order.order_id = self._last_bound_id
        self._by_client[order.client_id][order.order_id] = order

    def end(self, order: Order, broker_day: date) -> None:
        """Note that a working order has ended; its status says how."""
        del self._working[order.perm_id]
        self._sides[order.account, order.con_id, order.action] -= 1
        self._fills.pop(order.perm_id, None)
        if order.parent_perm_id:
            _leave(self._children, order.parent_perm_id, order)
        if order.oca_group:
            _leave(self._groups, (order.client_id, order.oca_group), order)
        self._note_end(order, broker_day)

    def add_execution(self, execution: Execution) -> None:
        """Keep a fill."""
        self._executions[execution.day].append(execution)
        if execution.perm_id in self._working:
            self._fills[execution.perm_id].append(execution)
        self.execution_count += 1
        self.last_time = max(self.last_time, float(execution.time))

    def _note_end(self, order: Order, broker_day: date) -> None:
        self._ended[broker_day].append(order)
        self.last_time = max(self.last_time, order.ended or 0.0)
        if order.oca_group and order.status == FILLED and order.oca_group != str(order.parent_perm_id):
            self._filled_groups.add((order.client_id, order.oca_group))

    # --- reading ---------------------------------------------------------------------------------

    def get(self, client_id: int, order_id: int) -> Order | None:
        """The client's order with that id."""
        return self._by_client[client_id].get(order_id) if client_id in self._by_client else None

    def next_id(self, client_id: int) -> int:
        """The lowest order id that the client may use."""
        return self._last_id[client_id] + 1

    def working(self, client_id: int | None = None) -> list[Order]:
        """Orders that may fill, of all clients or of one, oldest first."""
        return [order for order in self._working.values() if client_id in (None, order.client_id)]

    def working_count(self, account: str, con_id: int, action: str) -> int:
        """How many orders of that side of a contract work in an account."""
        return self._sides[account, con_id, action]

    def children(self, parent: Order) -> list[Order]:
        """The working orders attached to an order, oldest first."""
        return list(self._children.get(parent.perm_id, {}).values())

    def group(self, order: Order) -> list[Order]:
        """The other working orders of an order's OCA group, oldest first."""
        members = self._groups.get((order.client_id, order.oca_group), {}) if order.oca_group else {}
        return [other for other in members.values() if other is not order]

    def group_is_filled(self, client_id: int, group: str) -> bool:
        """Whether an order of the client's OCA group has filled: its name cannot be used again."""
        return (client_id, group) in self._filled_groups

    def fills(self, order: Order) -> list[Execution]:
        """Fills of a working order, oldest first."""
        return list(self._fills.get(order.perm_id, ()))

    def ended(self, broker_day: date) -> list[Order]:
        """Orders that ended on that day."""
        return list(self._ended.get(broker_day, ()))

    def executions(self, broker_day: date) -> list[Execution]:
        """Fills of that day."""
        return list(self._executions.get(broker_day, ()))

    def all_orders(self) -> Iterator[Order]:
        """Every order there ever was."""
        yield from self._orders.values()


def _leave(index: dict[Key, dict[int, Order]], key: Key, order: Order) -> None:
    del index[key][order.perm_id]
    if not index[key]:
        del index[key]
