"""Historical bars, cut from the same prices that quotes and fills come from.

Nothing later than the clock is in them: the bar that is forming ends where the clock stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.days import DayBar
from airflow_ibkr_plugin.simulator.market.history_query import DAILY, TRADED, BadRequest, Query, duration_start
from airflow_ibkr_plugin.simulator.market.hours import Session, sessions_back
from airflow_ibkr_plugin.simulator.market.prices import Market, quote_sides, volume_until

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from airflow_ibkr_plugin.simulator.market.prices import Path

#: Most bars of one answer; this limit is the simulator's own, IBKR states none in this form.
MAX_BARS = 100_000
#: Bars of one second are given for so long at most. Source: TWS API, "Max Duration Per Bar Size".
MAX_ONE_SECOND_BARS = 2000


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    :param start: epoch seconds of its first second. :param day: set for bars of a day and longer: the date it carries.
    :param volume, average, count: -1 where IBKR has none (all but TRADES).
    """

    start: int
    day: date | None
    open: float
    high: float
    low: float
    close: float
    volume: int
    average: float
    count: int


class _Piece(NamedTuple):
    """A stretch of one session in which it trades: start <= second < stop."""

    session: Session
    start: int
    stop: int


def bars(market: Market, instrument: Instrument, query: Query) -> list[Bar]:
    """The bars, oldest first.

    :raises BadRequest: more than a gateway gives in one answer.
    """
    if query.seconds is not None:
        made = _intraday(market, instrument, query, query.seconds)
    else:
        made = [bar for session in sessions(instrument, query) for bar in _daily(market, instrument, session, query)]
        if query.bar_size != DAILY[0]:
            made = _merge(made, query.bar_size)
    if query.what in TRADED:
        return made
    return [Bar(b.start, b.day, b.open, b.high, b.low, b.close, -1, -1.0, -1) for b in made]


def sessions(instrument: Instrument, query: Query) -> list[Session]:
    """Sessions of the duration, oldest first; for a duration in seconds those that hold that many trading seconds."""
    count, unit = query.duration
    begun = sessions_back(instrument.hours, query.end, query.regular)
    if unit == "D":
        taken = [session for _, session in zip(range(count), begun, strict=False)]
    elif unit == "S":
        taken, left = [], count
        while left > 0 and (session := next(begun, None)) is not None:
            taken.append(session)
            left -= sum(piece.stop - piece.start for piece in _pieces(session, query))
    else:
        zone = instrument.hours.zone
        first = datetime.fromtimestamp(duration_start(query.end, query.duration, zone), zone).date()
        taken = list(_until(begun, first))
    return taken[::-1]


def _pieces(session: Session, query: Query) -> Iterator[_Piece]:
    for start, end in session.spans(query.regular):
        stop = min(end, int(query.end))
        if max(start, query.oldest) < stop:
            yield _Piece(session, max(start, query.oldest), stop)


def _until(begun: Iterator[Session], first: date) -> Iterator[Session]:
    for session in begun:
        if session.day <= first:
            return
        yield session


def _daily(market: Market, instrument: Instrument, session: Session, query: Query) -> Iterator[Bar]:
    bar = market.day_bar(instrument, session.day)
    if bar is None:
        return
    start, end = session.bounds(query.regular)
    stop = min(end, int(query.end))
    if stop == end:
        # Extended trading stays within the regular range, opens at its open and closes at its close.
        path = np.array([bar.open, bar.high, bar.low, bar.close])
    else:
        path = market.path(instrument, session, start, stop)
    prices = _aggregate(instrument, bar, path, np.array([0]), query.what)
    volume = volume_until(bar, session, stop) - volume_until(bar, session, start)
    yield _bar(start, session.day, tuple(float(price[0]) for price in prices), volume)


def _intraday(market: Market, instrument: Instrument, query: Query, size: int) -> list[Bar]:
    pieces = [piece for session in sessions(instrument, query) for piece in _pieces(session, query)]
    count, unit = query.duration
    if unit == "S":
        pieces = _last_seconds(pieces, count, size, instrument.hours.zone)
    length = sum(piece.stop - piece.start for piece in pieces)
    if length // size > (MAX_ONE_SECOND_BARS if size == 1 else MAX_BARS):
        raise BadRequest("Time length exceed max.", 162)
    return [bar for piece in pieces for bar in _cut(market, instrument, query.what, size, piece)]


def _last_seconds(pieces: list[_Piece], count: int, size: int, zone: ZoneInfo) -> list[_Piece]:
    """What so many trading seconds before the end lie in, from the beginning of a bar on."""
    surplus = sum(piece.stop - piece.start for piece in pieces) - count
    kept = []
    for piece in pieces:
        cut = min(max(surplus, 0), piece.stop - piece.start)
        surplus -= cut
        if piece.start + cut < piece.stop:
            start = piece.start + cut
            kept.append(piece._replace(start=max(piece.start, start - _into_bar(start, size, zone))))
    return kept


def _into_bar(second: int, size: int, zone: ZoneInfo) -> int:
    """How far a second lies in its bar: bars are aligned to the local clock, also where it was changed that day."""
    local = datetime.fromtimestamp(second, zone)
    return (local.hour * 3600 + local.minute * 60 + local.second) % size


def _cut(market: Market, instrument: Instrument, what: str, size: int, piece: _Piece) -> Iterator[Bar]:
    session, start, stop = piece
    bar = market.day_bar(instrument, session.day)
    if bar is None:
        return
    # The first of a session may be shorter (09:30 to 10:00 of an hour).
    first = start + size - _into_bar(start, size, instrument.hours.zone)
    starts = [start, *range(first, stop, size)]
    prices = _aggregate(instrument, bar, market.path(instrument, session, start, stop), np.array(starts) - start, what)
    before = volume_until(bar, session, start)
    for at, end, *ohlc in zip(starts, [*starts[1:], stop], *(price.tolist() for price in prices), strict=True):
        upto = volume_until(bar, session, end)
        yield _bar(at, None, tuple(ohlc), upto - before)
        before = upto


def _aggregate(
    instrument: Instrument, bar: DayBar, path: Path, offsets: np.ndarray, what: str
) -> tuple[Path, Path, Path, Path]:
    """Open, high, low and close of the stretches that begin at the offsets, one array each.

    BID_ASK is another thing than four prices of one side: the average bid, the highest ask, the lowest bid and the
    average ask. Source: TWS API, "Historical Bar whatToShow".
    """
    if what == "BID_ASK":
        bid, ask = quote_sides(instrument, bar, path)
        lengths = np.diff(np.append(offsets, len(path)))
        average_bid, average_ask = (np.round(np.add.reduceat(side, offsets) / lengths, 6) for side in (bid, ask))
        return average_bid, np.maximum.reduceat(ask, offsets), np.minimum.reduceat(bid, offsets), average_ask
    if what in ("BID", "ASK"):
        path = quote_sides(instrument, bar, path)[what == "ASK"]
    last = np.append(offsets[1:], len(path)) - 1
    return path[offsets], np.maximum.reduceat(path, offsets), np.minimum.reduceat(path, offsets), path[last]


def _bar(start: int, day: date | None, prices: tuple[float, ...], volume: int) -> Bar:
    first, high, low, last = prices
    return Bar(start, day, first, high, low, last, volume, _average(first, high, low, last), _trades(volume))


def _merge(days: list[Bar], size: str) -> list[Bar]:
    """Weeks and months; each carries the date of its last day."""
    groups: dict[tuple[int, int], list[Bar]] = {}
    for bar in days:
        assert bar.day is not None
        week = bar.day.isocalendar()
        key = (week.year, week.week) if size == "1 week" else (bar.day.year, bar.day.month)
        groups.setdefault(key, []).append(bar)
    merged = []
    for group in groups.values():
        first, last = group[0], group[-1]
        high, low = max(b.high for b in group), min(b.low for b in group)
        volume = sum(b.volume for b in group)
        average = _average(first.open, high, low, last.close)
        merged.append(
            Bar(first.start, last.day, first.open, high, low, last.close, volume, average, sum(b.count for b in group))
        )
    return merged


def _average(first: float, high: float, low: float, last: float) -> float:
    # The volume-weighted average is not simulated trade by trade; this stands within the bar.
    return min(max(round((first + high + low + last) / 4, 6), low), high)


def _trades(volume: int) -> int:
    return -(-volume // 100)
