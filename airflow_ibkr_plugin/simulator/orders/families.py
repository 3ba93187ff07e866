"""Orders that are kept without being transmitted, and the families that one of them transmits.

An order with `transmit=False` is known to the gateway alone: nothing is sent about it, it is in no list, and a restart
forgets it. What transmits any member of a bracket transmits its ancestors and all of their other descendants too.
"""

from __future__ import annotations

from airflow_ibkr_plugin.simulator.orders.book import Book, Order
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, rejected
from airflow_ibkr_plugin.simulator.orders.ticket import Ticket


class Untransmitted:
    """Tickets by client and order id."""

    def __init__(self) -> None:
        self._tickets: dict[int, dict[int, Ticket]] = {}

    def get(self, client_id: int, order_id: int) -> Ticket | None:
        """The kept ticket with that id."""
        return self._tickets.get(client_id, {}).get(order_id)

    def keep(self, ticket: Ticket) -> None:
        """Keep a ticket, in place of the one with its id."""
        self._tickets.setdefault(ticket.client_id, {})[ticket.order_id] = ticket

    def discard(self, client_id: int, order_id: int) -> list[Ticket]:
        """Forget a ticket and what is attached to it; returns them, parents first."""
        gone = [ticket for ticket in [self._tickets.get(client_id, {}).pop(order_id, None)] if ticket is not None]
        for ticket in list(self._tickets.get(client_id, {}).values()):
            if ticket.parent_id == order_id:
                gone += self.discard(client_id, ticket.order_id)
        return gone

    def discard_all(self) -> list[Ticket]:
        """Forget all tickets; returns them."""
        gone = [ticket for tickets in self._tickets.values() for ticket in tickets.values()]
        self._tickets.clear()
        return gone

    def release(self, ticket: Ticket) -> list[Ticket]:
        """Take out the family that the ticket transmits, and itself, parents first."""
        kept = self._tickets.setdefault(ticket.client_id, {})
        kept[ticket.order_id] = ticket
        root = ticket
        while (parent := kept.get(root.parent_id)) is not None and parent is not root:
            root = parent
        # An id can only be attached to one that was known before: parents come first by themselves.
        family, ids = [], {root.order_id, root.parent_id} - {0}
        for each in sorted(kept.values(), key=lambda kept_ticket: kept_ticket.order_id):
            if each is root or each.parent_id in ids:
                family.append(each)
                ids.add(each.order_id)
        for each in family:
            del kept[each.order_id]
        return family


def find_parent(book: Book, untransmitted: Untransmitted, ticket: Ticket) -> Order | None:
    """The working order that a ticket is attached to; None: to none, or to a kept ticket.

    :raises Refusal: there is no such order.
    """
    earlier = ticket.parent_id < ticket.order_id
    if not ticket.parent_id or (earlier and untransmitted.get(ticket.client_id, ticket.parent_id) is not None):
        return None
    parent = book.get(ticket.client_id, ticket.parent_id)
    # What an order is attached to was there before it; so no chain of parents can close.
    if parent is None or not parent.working or not earlier:
        raise Refusal(135, f"Can't find order with id = {ticket.parent_id}")
    if parent.filled:
        raise rejected("Parent order is partially or fully filled")
    return parent


def attach(order: Order, parent: Order) -> None:
    """Hold an order until its parent fills, in one OCA group with the parent's other children."""
    order.parent_perm_id, order.held = parent.perm_id, True
    order.oca_group = order.oca_group or str(parent.perm_id)
