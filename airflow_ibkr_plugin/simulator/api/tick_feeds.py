"""Tick-by-tick data: each trade, quote or midpoint of the seconds that pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.ticks import BID_ASK, MIDPOINT, TRADES, ticks_between
from airflow_ibkr_plugin.simulator.wire import tables_data as data

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session

#: What a request names, and what historical ticks call the same.
KINDS = {"Last": TRADES, "AllLast": TRADES, "BidAsk": BID_ASK, "MidPoint": MIDPOINT}
_NUMBERS = {"Last": 1, "AllLast": 2}
# After a longer jump of the clock a client is not flooded with what it missed.
_MOST_BEHIND = 60


class TickByTick:
    """One subscription."""

    def __init__(self, session: Session, request: int, instrument: Instrument, kind: str, *, ignore_size: bool) -> None:
        """:param kind: a key of :data:`KINDS`."""
        self._session = session
        self._request = request
        self._instrument = instrument
        self._kind = kind
        self._ignore_size = ignore_size
        self._next = int(session.gateway.clock.time())
        self._last: tuple[float, ...] | None = None

    def send(self) -> None:
        """Send the ticks of the seconds since."""
        end = int(self._session.gateway.clock.time()) + 1
        start, self._next = max(self._next, end - _MOST_BEHIND), end
        market, what = self._session.gateway.market, KINDS[self._kind]
        where = self._instrument.primary_exchange or self._instrument.exchange
        for tick in ticks_between(market, self._instrument, what, start, end, regular=False):
            fields = {"reqId": self._request, "time": tick.time}
            if what == TRADES:
                self._session.send(
                    data.TICK_BY_TICK_LAST,
                    **fields,
                    kind=_NUMBERS[self._kind],
                    price=tick.price,
                    size=tick.size,
                    exchange=where,
                )
                continue
            prices = (tick.price, tick.bid, tick.ask)
            if prices == self._last:
                continue
            self._last = prices
            if what == MIDPOINT:
                self._session.send(data.TICK_BY_TICK_MIDPOINT, **fields, midPoint=tick.price)
            else:
                sizes = (0, 0) if self._ignore_size else (tick.bid_size, tick.ask_size)
                self._session.send(
                    data.TICK_BY_TICK_BID_ASK,
                    **fields,
                    bid=tick.bid,
                    ask=tick.ask,
                    bidSize=sizes[0],
                    askSize=sizes[1],
                )
