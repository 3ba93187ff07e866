"""What market data the account may see, and how much of it at once.

Codes and texts are those that gateways send; see TWS API, "Message codes".
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from enum import StrEnum
from typing import Protocol
from weakref import WeakSet

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.pacing import Pacing

#: Streams at once, of all clients. Source: IBKR, "Market Data Lines".
LINES = 100
#: Tick-by-tick streams at once, of all clients, with that many lines.
TICK_BY_TICK = 5


class Access(StrEnum):
    """How the account stands to the data of a contract."""

    LIVE = "live"
    DELAYED = "delayed"  # no subscription; delayed data is there for who asks for it
    NO_API = "no_api"  # subscribed for TWS, not for the API; the same
    PARTIAL = "partial"  # bid and ask are not subscribed
    NONE = "none"  # no subscription, and no delayed data
    COMPETING = "competing"  # the user is logged in elsewhere, and the data goes there


_AVAILABLE = "Delayed market data is available."
_API = (
    "Requested market data requires additional subscription for API. See link in 'Market Data Connections' dialog for"
    " more details."
)
#: Sent before delayed data.
DELAYED_NOTICE = (10167, "Requested market data is not subscribed. Displaying delayed market data.")
COMPETING = (10197, "No market data during competing live session")
_ELSEWHERE = "Trading TWS session is connected from a different IP address"


class Open(Protocol):
    """What a client has open; of a client that has gone nothing counts."""

    @property
    def ended(self) -> bool: ...
    @property
    def streams(self) -> Sized: ...
    @property
    def ticks(self) -> Sized: ...
    @property
    def queries(self) -> Sized: ...
    @property
    def kept(self) -> Sized: ...


class MarketDataAccess:
    """The account's entitlements, and its pace of asking for history and for real-time bars."""

    def __init__(self) -> None:
        self._open: WeakSet[Open] = WeakSet()
        self._by_id: dict[int, Access] = {}
        self.history = Pacing()
        self.real_time_bars = Pacing()

    def opened(self, client: Open) -> None:
        """A client has come whose streams count."""
        self._open.add(client)

    def lines(self) -> int:
        """Streams of quotes, of all clients."""
        return sum(len(client.streams) for client in self._open if not client.ended)

    def tick_streams(self) -> int:
        """Tick-by-tick streams, of all clients."""
        return sum(len(client.ticks) for client in self._open if not client.ended)

    def open_history(self) -> int:
        """Requests for history that wait for their answer or are kept up to date, of all clients."""
        return sum(len(client.queries) + len(client.kept) for client in self._open if not client.ended)

    def of(self, instrument: Instrument) -> Access:
        """How the account stands to a contract's data."""
        return self._by_id.get(instrument.con_id, Access.LIVE)

    def set(self, instruments: Iterable[Instrument], access: Access) -> None:
        """Change it; running streams go on as they are, but for a competing session, which silences them."""
        for instrument in instruments:
            self._by_id[instrument.con_id] = access

    def state(self) -> dict[int, str]:
        """What is not live, by conId."""
        return {con_id: access.value for con_id, access in self._by_id.items() if access is not Access.LIVE}

    def refusal(self, instrument: Instrument, *, delayed: bool) -> tuple[int, str] | None:
        """The error that a request for quotes gets; None if it gets quotes.

        :param delayed: whether the client takes delayed data.
        """
        access, what = self.of(instrument), _feed_name(instrument)
        if access is Access.COMPETING:
            return COMPETING
        if access is Access.NONE:
            if delayed:
                return 10168, "Requested market data is not subscribed. Delayed market data is not enabled."
            return 354, f"Requested market data is not subscribed.Error&{what}"
        if delayed or access in (Access.LIVE, Access.PARTIAL):
            return None
        if access is Access.NO_API:
            return 10089, f"{_API}{_AVAILABLE}{what}"
        return 354, f"Requested market data is not subscribed.{_AVAILABLE}{what}"

    def notice(self, instrument: Instrument, *, delayed: bool) -> tuple[int, str] | None:
        """What comes before the quotes."""
        access = self.of(instrument)
        if access is Access.PARTIAL:
            return 10090, (
                "Part of requested market data is not subscribed. Subscription-independent ticks are still active."
                f"{_AVAILABLE}{_feed_name(instrument)}"
            )
        return DELAYED_NOTICE if delayed and access in (Access.DELAYED, Access.NO_API) else None

    def missing_permission(self, instrument: Instrument) -> str | None:
        """Why history, real-time bars and tick-by-tick data are refused; None if they are not."""
        access = self.of(instrument)
        if access is Access.COMPETING:
            return _ELSEWHERE
        if access in (Access.LIVE, Access.PARTIAL):
            return None
        where = f"{instrument.primary_exchange or instrument.exchange} {instrument.sec_type}"
        return f"No market data permissions for {where}" + (f". {_API}" if access is Access.NO_API else "")


def _feed_name(instrument: Instrument) -> str:
    """As IBKR names a feed, such as `AAPL NASDAQ.NMS/TOP/ALL`."""
    where = instrument.primary_exchange or instrument.exchange
    return f"{instrument.symbol} {where}.{instrument.trading_class}/TOP/ALL"
