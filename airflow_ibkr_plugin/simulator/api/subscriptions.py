"""The quotes that a client wants to be told about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import current
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session

_BID, _ASK, _LAST, _HIGH, _LOW, _VOLUME, _CLOSE, _OPEN = 1, 2, 4, 6, 7, 8, 9, 14
_LIVE, _FROZEN = 1, 2


@dataclass
class Stream:
    """Quotes of one request; `sent` holds the last value of each tick."""

    instrument: Instrument
    sent: dict[int, tuple[float, int]] = field(default_factory=dict)


class Subscriptions:
    """A client's subscriptions to quotes; request ids are the client's."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.market_data_type = _LIVE
        self.streams: dict[int, Stream] = {}

    def open_stream(self, request: int, instrument: Instrument) -> Stream:
        """Start telling of quotes."""
        self._session.send(out.TICK_REQ_PARAMS, reqId=request, minTick=float(instrument.min_tick))
        stream = self.streams[request] = Stream(instrument)
        frozen = self.market_data_type == _FROZEN and not self._is_open(instrument)
        self._session.send(out.MARKET_DATA_TYPE, reqId=request, type=_FROZEN if frozen else _LIVE)
        self.send_ticks(request, stream)
        return stream

    def send_ticks(self, request: int, stream: Stream) -> None:
        """Send the ticks that differ from those sent last."""
        for tick, (price, size) in self._ticks(stream.instrument).items():
            if stream.sent.get(tick) == (price, size):
                continue
            stream.sent[tick] = (price, size)
            if tick == _VOLUME:
                self._session.send(out.TICK_SIZE, reqId=request, tickType=tick, size=size)
            else:
                self._session.send(out.TICK_PRICE, reqId=request, tickType=tick, price=price, size=size)

    def tick(self) -> None:
        """Send all streams' changes."""
        for request, stream in self.streams.items():
            self.send_ticks(request, stream)

    def _ticks(self, instrument: Instrument) -> dict[int, tuple[float, int]]:
        quote = self._session.gateway.quote(instrument)
        if quote is None:
            return {}
        ticks: dict[int, tuple[float, int]]
        if self._is_open(instrument) or self.market_data_type == _FROZEN:
            ticks = {_BID: (quote.bid, quote.size * 100), _ASK: (quote.ask, (13 - quote.size) * 100)}
        else:
            # IBKR's way to say that there is no quote.
            ticks = {_BID: (-1.0, 0), _ASK: (-1.0, 0)}
        if not instrument.is_forex:
            ticks |= {_LAST: (quote.last, quote.size * 100), _VOLUME: (0.0, quote.volume), _OPEN: (quote.open, 0)}
        ticks |= {_HIGH: (quote.high, 0), _LOW: (quote.low, 0)}
        if quote.previous_close is not None:
            ticks[_CLOSE] = (quote.previous_close, 0)
        return ticks

    def _is_open(self, instrument: Instrument) -> bool:
        return current(instrument.hours, self._session.gateway.clock.time(), regular=False) is not None
