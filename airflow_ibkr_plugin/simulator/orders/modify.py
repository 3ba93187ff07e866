"""Changes of working orders: what may change, and to what."""

from __future__ import annotations

from airflow_ibkr_plugin.simulator.orders.book import TRAILING, Book, Order
from airflow_ibkr_plugin.simulator.orders.checks import Refusal
from airflow_ibkr_plugin.simulator.orders.ticket import Ticket

_ALREADY_FILLED = "Cannot modify a filled order."


def modified(book: Book, ticket: Ticket) -> Order | None:
    """The working order that a ticket changes; None: it is a new one.

    :raises Refusal: its id was used for another order, or for one that has ended.
    """
    known = book.get(ticket.client_id, ticket.order_id)
    if known is None:
        if ticket.order_id < book.next_id(ticket.client_id):
            raise Refusal(103, "Duplicate order id")
        return None
    if known.working:
        return known
    same = (known.con_id, known.action, known.order_ref) == _identity(ticket)
    raise Refusal(104, _ALREADY_FILLED) if same and known.filled else Refusal(103, "Duplicate order id")


def check_change(known: Order, wanted: Order, ticket: Ticket) -> None:
    """Check the terms of a changed order.

    :raises Refusal: the order stays as it was.
    """
    if (known.con_id, known.action, known.account) != (wanted.con_id, wanted.action, wanted.account):
        raise Refusal(105, "Order being modified does not match original order.")
    # A trailing order stays one; other types change into each other, as LMT to MKT was seen to.
    if known.order_type != wanted.order_type and {known.order_type, wanted.order_type} & set(TRAILING):
        raise Refusal(329, "Order modify failed. Cannot change to the new order type.")
    if ticket.fields["tif"] and wanted.tif != known.tif and (known.tif, wanted.tif) != ("DAY", "IOC"):
        raise Refusal(462, f"Order modify failed. Cannot change to the new Time in Force.{wanted.tif}")
    if wanted.parent_id not in (0, known.parent_id):
        raise Refusal(10341, "Parent order id cannot be modified")
    if wanted.oca_group not in ("", known.oca_group):
        raise Refusal(10326, "OCA group revision is not allowed")
    if known.filled and wanted.quantity <= known.filled:
        raise Refusal(104, _ALREADY_FILLED)


def change(known: Order, wanted: Order, ticket: Ticket) -> None:
    """Give a working order its new terms; it meets the market anew from this second on."""
    trails = wanted.order_type in TRAILING
    stop = wanted.stop_price
    if trails and stop is None:
        # A trailing stop stays where it has come to; with another distance it begins anew.
        same = (known.trail_amount, known.trail_percent) == (wanted.trail_amount, wanted.trail_percent)
        stop, known.trail_extreme = (known.stop_price, known.trail_extreme) if same else (None, None)
    known.triggered = known.triggered and known.order_type == wanted.order_type and (trails or known.stop_price == stop)
    known.quantity, known.order_type, known.outside_hours = wanted.quantity, wanted.order_type, wanted.outside_hours
    known.limit_price, known.stop_price, known.fields = wanted.limit_price, stop, wanted.fields
    known.trail_amount, known.trail_percent = wanted.trail_amount, wanted.trail_percent
    known.limit_offset = wanted.limit_offset
    known.tif = wanted.tif if ticket.fields["tif"] else known.tif
    known.checked, known.expires = wanted.checked, None


def _identity(ticket: Ticket) -> tuple[int, str, str]:
    return ticket.instrument.con_id, ticket.fields["action"], ticket.order_ref
