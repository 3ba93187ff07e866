"""What happens to orders, on its way from the desk to the client that owns the order.

Without a fault each piece of news goes on at once. Faults of order events are all here: a missing acknowledgement,
news twice or in the wrong order, a second permId, a fill without our orderRef.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from airflow_ibkr_plugin.simulator.orders.book import FILLED, Execution, Order

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session
    from airflow_ibkr_plugin.simulator.gateway import Gateway

#: How `reorder` can reorder.
FILL_FIRST = "fill_before_status"
BACKWARDS = "status_backwards"
COMMISSION_FIRST = "commission_before_execution"
REORDERINGS = (FILL_FIRST, BACKWARDS, COMMISSION_FIRST)

Piece = Callable[[], None]


class Clients(Protocol):
    """Who is connected."""

    def client(self, client_id: int) -> Session | None:
        """The session of a client id."""


class OrderNews:
    """The desk's audience (see `desk.Audience`): tells the clients, through the armed faults."""

    def __init__(self, gateway: Gateway, clients: Clients, books_changed: Callable[[int], None]) -> None:
        self._gateway = gateway
        self._faults = gateway.faults
        self._clients = clients
        self.books_changed = books_changed
        self._reordered: dict[int, tuple[str, list[Piece]]] = {}
        self._executions: dict[str, Piece] = {}
        self._acknowledged: set[int] = set()

    def order_changed(self, order: Order, execution: Execution | None = None) -> None:
        """An order's status or terms have changed."""
        owner = self._clients.client(order.client_id)
        if not (self._faults.armed or self._faults.silent or self._reordered):
            if owner is not None:
                owner.order_changed(order, execution)
            return
        if self._is_silent(order):
            return
        self._renumber(order, order.order_ref)
        # What is held back tells of the order as it is now.
        piece = partial(_to, owner, "order_changed", copy(order), execution)
        if not self._hold(order, piece):
            piece()
            if self._take("duplicate_status", order):
                piece()

    def executed(self, execution: Execution) -> None:
        """A fill."""
        owner = self._clients.client(execution.client_id)
        if self._faults.armed:
            self._renumber(execution, execution.order_ref)
            if self._take("unnamed_fill", execution):
                self._faults.unnamed.add(execution.exec_id)
            if self._take("reorder", execution, how=COMMISSION_FIRST):
                self._executions[execution.exec_id] = partial(_to, owner, "executed", execution)
                return
        _to(owner, "executed", execution)

    def commissioned(self, execution: Execution) -> None:
        """A fill's commission."""
        _to(self._clients.client(execution.client_id), "commissioned", execution)
        if (piece := self._executions.pop(execution.exec_id, None)) is not None:
            piece()
        if self._reordered.get(execution.perm_id, ("", []))[0] == FILL_FIRST:
            self._release(execution.perm_id)

    def order_error(self, client_id: int, order_id: int, code: int, message: str) -> None:
        """A message about an order."""
        _to(self._clients.client(client_id), "error", order_id, code, message)

    def bound(self, order: Order) -> None:
        """A manual order has got an order id."""
        _to(self._clients.client(order.client_id), "bound", order)

    # --- faults ----------------------------------------------------------------------------------

    def _take(self, name: str, about: Order | Execution, *, how: str | None = None) -> bool:
        fault = self._faults.take(
            name,
            client=about.client_id,
            order_ref=about.order_ref,
            when=lambda details: how is None or details["how"] == how,
        )
        return fault is not None

    def _is_silent(self, order: Order) -> bool:
        if order.perm_id not in self._faults.silent and self._take("missing_acknowledgement", order):
            self._faults.silent.add(order.perm_id)
        return order.perm_id in self._faults.silent

    def _renumber(self, about: Order | Execution, order_ref: str) -> None:
        """The first news of an order has its first permId; what follows has the second."""
        known = about.perm_id in self._faults.perm_ids
        if known or not any(fault.name == "second_perm_id" for fault in self._faults.armed):
            return
        if about.perm_id not in self._acknowledged:
            self._acknowledged.add(about.perm_id)
        elif self._faults.take("second_perm_id", client=about.client_id, order_ref=order_ref):
            self._acknowledged.discard(about.perm_id)
            self._gateway.book.last_perm_id += 1
            self._faults.perm_ids[about.perm_id] = self._gateway.book.last_perm_id

    def _hold(self, order: Order, piece: Piece) -> bool:
        """Keep a piece of news back, if the order's news is being reordered."""
        if order.perm_id not in self._reordered:
            how = next((how for how in (FILL_FIRST, BACKWARDS) if self._take("reorder", order, how=how)), None)
            if how is None:
                return False
            self._reordered[order.perm_id] = how, []
        how, held = self._reordered[order.perm_id]
        held.append(piece)
        if not order.working and (how == BACKWARDS or order.status != FILLED):
            self._release(order.perm_id)
        return True

    def _release(self, perm_id: int) -> None:
        how, held = self._reordered.pop(perm_id)
        for piece in reversed(held) if how == BACKWARDS else held:
            piece()


def _to(session: Session | None, what: str, *news: Any) -> None:
    if session is not None:
        getattr(session, what)(*news)
