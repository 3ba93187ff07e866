"""What market data a client is told of as it comes: quotes, bars, single ticks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.bar_feeds import KeptBars, RealTimeBars
    from airflow_ibkr_plugin.simulator.api.quote_stream import QuoteStream
    from airflow_ibkr_plugin.simulator.api.session import Session
    from airflow_ibkr_plugin.simulator.api.tick_feeds import TickByTick

#: Kinds of market data, as reqMarketDataType numbers them.
LIVE, FROZEN, DELAYED, DELAYED_FROZEN = 1, 2, 3, 4


class Subscriptions:
    """A client's subscriptions by request id, which is the client's.

    :ivar queries: requests for history that wait for their answer, by marks of their own.
    :ivar kept: history that is kept up to date.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.market_data_type = LIVE
        self.streams: dict[int, QuoteStream] = {}
        self.queries: dict[int, object] = {}
        self.kept: dict[int, KeptBars] = {}
        self.real_time_bars: dict[int, RealTimeBars] = {}
        self.ticks: dict[int, TickByTick] = {}
        session.gateway.access.opened(self)

    @property
    def ended(self) -> bool:
        """Whether its client has gone."""
        return self._session.ended()

    def tick(self) -> None:
        """Send all changes."""
        for feeds in (self.streams, self.kept, self.real_time_bars, self.ticks):
            for feed in feeds.values():
                feed.send()

    def lose(self) -> None:
        """End all, without a word: they have to be asked for again."""
        for feeds in (self.streams, self.queries, self.kept, self.real_time_bars, self.ticks):
            feeds.clear()
