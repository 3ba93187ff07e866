"""The trading floor: lets working orders meet the market as time goes on."""

from __future__ import annotations

import heapq

from airflow_ibkr_plugin.simulator.gateway import Gateway
from airflow_ibkr_plugin.simulator.market.hours import current
from airflow_ibkr_plugin.simulator.orders.book import LIMITED, PRE_SUBMITTED, Order
from airflow_ibkr_plugin.simulator.orders.lifecycle import Lifecycle
from airflow_ibkr_plugin.simulator.orders.matching import Event, Kind, next_event, trades_extended

_DAY_IS_OVER = "Cancelled by System: the day's session has ended"
_IOC_IS_OVER = "Cancelled: immediate or cancel, and not filled"

Queue = list[tuple[int, int, Order, Event]]


class Floor:
    """What happens happens in the order of its seconds; what falls into one second, in the order of permIds."""

    def __init__(self, gateway: Gateway, lifecycle: Lifecycle) -> None:
        self._gateway = gateway
        self._lifecycle = lifecycle
        self._stepped = 0

    def step(self) -> None:
        """Let all working orders meet the market up to the clock's second."""
        now = int(self._gateway.clock.time())
        # An order that comes in between meets its second when it comes.
        if self._gateway.link.online and now != self._stepped:
            self._stepped = now
            self.run(self._gateway.book.working())

    def run(self, orders: list[Order]) -> None:
        """Let some orders meet the market up to the clock's second, and the children that begin to work thereby."""
        until = int(self._gateway.clock.time())
        queue: Queue = []
        fresh = orders + self._lifecycle.take_woken()
        while fresh or queue:
            for order in fresh:
                self._look_on(queue, order, until)
            fresh = self._lifecycle.take_woken()
            if queue and not fresh:
                _, _, order, event = heapq.heappop(queue)
                # A sibling's fill may have ended it meanwhile.
                if order.working:
                    self._happen(order, event)
                    fresh = [order, *self._lifecycle.take_woken()]

    def _look_on(self, queue: Queue, order: Order, until: int) -> None:
        """Queue what happens to an order next, if anything does by then."""
        if not order.working:
            return
        first, instrument = order.checked + 1, self._gateway.instrument(order.con_id)
        # Immediate: the first second that it meets.
        ioc = order.tif == "IOC" and not order.held
        event = next_event(self._gateway.market, instrument, order, min(until, first) if ioc else until)
        if event is not None:
            heapq.heappush(queue, (event.second, order.perm_id, order, event))
        elif ioc:
            self._lifecycle.lapse(order, first, _IOC_IS_OVER)
        elif self._is_at_exchange(order, until):
            self._lifecycle.submit(order)

    def _happen(self, order: Order, event: Event) -> None:
        if event.kind is Kind.TRIGGERED:
            self._lifecycle.trigger(order)
        elif event.kind is Kind.EXPIRED:
            self._lifecycle.lapse(order, event.second, _DAY_IS_OVER)
        else:
            self._lifecycle.fill(order, event.second, event.price, min(event.shares, order.remaining))
            if order.working and order.tif == "IOC":
                self._lifecycle.lapse(order, event.second, _IOC_IS_OVER)

    def _is_at_exchange(self, order: Order, second: int) -> bool:
        """Whether an order that nothing has happened to is now shown as working there."""
        if order.status != PRE_SUBMITTED or order.held or order.waits_for_stop or order.order_type not in LIMITED:
            return False
        instrument = self._gateway.instrument(order.con_id)
        return current(instrument.hours, second, regular=not trades_extended(order)) is not None
