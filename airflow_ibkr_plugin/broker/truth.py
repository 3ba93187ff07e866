"""What the broker said about an order when it was asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution

# IBKR's order statuses that end an order. `Inactive` is none of them: an inactive order may become active again.
# Source: TWS API, "Order Status Message", possible order states.
TERMINAL_STATUSES = frozenset({"Filled", "Cancelled", "ApiCancelled"})
#: Statuses under which nothing (more) of an order can fill for now.
DEAD_STATUSES = frozenset({"Cancelled", "ApiCancelled", "Inactive"})


def belongs_to(item: BrokerOrder | Execution, order: BrokerOrder) -> bool:
    """Whether a report is of that order: by permId, or by its ids where the permId has changed, or the orderRef is
    missing, on the way."""
    if item.perm_id == order.perm_id:
        return True
    same_ids = (item.client_id, item.order_id) == (order.client_id, order.order_id)
    return same_ids and order.order_id != 0 and item.order_ref in ("", order.order_ref)


@dataclass(frozen=True, kw_only=True)
class BrokerTruth:
    """The broker's answer about one orderRef or one permId. Empty orders and executions: it does not know it.

    :param orders: at most one per permId; more than one means that the orderRef was sent more than once.
    :param executions: of the broker's current day only, that is all that IBKR returns.
    :param asked_at: when the last of the answers had come, by this machine's clock, aware UTC.
    """

    orders: tuple[BrokerOrder, ...]
    executions: tuple[Execution, ...]
    asked_at: datetime

    @property
    def known(self) -> bool:
        """Whether the broker knows anything about it."""
        return bool(self.orders or self.executions)

    @property
    def filled(self) -> Decimal:
        """Quantity of all executions."""
        return sum((execution.quantity for execution in self.executions), Decimal(0))

    @property
    def ended(self) -> bool:
        """Whether the order (the last one, of several) has ended."""
        if not self.orders:
            return False
        last = self.orders[-1]
        # Inactive is the end only where the broker said why; else the order waits for something.
        return last.status in TERMINAL_STATUSES or (last.status == "Inactive" and bool(last.reason))

    @property
    def complete(self) -> bool:
        """Whether it has ended, and all its executions are there with their commissions."""
        if not self.ended:
            return False
        last = self.orders[-1]
        expected = last.quantity if last.status == "Filled" else last.filled
        return self.filled >= expected and all(fill.commission is not None for fill in self.executions)
