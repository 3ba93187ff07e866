"""Single ticks: one a second, cut from the same prices as bars and quotes. No trades of forex, as at IBKR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import Session, sessions_back, sessions_from
from airflow_ibkr_plugin.simulator.market.prices import Market, ask_size, quote_sides, trade_size

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.market.prices import Path

#: Most ticks of one answer. Source: TWS API, "Historical Time and Sales Data".
MAX_TICKS = 1000
TRADES, BID_ASK, MIDPOINT = "TRADES", "BID_ASK", "MIDPOINT"


@dataclass(frozen=True, slots=True)
class Tick:
    """A trade, a quote, or a midpoint.

    :param time: epoch seconds. :param price: of the trade, or the midpoint. :param size: shares.
    """

    time: int
    price: float = 0.0
    size: int = 0
    bid: float = 0.0
    ask: float = 0.0
    bid_size: int = 0
    ask_size: int = 0


def ticks_between(market: Market, instrument: Instrument, what: str, start: int, end: int, regular: bool) -> list[Tick]:
    """Ticks of start <= second < end, oldest first; of quotes and midpoints only those that bring another price.

    :param what: TRADES, BID_ASK or MIDPOINT.
    """
    found: list[Tick] = []
    for session in sessions_from(instrument.hours, start):
        if session.bounds(regular)[0] >= end:
            break
        found += _of_session(market, instrument, what, session, start, end, regular)
    return found


def historical_ticks(
    market: Market,
    instrument: Instrument,
    what: str,
    *,
    start: float | None,
    end: float | None,
    now: float,
    count: int,
    regular: bool,
) -> list[Tick]:
    """The first `count` ticks from a start on, or the last ones before an end, of one session, oldest first.

    :param now: the clock; nothing after it is there.
    """
    latest = int(now) + 1
    if start is not None and start >= latest:
        return []
    if start is not None:
        for session in sessions_from(instrument.hours, start):
            if made := _of_session(market, instrument, what, session, int(start), latest, regular):
                return made[:count]
            if session.pre >= latest:
                break
        return []
    before = min(int(end) if end is not None else latest, latest)
    current = next(sessions_back(instrument.hours, before, regular), None)
    return _of_session(market, instrument, what, current, current.pre, before, regular)[-count:] if current else []


def _of_session(
    market: Market, instrument: Instrument, what: str, session: Session, start: int, end: int, regular: bool
) -> list[Tick]:
    made: list[Tick] = []
    for first, last in session.spans(regular):
        begin, stop = max(first, start), min(last, end)
        if begin < stop:
            made += _of_path(market, instrument, what, session, begin, market.path(instrument, session, begin, stop))
    return made


def _of_path(
    market: Market, instrument: Instrument, what: str, session: Session, start: int, path: Path
) -> Iterator[Tick]:
    bar = market.day_bar(instrument, session.day)
    if bar is None:
        return
    if what == TRADES:
        for at, price in enumerate(path.tolist(), start=start):
            yield Tick(at, price=price, size=trade_size(instrument, at))
        return
    if what == MIDPOINT:
        before = None
        for at, price in enumerate(path.tolist(), start=start):
            if price != before:
                yield Tick(at, price=price)
            before = price
        return
    bids, asks = (side.tolist() for side in quote_sides(instrument, bar, path))
    last = None
    for at, sides in enumerate(zip(bids, asks, strict=True), start=start):
        if sides != last:
            sizes = {"bid_size": trade_size(instrument, at), "ask_size": ask_size(instrument, at)}
            yield Tick(at, bid=sides[0], ask=sides[1], **sizes)
        last = sides
