"""Bars that go on: history that is kept up to date, and real-time bars of five seconds."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow_ibkr_plugin.simulator.market.catalogue import STOCK, Instrument
from airflow_ibkr_plugin.simulator.market.history import Bar, bars
from airflow_ibkr_plugin.simulator.market.history_query import Query, bar_stamp
from airflow_ibkr_plugin.simulator.market.hours import EASTERN
from airflow_ibkr_plugin.simulator.wire import tables_data as data

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session

#: Seconds of a real-time bar: the only size that there is.
REAL_TIME = 5
# From these server versions on volumes may have a fraction, times name the instrument's zone, and volumes of US stocks
# are shares instead of lots. Source: IBKR's gates FRACTIONAL_SIZE_SUPPORT, INSTRUMENT_TIMEZONE and
# HMDS_MARKET_DATA_IN_SHARES; bars recorded by a client below the last two.
_FRACTIONS, _ZONED_TIMES, _SHARES = 163, 174, 175
_LOT = 100
# After a longer jump of the clock a client is not flooded with what it missed.
_MOST_BEHIND = 3600


def told_zone(instrument: Instrument, version: int) -> tuple[ZoneInfo, str]:
    """The zone of the times that a client is told, and its name; before 174 the gateway's, which is not named."""
    return (instrument.hours.zone, instrument.hours.zone_id) if version >= _ZONED_TIMES else (EASTERN, "")


def bar_fields(bar: Bar, instrument: Instrument, style: int, version: int) -> dict[str, Any]:
    """A bar's fields, as messages of bars name them. :param style: formatDate."""
    return {
        "date": bar_stamp(bar.start, bar.day, style, *told_zone(instrument, version)),
        "open": bar.open,
        "high": bar.high,
        "low": bar.low,
        "close": bar.close,
        "volume": _told_volume(bar, instrument, version),
        "average": bar.average,
        "barCount": bar.count,
    }


def _told_volume(bar: Bar, instrument: Instrument, version: int) -> Decimal | int:
    american = instrument.sec_type == STOCK and instrument.currency == "USD"
    if version >= _SHARES or not american or bar.volume < 0:
        return bar.volume
    return Decimal(bar.volume) / _LOT if version >= _FRACTIONS else bar.volume // _LOT


class KeptBars:
    """History that is kept up to date: the forming bar whenever it changes, and each one that begins."""

    def __init__(self, session: Session, request: int, instrument: Instrument, query: Query, last: Bar) -> None:
        """:param last: of those sent."""
        self._session = session
        self._request = request
        self._instrument = instrument
        self._query = query
        self._last = last

    def send(self) -> None:
        """Send what has changed."""
        latest = int(self._session.gateway.clock.time()) + 1
        size, behind = self._query.seconds, latest - self._last.start
        # The last bar in whole, and what came after it.
        duration = (2, "M") if size is None else (min(behind, _MOST_BEHIND) + size, "S")
        made = bars(self._session.gateway.market, self._instrument, replace(self._query, end=latest, duration=duration))
        for bar in made:
            if (bar.start > self._last.start) or (bar.start == self._last.start and bar != self._last):
                fields = bar_fields(bar, self._instrument, self._query.style, self._session.version)
                self._session.send(data.HISTORICAL_DATA_UPDATE, reqId=self._request, **fields)
                self._last = bar


class RealTimeBars:
    """A bar for each five seconds of trading, when they are over."""

    def __init__(self, session: Session, request: int, instrument: Instrument, what: str, *, regular: bool) -> None:
        """:param what: TRADES, MIDPOINT, BID or ASK."""
        self._session = session
        self._request = request
        self._instrument = instrument
        self._query = Query("5 secs", (REAL_TIME, "S"), 0.0, regular, what)
        self._sent = self._completed()

    def _completed(self) -> int:
        """The end of the last five seconds that are over."""
        now = int(self._session.gateway.clock.time())
        return now - now % REAL_TIME

    def send(self) -> None:
        """Send the bars that are complete since."""
        end, since = self._completed(), self._sent
        if end <= since:
            return
        self._sent = end
        asked = replace(self._query, end=end, duration=(min(end - since, _MOST_BEHIND), "S"))
        for bar in bars(self._session.gateway.market, self._instrument, asked):
            if bar.start >= since:
                fields = {key: getattr(bar, key) for key in ("open", "high", "low", "close", "volume", "average")}
                self._session.send(
                    data.REAL_TIME_BAR, reqId=self._request, time=bar.start, barCount=bar.count, **fields
                )
