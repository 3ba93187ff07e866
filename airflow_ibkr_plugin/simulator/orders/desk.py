"""The trading desk: takes orders, changes and cancels them, fills them as time goes on, and tells who listens."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any, Protocol

from airflow_ibkr_plugin.simulator.account.commissions import order_commission
from airflow_ibkr_plugin.simulator.account.figures import figures
from airflow_ibkr_plugin.simulator.account.money import cents
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import EASTERN, current, eastern_day, next_open, sessions_from, tws_time
from airflow_ibkr_plugin.simulator.orders.book import (
    CANCELLED,
    FILLED,
    INACTIVE,
    LIMIT_ORDER,
    PRE_SUBMITTED,
    SUBMITTED,
    Execution,
    Order,
)
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, check_order, order_type
from airflow_ibkr_plugin.simulator.orders.matching import Match, match, trades_extended

# What of a client's message is only handed back in openOrder and completedOrder.
_ECHOED = ("orderRef", "openClose", "origin", "goodTillDate", "modelCode", "exchange", "displaySize", "triggerMethod")
_FIRST_PERM_ID = 1_000_000_000


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

    def books_changed(self, con_id: int) -> None:
        """A position and cash have changed."""


class Desk:
    """Orders of all clients."""

    def __init__(self, gateway: Gateway, audience: Audience) -> None:
        self._gateway = gateway
        self._audience = audience
        gateway.book.last_perm_id = max(gateway.book.last_perm_id, _FIRST_PERM_ID)

    def place(self, client_id: int, order_id: int, instrument: Instrument, fields: dict[str, Any]) -> Order:
        """Take a new order, or change the working one that has the id.

        :raises Refusal: it is not taken; the caller answers the client.
        """
        self.step()
        book = self._gateway.book
        known = book.get(client_id, order_id)
        if (known is None and order_id < book.next_id(client_id)) or (known is not None and not known.working):
            raise Refusal(103, "Duplicate order id")
        check_order(fields, instrument, self._gateway.account)
        order = self._order(client_id, order_id, instrument, fields)
        if known is not None:
            return self._modify(known, order, instrument)
        self._check_funds(order, instrument)
        book.last_perm_id = order.perm_id
        book.add(order)
        self._gateway.save_order(order)
        self._audience.order_changed(order)
        self._warn_if_closed(order, instrument)
        self._work(order, instrument)
        return order

    def reject(self, client_id: int, order_id: int, instrument: Instrument, fields: dict[str, Any], why: str) -> None:
        """Keep a refused order as Inactive, so that its id and orderRef are known."""
        order = self._order(client_id, order_id, instrument, fields)
        self._gateway.book.last_perm_id = order.perm_id
        order.status, order.ended, order.end_reason = INACTIVE, self._gateway.clock.time(), why
        self._gateway.book.add(order, self._gateway.today)
        self._gateway.save_order(order)

    def margin_change(self, instrument: Instrument, fields: dict[str, Any]) -> dict[str, Decimal]:
        """What-if: the order's margin fields of openOrder.

        :raises Refusal: the order would be refused.
        """
        check_order(fields, instrument, self._gateway.account)
        order = self._order(0, 0, instrument, fields)
        before, after = figures(self._gateway), self._figures_after(order)
        fee, _ = self._commission(instrument, order.quantity)
        answer: dict[str, Decimal] = {}
        for name, was, becomes in (
            ("initMargin", before.initial_margin, after.initial_margin),
            ("maintMargin", before.maintenance_margin, after.maintenance_margin),
            ("equityWithLoan", before.equity, after.equity - fee),
        ):
            answer |= {f"{name}Before": was, f"{name}Change": becomes - was, f"{name}After": becomes}
        return answer | {"commission": fee}

    def cancel(self, client_id: int, order_id: int) -> None:
        """Cancel the client's own order.

        :raises Refusal: it has no such order, or it has ended.
        """
        self.step()
        order = self._gateway.book.get(client_id, order_id)
        if order is None:
            raise Refusal(10147, f"OrderId {order_id} that needs to be cancelled is not found.")
        if not order.working:
            raise Refusal(
                10148, f"OrderId {order_id} that needs to be cancelled can not be cancelled, state: {order.status}."
            )
        self._end(order, self._gateway.clock.time(), "Cancelled by Trader")
        self._tell_cancelled(order)

    def cancel_all(self) -> None:
        """Global cancel: the orders of all clients."""
        self.step()
        for order in self._gateway.book.working():
            self._end(order, self._gateway.clock.time(), "Cancelled by Trader")
            self._tell_cancelled(order)

    def step(self) -> None:
        """Let all working orders meet the market up to the clock's second, in the order of their fills."""
        if not self._gateway.link.online:
            return
        until = int(self._gateway.clock.time())
        due: list[tuple[int, int, Order, Match]] = []
        for order in self._gateway.book.working():
            if order.checked < until:
                found = match(self._gateway.market, self._gateway.instrument(order.con_id), order, until)
                due.append((found.filled or until, order.perm_id, order, found))
        for _, _, order, found in sorted(due, key=lambda item: item[:2]):
            self._apply(order, found, until)

    # --- one order -----------------------------------------------------------------------------

    def _order(self, client_id: int, order_id: int, instrument: Instrument, fields: dict[str, Any]) -> Order:
        now = self._gateway.clock.time()
        return Order(
            perm_id=self._gateway.book.last_perm_id + 1,
            client_id=client_id,
            order_id=order_id,
            con_id=instrument.con_id,
            action=fields["action"],
            quantity=fields["quantity"] or Decimal(0),
            order_type=order_type(fields),
            limit_price=fields["lmtPrice"],
            stop_price=fields["auxPrice"],
            tif=fields["tif"] or "DAY",
            outside_hours=fields["outsideRth"],
            fields={name: fields[name] for name in _ECHOED if fields.get(name)},
            placed=now,
            checked=int(now) - 1,
        )

    def _work(self, order: Order, instrument: Instrument) -> None:
        """Set when it expires and meet the market for the first time."""
        now = self._gateway.clock.time()
        regular = not trades_extended(order)
        if order.tif == "DAY":
            ends = (session.bounds(regular)[1] for session in sessions_from(instrument.hours, now))
            order.expires = next((end for end in ends if end > now), None)
        found = match(self._gateway.market, instrument, order, int(now))
        if found.filled is None and order.tif == "IOC":
            self._end(order, now, "Cancelled: immediate or cancel, and not filled")
            self._tell_cancelled(order)
            return
        if order.order_type == LIMIT_ORDER and found.filled is None and current(instrument.hours, now, regular=regular):
            order.status = SUBMITTED
            self._audience.order_changed(order)
        self._apply(order, found, int(now))
        self._gateway.save_order(order)

    def _modify(self, known: Order, wanted: Order, instrument: Instrument) -> Order:
        if (known.con_id, known.action) != (wanted.con_id, wanted.action):
            raise Refusal(105, "Order being modified does not match original order.")
        if known.order_type != wanted.order_type:
            raise Refusal(329, "Order modify failed. Cannot change to the new order type.")
        if wanted.quantity < known.filled:
            raise Refusal(104, "Cannot modify a filled order.")
        known.quantity, known.tif, known.outside_hours = wanted.quantity, wanted.tif, wanted.outside_hours
        known.limit_price, known.stop_price, known.fields = wanted.limit_price, wanted.stop_price, wanted.fields
        known.checked, known.expires = wanted.checked, None
        self._audience.order_changed(known)
        self._work(known, instrument)
        return known

    def _apply(self, order: Order, found: Match, until: int) -> None:
        if found.triggered is not None:
            order.triggered = True
            order.status = SUBMITTED
            self._audience.order_changed(order)
        elif order.status == PRE_SUBMITTED and order.order_type == LIMIT_ORDER and found.filled is None:
            instrument = self._gateway.instrument(order.con_id)
            if current(instrument.hours, until, regular=not trades_extended(order)) is not None:
                order.status = SUBMITTED
                self._audience.order_changed(order)
        if found.filled is not None and found.price is not None:
            self._fill(order, found.filled, found.price)
        elif order.expires is not None and until >= order.expires:
            self._end(order, order.expires, "Cancelled by System: the day's session has ended")
            self._audience.order_changed(order)
        elif order.checked != until:
            # How far the market was looked at is not saved on each step: after a restart it is looked at again.
            order.checked = until
            if found.triggered is not None:
                self._gateway.save_order(order)

    def _fill(self, order: Order, second: int, price: Decimal) -> None:
        gateway = self._gateway
        instrument = gateway.instrument(order.con_id)
        shares = order.remaining
        fee, fee_currency = self._commission(instrument, shares, price)
        order.filled, order.avg_price, order.last_price = order.quantity, price, price
        execution = Execution(
            exec_id=f"0000e0d5.{order.perm_id:08x}.01.01",
            perm_id=order.perm_id,
            client_id=order.client_id,
            order_id=order.order_id,
            con_id=order.con_id,
            side="BOT" if order.is_buy else "SLD",
            shares=shares,
            price=price,
            time=second,
            order_ref=order.order_ref,
            cumulative=order.filled,
            avg_price=price,
            commission=fee,
            commission_currency=fee_currency,
            exchange=instrument.primary_exchange or instrument.exchange,
            day=eastern_day(second),
        )
        execution = replace(execution, realized=gateway.portfolio.apply(execution, instrument))
        gateway.book.add_execution(execution)
        gateway.save_execution(execution)
        self._end(order, second, "Filled Size: " + format(order.filled.normalize(), "f"), status=FILLED)
        self._audience.executed(execution)
        self._audience.order_changed(order)
        self._audience.order_changed(order, execution)
        self._audience.commissioned(execution)
        self._audience.books_changed(order.con_id)

    def _end(self, order: Order, moment: float, reason: str, *, status: str = CANCELLED) -> None:
        order.status, order.ended, order.end_reason = status, moment, reason
        self._gateway.book.end(order, eastern_day(moment))
        self._gateway.save_order(order)

    def _tell_cancelled(self, order: Order) -> None:
        self._audience.order_changed(order)
        self._audience.order_error(order.client_id, order.order_id, 202, "Order Canceled - reason:")

    # --- money and hours ----------------------------------------------------------------------

    def _commission(self, instrument: Instrument, shares: Decimal, price: Decimal | None = None) -> tuple[Decimal, str]:
        at = price if price is not None else self._gateway.last_price(instrument)
        return order_commission(self._gateway, instrument, shares, at)

    def _figures_after(self, order: Order) -> Any:
        signed = order.quantity if order.is_buy else -order.quantity
        return figures(self._gateway, {order.con_id: signed})

    def _check_funds(self, order: Order, instrument: Instrument) -> None:
        if next_open(instrument.hours, self._gateway.clock.time(), regular=True) is None:
            raise Refusal(
                201, "Order rejected - reason:No further trading session is known for this contract.", kept=True
            )
        before, after = figures(self._gateway), self._figures_after(order)
        fee, currency = self._commission(instrument, order.quantity)
        available = after.available - cents(fee * self._gateway.rate(currency))
        # What lowers the margin is always taken: a position must be closable.
        if available < 0 and after.initial_margin > before.initial_margin:
            raise Refusal(
                201,
                "Order rejected - reason:YOUR ORDER IS NOT ACCEPTED. IN ORDER TO OBTAIN THE DESIRED POSITION YOUR"
                f" EQUITY WITH LOAN VALUE [{after.equity} USD] MUST EXCEED THE INITIAL MARGIN"
                f" [{after.initial_margin} USD]",
                kept=True,
            )

    def _warn_if_closed(self, order: Order, instrument: Instrument) -> None:
        now = self._gateway.clock.time()
        regular = not trades_extended(order)
        opens = next_open(instrument.hours, now, regular=regular)
        if order.tif == "IOC" or opens is None or opens <= now:
            return
        self._audience.order_error(
            order.client_id,
            order.order_id,
            399,
            f"Order Message:\n{order.action} {order.quantity} {instrument.symbol} {instrument.primary_exchange}\n"
            f"Warning: Your order will not be placed at the exchange until {tws_time(opens, EASTERN, 'US/Eastern')}",
        )
