"""What a client wants to be told about: quotes, account, positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.account.figures import account_values, holding, origin
from airflow_ibkr_plugin.simulator.account.pnl import daily_pnl
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import EASTERN, current
from airflow_ibkr_plugin.simulator.wire import tables_out as out

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session

_BID, _ASK, _LAST, _HIGH, _LOW, _VOLUME, _CLOSE, _OPEN = 1, 2, 4, 6, 7, 8, 9, 14
_LIVE, _FROZEN = 1, 2

#: Ledger keys of accountSummary's `$LEDGER`, by currency.
_LEDGER = frozenset(
    {
        "Currency",
        "CashBalance",
        "TotalCashBalance",
        "StockMarketValue",
        "NetLiquidationByCurrency",
        "RealizedPnL",
        "UnrealizedPnL",
        "ExchangeRate",
    }
)


@dataclass
class Stream:
    """Quotes of one request; `sent` holds the last value of each tick."""

    instrument: Instrument
    sent: dict[int, tuple[float, int]] = field(default_factory=dict)


class Subscriptions:
    """A client's subscriptions; request ids are the client's."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.market_data_type = _LIVE
        self.streams: dict[int, Stream] = {}
        self.summaries: dict[int, frozenset[str]] = {}
        self.multi: set[int] = set()
        self.pnl: dict[int, int | None] = {}
        self.account = False
        self.positions = False
        self._changed: set[int] = set()
        self._values: dict[tuple[str, str], str] = {}

    # --- quotes ----------------------------------------------------------------------------------

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

    # --- account -------------------------------------------------------------------------------

    def books_changed(self, con_id: int) -> None:
        """Note that a position and cash have changed; sent with the next :meth:`send_changes`."""
        if self.account or self.positions or self.summaries or self.multi or self.pnl:
            self._changed.add(con_id)

    def send_changes(self) -> None:
        """Send what has changed to whatever is subscribed."""
        if not self._changed:
            return
        changed, self._changed = sorted(self._changed), set()
        for con_id in changed:
            if self.positions:
                self.send_position(con_id)
            if self.account:
                self._send_holding(con_id)
        if self.account:
            self._send_values(only_changes=True)
        for request, tags in self.summaries.items():
            self.send_summary(request, tags)
        for request in self.multi:
            self.send_multi(request)
        for request, con in self.pnl.items():
            self.send_pnl(request, con)

    def send_account(self) -> None:
        """Everything of the account subscription, with its end."""
        self._send_values(only_changes=False)
        for con_id, position in self._session.gateway.portfolio.positions.items():
            if position.quantity:
                self._send_holding(con_id)
        self._session.send(out.ACCOUNT_DOWNLOAD_END, account=self._session.gateway.account)

    def send_position(self, con_id: int) -> None:
        """One position."""
        gateway = self._session.gateway
        held = holding(gateway, con_id)
        self._session.send(
            out.POSITION,
            account=gateway.account,
            **held.instrument.wire() | {"exchange": "" if not held.instrument.is_forex else "IDEALPRO"},
            position=held.quantity,
            avgCost=held.average_cost,
        )

    def send_summary(self, request: int, tags: frozenset[str]) -> None:
        """The asked tags; what says that it is a simulation comes with any."""
        ledgers = {tag.partition(":")[2] or "BASE" for tag in tags if tag.startswith("$LEDGER")}
        always = {key for key, _, _ in origin(self._session.gateway)}
        for key, value, currency in account_values(self._session.gateway):
            in_ledger = key in _LEDGER and ("ALL" in ledgers or currency in ledgers)
            if key in tags or key in always or in_ledger:
                self._session.send(
                    out.ACCOUNT_SUMMARY,
                    reqId=request,
                    account=self._session.gateway.account,
                    key=key,
                    value=value,
                    currency=currency,
                )

    def send_multi(self, request: int) -> None:
        """All account values for an updatesMulti request."""
        for key, value, currency in account_values(self._session.gateway):
            self._session.send(
                out.ACCOUNT_UPDATE_MULTI,
                reqId=request,
                account=self._session.gateway.account,
                key=key,
                value=value,
                currency=currency,
            )

    def send_pnl(self, request: int, con_id: int | None) -> None:
        """The day's profit, of the account or of one position."""
        gateway = self._session.gateway
        if con_id is None:
            total = daily_pnl(gateway)
            self._session.send(
                out.PNL,
                reqId=request,
                dailyPnL=total.daily,
                unrealizedPnL=total.unrealized,
                realizedPnL=total.realized,
            )
            return
        held = holding(gateway, con_id)
        self._session.send(
            out.PNL_SINGLE,
            reqId=request,
            position=held.quantity,
            dailyPnL=daily_pnl(gateway, con_id).daily,
            unrealizedPnL=held.unrealized,
            realizedPnL=held.realized,
            value=held.value,
        )

    def _send_holding(self, con_id: int) -> None:
        gateway = self._session.gateway
        self._session.send(out.PORTFOLIO_VALUE, **holding(gateway, con_id).wire(gateway.account))

    def _send_values(self, *, only_changes: bool) -> None:
        gateway = self._session.gateway
        for key, value, currency in account_values(gateway):
            if only_changes and self._values.get((key, currency)) == value:
                continue
            self._values[key, currency] = value
            self._session.send(out.ACCOUNT_VALUE, key=key, value=value, currency=currency, account=gateway.account)
        now: Any = gateway.clock.now().astimezone(EASTERN)
        self._session.send(out.ACCOUNT_TIME, time=f"{now:%H:%M}")
