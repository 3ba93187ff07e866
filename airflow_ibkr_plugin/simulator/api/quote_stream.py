"""The quotes of one reqMktData."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.simulator.api.subscriptions import DELAYED, DELAYED_FROZEN, FROZEN, LIVE
from airflow_ibkr_plugin.simulator.market.access import COMPETING, Access
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import current
from airflow_ibkr_plugin.simulator.market.prices import Quote, ask_size
from airflow_ibkr_plugin.simulator.market.rules import BBO_EXCHANGE
from airflow_ibkr_plugin.simulator.market.statistics import Statistics, year_statistics
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session

# Tick types. Source: TWS API, "Available Tick Types".
_BID, _ASK, _LAST, _HIGH, _LOW, _VOLUME, _CLOSE, _OPEN = 1, 2, 4, 6, 7, 8, 9, 14
_LAST_TIME, _RT_VOLUME, _RT_TRADE_VOLUME, _DIVIDENDS, _MARK = 45, 48, 77, 59, 37
_SHORTABLE, _SHORTABLE_SHARES = 46, 89
_LOW_13, _HIGH_13, _LOW_26, _HIGH_26, _LOW_52, _HIGH_52, _AVERAGE_VOLUME = range(15, 22)
#: The same ticks as delayed ones.
_DELAYED = {
    _BID: 66, _ASK: 67, _LAST: 68, _HIGH: 72, _LOW: 73, _VOLUME: 74, _CLOSE: 75, _OPEN: 76, _LAST_TIME: 88,
}  # fmt: skip
#: How old delayed data is, in seconds. Source: IBKR, "Delayed Market Data": 10 to 20 minutes by exchange.
DELAY = 15 * 60
# Above 2.5 at least 1000 shares can be borrowed. Source: TWS API, tick type Shortable.
_EASY_TO_BORROW = 3.0
_BORROWABLE = 1_000_000

Value = tuple[float, int] | int | float | str


class QuoteStream:
    """Tells of quotes; remembers the last value of each tick.

    :param generic: request codes of generic ticks.
    """

    def __init__(
        self,
        session: Session,
        request: int,
        instrument: Instrument,
        kind: int,
        generic: frozenset[int],
        *,
        only_generic: bool,
        paid: bool,
    ) -> None:
        """Note what is wanted.

        :param kind: of market data: live, frozen, delayed or delayed-frozen; as the client wants it.
        :param only_generic: no other ticks. :param paid: for itself, whatever the account is subscribed to.
        """
        self._session = session
        self._request = request
        self._instrument = instrument
        self._generic = generic
        self._only_generic = only_generic
        self._access = Access.LIVE if paid else session.gateway.access.of(instrument)
        delayed = self._access in (Access.DELAYED, Access.NO_API)
        self._lag = DELAY if delayed else 0
        # Who takes delayed data gets live data where there is some.
        self._frozen = kind in (FROZEN, DELAYED_FROZEN)
        self._kinds = (DELAYED, DELAYED_FROZEN) if delayed else (LIVE, FROZEN)
        self._paid = paid
        self._away = False
        self._kind = 0
        self._sent: dict[int, Value] = {}
        self._statistics: tuple[date, Statistics] | None = None

    def open(self) -> None:
        """Send what comes first, and the quotes as they are."""
        bbo = "" if self._instrument.is_forex else BBO_EXCHANGE
        minimum = float(self._instrument.min_tick)
        self._session.send(out.TICK_REQ_PARAMS, reqId=self._request, minTick=minimum, bboExchange=bbo)
        self.send()

    def send(self) -> None:
        """Send the ticks that differ from those sent last."""
        if self._taken_away():
            return
        # Frozen data is live data while the market is open.
        kind = self._kinds[self._frozen and not self._is_open()]
        if kind != self._kind:
            self._kind = kind
            self._session.send(out.MARKET_DATA_TYPE, reqId=self._request, type=kind)
        quote = self._session.gateway.market.quote(self._instrument, self._moment())
        if quote is None:
            return
        ticks = {} if self._only_generic else self._ticks(quote)
        for tick, value in (ticks | self._generic_ticks(quote)).items():
            if self._sent.get(tick) != value:
                self._sent[tick] = value
                self._send(_DELAYED.get(tick, tick) if self._lag else tick, value)

    def _send(self, tick: int, value: Value) -> None:
        if isinstance(value, tuple):
            price, size = value
            self._session.send(out.TICK_PRICE, reqId=self._request, tickType=tick, price=price, size=size)
        elif isinstance(value, str):
            self._session.send(out.TICK_STRING, reqId=self._request, tickType=tick, value=value)
        elif isinstance(value, int):
            self._session.send(out.TICK_SIZE, reqId=self._request, tickType=tick, size=value)
        else:
            self._session.send(out.TICK_GENERIC, reqId=self._request, tickType=tick, value=value)

    def _taken_away(self) -> bool:
        """Whether a login elsewhere has the data now; the client is told once."""
        access = self._session.gateway.access
        away = not self._paid and access.of(self._instrument) is Access.COMPETING
        if away and not self._away:
            self._session.error(self._request, *COMPETING)
        self._away = away
        return away

    def _moment(self) -> float:
        return self._session.gateway.clock.time() - self._lag

    def _is_open(self) -> bool:
        return current(self._instrument.hours, self._moment(), regular=False) is not None

    def _ticks(self, quote: Quote) -> dict[int, Value]:
        ticks: dict[int, Value] = {}
        if self._access is not Access.PARTIAL:
            if self._is_open() or self._frozen:
                ticks[_BID] = (quote.bid, quote.size)
                ticks[_ASK] = (quote.ask, ask_size(self._instrument, quote.time))
            else:
                # IBKR's way to say that there is no quote.
                ticks |= {_BID: (-1.0, 0), _ASK: (-1.0, 0)}
        if not self._instrument.is_forex:
            ticks |= {
                _LAST: (quote.last, quote.size),
                _LAST_TIME: str(quote.time),
                _VOLUME: quote.volume,
                _OPEN: (quote.open, 0),
            }
        ticks |= {_HIGH: (quote.high, 0), _LOW: (quote.low, 0)}
        if quote.previous_close is not None:
            ticks[_CLOSE] = (quote.previous_close, 0)
        return ticks

    def _generic_ticks(self, quote: Quote) -> dict[int, Value]:
        """Those of the asked ones that a contract has; no dividends are paid here."""
        ticks: dict[int, Value] = {}
        if self._generic & {221, 232}:
            ticks[_MARK] = (quote.last, 0)
        if self._instrument.is_forex or self._lag:
            return ticks
        if 165 in self._generic:
            ticks |= self._year(quote.day)
        trades = {233: _RT_VOLUME, 375: _RT_TRADE_VOLUME}
        if asked := trades.keys() & self._generic:
            average = round((quote.open + quote.high + quote.low + quote.last) / 4, 6)
            parts = (quote.last, quote.size, quote.time * 1000, quote.volume, average, "true")
            ticks |= {trades[code]: ";".join(map(str, parts)) for code in asked}
        if 236 in self._generic:
            ticks |= {_SHORTABLE: _EASY_TO_BORROW, _SHORTABLE_SHARES: _BORROWABLE}
        if 456 in self._generic:
            ticks[_DIVIDENDS] = ",,,"
        return ticks

    def _year(self, day: date) -> dict[int, Value]:
        if self._statistics is None or self._statistics[0] != day:
            self._statistics = (day, year_statistics(self._session.gateway.market, self._instrument, day))
        known = self._statistics[1]
        prices = (_LOW_13, _HIGH_13, _LOW_26, _HIGH_26, _LOW_52, _HIGH_52)
        ticks: dict[int, Value] = {tick: (price, 0) for tick, price in zip(prices, known.prices, strict=True)}
        return ticks | {_AVERAGE_VOLUME: known.average_volume}
