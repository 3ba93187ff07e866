"""What happens to one order once it is taken, what follows from it for the orders it is tied to, and who is told."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Protocol

from airflow_ibkr_plugin.simulator.account.commissions import order_commission
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import eastern_day
from airflow_ibkr_plugin.simulator.orders.book import (
    CANCELLED,
    FILLED,
    INACTIVE,
    OCA_CANCEL,
    SUBMITTED,
    Execution,
    Order,
)

CANCELLED_TEXT = "Order Canceled - reason:"


class Audience(Protocol):
    """Who is told what happens to orders; clients that are not there hear nothing."""

    def order_changed(self, order: Order, execution: Execution | None = None) -> None:
        """An order's status or terms; with the fill whose commission is now known."""

    def executed(self, execution: Execution) -> None:
        """A fill."""

    def commissioned(self, execution: Execution) -> None:
        """A fill's commission."""

    def order_error(self, client_id: int, order_id: int, code: int, message: str) -> None:
        """A message about an order."""

    def bound(self, order: Order) -> None:
        """A manual order has got an order id."""

    def books_changed(self, con_id: int) -> None:
        """A position and cash have changed."""


class Lifecycle:
    """Takes orders from their acceptance to their end.

    Brackets: children wait until their parent has filled. OCA: a fill cancels or reduces the others of its group, a
    cancel by the trader cancels them.
    """

    def __init__(self, gateway: Gateway, audience: Audience) -> None:
        self._gateway = gateway
        self._audience = audience
        self._woken: list[Order] = []

    def take_woken(self) -> list[Order]:
        """Children that have begun to work since the last call."""
        woken, self._woken = self._woken, []
        return woken

    # --- one order -------------------------------------------------------------------------------

    def accept(self, order: Order) -> None:
        """Enter an order in the book."""
        book = self._gateway.book
        book.last_perm_id = max(book.last_perm_id, order.perm_id)
        book.add(order)
        self.tell(order)

    def reject(self, order: Order, why: str) -> None:
        """Keep a refused order as Inactive, so that its id and orderRef are known."""
        order.status, order.ended, order.end_reason = INACTIVE, self._gateway.clock.time(), why
        self._gateway.book.add(order, self._gateway.today)
        self._gateway.save_order(order)

    def tell(self, order: Order) -> None:
        """Keep a change of an order and tell its owner."""
        self._gateway.save_order(order)
        self._audience.order_changed(order)

    def submit(self, order: Order) -> None:
        """It now works at the exchange."""
        order.status = SUBMITTED
        self.tell(order)

    def trigger(self, order: Order) -> None:
        """Its stop price was reached."""
        order.triggered = True
        self.submit(order)

    def cancel(self, order: Order, moment: float, reason: str = "Cancelled by Trader") -> None:
        """Cancel it, and what hangs on it: its group's other orders, and its children."""
        if not order.working:
            return
        self._end_cancelled(order, moment, reason)
        self._audience.order_error(order.client_id, order.order_id, 202, CANCELLED_TEXT)
        for other in self._gateway.book.group(order):
            self.cancel(other, moment, reason)

    def lapse(self, order: Order, moment: float, reason: str) -> None:
        """Its time is over; the others of its group go on."""
        self._end_cancelled(order, moment, reason)

    def fill(self, order: Order, second: int, price: Decimal, shares: Decimal) -> None:
        """Fill a part of it, or what remains."""
        gateway, before = self._gateway, order.remaining
        execution = self._execution(order, second, price, shares)
        portfolio, instrument = gateway.portfolio_of(order.account), gateway.instrument(order.con_id)
        execution = replace(execution, realized=portfolio.apply(execution, instrument))
        order.filled, order.avg_price, order.last_price = execution.cumulative, execution.avg_price, price
        order.checked = second
        gateway.book.add_execution(execution)
        gateway.save_execution(execution)
        if order.remaining:
            order.status = SUBMITTED
            gateway.save_order(order)
        else:
            self._end(order, second, FILLED, "Filled Size: " + format(order.filled.normalize(), "f"))
        self._audience.executed(execution)
        self._audience.order_changed(order)
        self._audience.order_changed(order, execution)
        self._audience.commissioned(execution)
        self._audience.books_changed(order.con_id)
        self._tell_group(order, second, before)
        if not order.remaining:
            self._wake_children(order, second)

    # --- orders tied to it -----------------------------------------------------------------------

    def _tell_group(self, order: Order, second: int, before: Decimal) -> None:
        """The others of an OCA group after a fill; `before` is what had remained of the order until then."""
        for other in self._gateway.book.group(order):
            remaining = other.remaining * order.remaining // before
            if order.oca_type == OCA_CANCEL or not remaining:
                self._end_cancelled(other, second, "Cancelled by System: its OCA group has filled")
                self._audience.order_error(other.client_id, other.order_id, 202, CANCELLED_TEXT)
            else:
                other.quantity = other.filled + remaining
                self.tell(other)

    def _wake_children(self, parent: Order, second: int) -> None:
        """Children meet the market from the second in which their parent has filled."""
        for child in self._gateway.book.children(parent):
            child.held, child.checked = False, second - 1
            if parent.status != FILLED:
                child.quantity = min(child.quantity, parent.filled)
            self._woken.append(child)
            self.tell(child)

    def _end_cancelled(self, order: Order, moment: float, reason: str) -> None:
        children = self._gateway.book.children(order)
        self._end(order, moment, CANCELLED, reason)
        self._audience.order_changed(order)
        if order.filled:
            self._wake_children(order, int(moment))
            return
        for child in children:
            self.cancel(child, moment, reason)

    def _end(self, order: Order, moment: float, status: str, reason: str) -> None:
        order.status, order.ended, order.end_reason = status, moment, reason
        self._gateway.book.end(order, eastern_day(moment))
        self._gateway.save_order(order)

    # --- executions ------------------------------------------------------------------------------

    def _execution(self, order: Order, second: int, price: Decimal, shares: Decimal) -> Execution:
        instrument = self._gateway.instrument(order.con_id)
        earlier = self._gateway.book.fills(order)
        value = sum((fill.price * fill.shares for fill in earlier), price * shares)
        cumulative = order.filled + shares
        average = value / cumulative if earlier else price
        day = eastern_day(second)
        fee, currency = self._commission(instrument, [fill for fill in earlier if fill.day == day], price, shares)
        return Execution(
            exec_id=f"0000e0d5.{order.perm_id:08x}.{len(earlier) + 1:02d}.01",
            perm_id=order.perm_id,
            client_id=order.client_id,
            order_id=order.order_id,
            con_id=order.con_id,
            side="BOT" if order.is_buy else "SLD",
            shares=shares,
            price=price,
            time=second,
            order_ref=order.order_ref,
            cumulative=cumulative,
            avg_price=average,
            commission=fee,
            commission_currency=currency,
            exchange=instrument.primary_exchange or instrument.exchange,
            day=day,
            account=order.account,
        )

    def _commission(
        self, instrument: Instrument, today: list[Execution], price: Decimal, shares: Decimal
    ) -> tuple[Decimal, str]:
        """Commission of a fill and its currency, after the order's earlier fills of the day.

        Source: IBKR, "Commissions": what is left of an order overnight counts as a new one for the minimum.
        """
        filled = sum((fill.shares for fill in today), shares)
        value = sum((fill.price * fill.shares for fill in today), price * shares)
        charged = sum((fill.commission for fill in today), Decimal(0))
        return order_commission(self._gateway, instrument, filled, value / filled, charged)
