"""The trading desk: takes orders from clients, and changes and cancels them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import sessions_from
from airflow_ibkr_plugin.simulator.orders import families, modify, trailing
from airflow_ibkr_plugin.simulator.orders.book import MANUAL_CLIENT, TRAILING, Order
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, check_place_in_book, check_ticket, rejected
from airflow_ibkr_plugin.simulator.orders.floor import Floor
from airflow_ibkr_plugin.simulator.orders.lifecycle import Audience, Lifecycle
from airflow_ibkr_plugin.simulator.orders.matching import trades_extended
from airflow_ibkr_plugin.simulator.orders.ticket import PLAIN, Ticket
from airflow_ibkr_plugin.simulator.orders.whatif import check_funds, closed_warning, preview

_FIRST_PERM_ID = 1_000_000_000
_STOCK_IS_SPLIT = "Cancelled by System: the stock was split"
_PRESET_WARNING = "Order TIF was set to DAY based on order preset."


class Desk:
    """Orders of all clients."""

    def __init__(self, gateway: Gateway, audience: Audience) -> None:
        self._gateway = gateway
        self._audience = audience
        self._untransmitted = families.Untransmitted()
        self._lifecycle = Lifecycle(gateway, audience)
        self._floor = Floor(gateway, self._lifecycle)
        #: Whether manual orders get an order id of client 0 as soon as they are placed.
        self.auto_bind = False
        gateway.book.last_perm_id = max(gateway.book.last_perm_id, _FIRST_PERM_ID)

    # --- what clients ask for --------------------------------------------------------------------

    def place(self, client_id: int, order_id: int, instrument: Instrument, fields: dict[str, Any]) -> Order | None:
        """Take a new order, or change the working one that has the id.

        :return: None for one that is only kept, not transmitted.
        :raises Refusal: it is not taken; the caller answers the client. Others of its family are answered here.
        """
        self.step()
        ticket = Ticket(client_id, order_id, instrument, fields)
        self._check(ticket)
        if not ticket.transmit:
            self._untransmitted.keep(ticket)
            self._gateway.book.reserve(client_id, order_id)
            return None
        return self._transmit(ticket)

    def place_manual(self, instrument: Instrument, fields: dict[str, Any]) -> Order:
        """Take an order that somebody enters in TWS.

        :param fields: by tws name as in placeOrder: `action`, `quantity`, `orderType`; others are :data:`PLAIN`.
        :raises Refusal: it is not taken.
        """
        self.step()
        ticket = Ticket(MANUAL_CLIENT, 0, instrument, PLAIN | {"account": self._gateway.account} | fields)
        check_ticket(ticket, self._gateway.accounts)
        order = self._enter(ticket, None)
        self._floor.run([order])
        return order

    def bind(self, orders: Iterable[Order]) -> list[Order]:
        """Give manual orders an order id by which client 0 can change and cancel them; returns those that had none."""
        bound = [order for order in orders if order.is_manual and not order.order_id]
        for order in bound:
            self._gateway.book.bind(order)
            self._gateway.save_order(order)
        return bound

    def preview(
        self, client_id: int, order_id: int, instrument: Instrument, fields: dict[str, Any]
    ) -> tuple[Order, dict[str, Any]]:
        """What-if: the order, which is not placed, and the order state fields of its openOrder.

        :raises Refusal: the order would be refused.
        """
        self.step()
        ticket = Ticket(client_id, order_id, instrument, fields)
        check_ticket(ticket, self._gateway.accounts)
        order = self._order(ticket, 0)
        return order, preview(self._gateway, order)

    def cancel(self, client_id: int, order_id: int) -> list[Ticket]:
        """Cancel the client's own order.

        :return: what was only kept here: the caller tells the client.
        :raises Refusal: it has no such order, or it has ended.
        """
        self.step()
        order = self._gateway.book.get(client_id, order_id)
        if order is None:
            if gone := self._untransmitted.discard(client_id, order_id):
                return gone
            raise Refusal(10147, f"OrderId {order_id} that needs to be cancelled is not found.")
        if not order.working:
            raise Refusal(
                10148, f"OrderId {order_id} that needs to be cancelled can not be cancelled, state: {order.status}."
            )
        self._lifecycle.cancel(order, self._gateway.clock.time())
        self._floor.run([])
        return self._never_transmitted(self._untransmitted.discard(client_id, order_id))

    def cancel_all(self) -> list[Ticket]:
        """Global cancel: the orders of all clients, and those of TWS.

        :return: what was only kept here: the caller tells the clients.
        """
        self.step()
        for order in self._gateway.book.working():
            self._lifecycle.cancel(order, self._gateway.clock.time())
        return self._never_transmitted(self._untransmitted.discard_all())

    def split(self, instrument: Instrument, ratio: Decimal) -> None:
        """Split a stock into `ratio` new shares for each. Its working orders end: their prices are those of old shares.

        Source: TWS API, "Time in force": a split cancels GTC orders.

        :raises ConfigError: it is no stock.
        """
        if instrument.is_forex:
            raise ConfigError(f"{instrument.local_symbol} is no stock: it cannot be split.")
        self.step()
        for order in self._gateway.book.working():
            if order.con_id == instrument.con_id:
                self._lifecycle.cancel(order, self._gateway.clock.time(), _STOCK_IS_SPLIT)
        self._gateway.split(instrument, ratio)

    def _never_transmitted(self, tickets: list[Ticket]) -> list[Ticket]:
        """Of kept tickets, those that are no change of an order in the book."""
        return [ticket for ticket in tickets if self._gateway.book.get(ticket.client_id, ticket.order_id) is None]

    def step(self) -> None:
        """Let all working orders meet the market up to the clock's second."""
        self._floor.step()

    # --- taking orders ---------------------------------------------------------------------------

    def _check(self, ticket: Ticket) -> None:
        """Check a ticket before anything is done with it."""
        book = self._gateway.book
        kept = self._untransmitted.get(ticket.client_id, ticket.order_id) is not None
        try:
            if not kept:
                modify.modified(book, ticket)
            check_ticket(ticket, self._gateway.accounts)
            if book.get(ticket.client_id, ticket.order_id) is None:
                families.find_parent(book, self._untransmitted, ticket)
        except Refusal as refusal:
            if not kept:
                self._keep_if_rejected(ticket, refusal)
            raise

    def _transmit(self, ticket: Ticket) -> Order:
        """Take a ticket and the kept ones that it transmits, parents first; then they meet the market together."""
        taken: dict[int, Order | None] = {}
        refused: Refusal | None = None
        for each in self._untransmitted.release(ticket):
            taken[each.order_id] = None
            try:
                taken[each.order_id] = self._take(each, taken)
            except Refusal as refusal:
                self._keep_if_rejected(each, refusal)
                if each is ticket:
                    refused = refusal
                else:
                    self._audience.order_error(each.client_id, each.order_id, refusal.code, refusal.message)
        self._floor.run([order for order in taken.values() if order is not None])
        order = taken[ticket.order_id]
        if order is None:
            assert refused is not None
            raise refused
        return order

    def _take(self, ticket: Ticket, family: dict[int, Order | None]) -> Order:
        book = self._gateway.book
        if book.get(ticket.client_id, ticket.order_id) is not None:
            known = modify.modified(book, ticket)
            assert known is not None
            return self._change(known, ticket)
        if ticket.parent_id not in family:
            parent = families.find_parent(book, self._untransmitted, ticket)
        elif (parent := family[ticket.parent_id]) is None:
            raise rejected("Parent order is being cancelled.")
        return self._enter(ticket, parent)

    def _order(self, ticket: Ticket, perm_id: int) -> Order:
        """The order that a ticket asks for, of the account that it means."""
        order = ticket.order(perm_id, self._gateway.clock.time())
        order.account = self._gateway.code(order.account)
        return order

    def _enter(self, ticket: Ticket, parent: Order | None) -> Order:
        """Enter a new order in the book."""
        gateway = self._gateway
        order = self._order(ticket, gateway.book.last_perm_id + 1)
        check_place_in_book(order, gateway.book)
        if parent is not None:
            # What it will do to the account depends on what its parent will have done.
            families.attach(order, parent)
        else:
            check_funds(gateway, order)
        if order.is_manual and self.auto_bind:
            gateway.book.bind(order)
            self._audience.bound(order)
        if gateway.options.tif_notice and not ticket.fields["tif"]:
            self._audience.order_error(order.client_id, order.order_id, 10349, _PRESET_WARNING)
        self._begin(order)
        self._lifecycle.accept(order)
        self._warn_if_closed(order)
        return order

    def _change(self, known: Order, ticket: Ticket) -> Order:
        """Change a working order."""
        wanted = self._order(ticket, known.perm_id)
        modify.check_change(known, wanted, ticket)
        if not known.held and wanted.quantity > known.quantity:
            self._check_more_funds(replace(wanted, filled=known.filled))
        modify.change(known, wanted, ticket)
        self._begin(known)
        self._lifecycle.tell(known)
        return known

    def _check_more_funds(self, wanted: Order) -> None:
        try:
            check_funds(self._gateway, wanted)
        except Refusal as refusal:
            # The order goes on as it was.
            raise Refusal(refusal.code, refusal.message) from None

    def _begin(self, order: Order) -> None:
        """Set when it expires, and where a trailing stop begins."""
        now, instrument = self._gateway.clock.time(), self._gateway.instrument(order.con_id)
        if order.tif == "DAY":
            regular = not trades_extended(order)
            ends = (session.bounds(regular)[1] for session in sessions_from(instrument.hours, now))
            order.expires = next((end for end in ends if end > now), None)
        if order.order_type in TRAILING and order.stop_price is None and not order.held:
            trailing.follow(order, instrument, np.array([float(self._gateway.last_price(instrument))]))

    def _keep_if_rejected(self, ticket: Ticket, refusal: Refusal) -> None:
        """A new order that the servers reject is listed among the ended ones."""
        if refusal.kept and self._gateway.book.get(ticket.client_id, ticket.order_id) is None:
            self._lifecycle.reject(self._order(ticket, self._gateway.book.last_perm_id + 1), refusal.message)

    def _warn_if_closed(self, order: Order) -> None:
        if warning := closed_warning(self._gateway, order):
            instrument = self._gateway.instrument(order.con_id)
            self._audience.order_error(
                order.client_id,
                order.order_id,
                399,
                f"Order Message:\n{order.action} {_plain(order.quantity)} {instrument.symbol}"
                f" {instrument.primary_exchange}\n{warning}",
            )


def _plain(quantity: Decimal) -> str:
    return format(quantity.normalize(), "f")
