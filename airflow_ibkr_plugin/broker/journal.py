"""What the gateway said, message by message, before the client library draws conclusions from it.

The libraries set an order to Cancelled on any error that carries its id, hold trades, fills and tickers of earlier
answers and merge new ones into them, and swallow some errors. Here a status is only what an orderStatus, openOrder or
completedOrder message said, and an error only an error.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.broker.codes import MESSAGE_RATE, error_for, is_notice, is_rate_limit
from airflow_ibkr_plugin.broker.convert import to_decimal, to_execution, to_optional, to_order, to_price
from airflow_ibkr_plugin.broker.truth import TERMINAL_STATUSES
from airflow_ibkr_plugin.errors import BrokerError, GatewayUnavailable, SessionInvalid
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution

OrderKey = int | tuple[int, int]  # permId, or (client id, order id) before the broker gave one

# Tick types of prices, and of the same delayed. Source: TWS API, "Available Tick Types".
_PRICE_TICKS = {1: "bid", 2: "ask", 4: "last", 9: "close", 66: "bid", 67: "ask", 68: "last", 75: "close"}
_DELAYED_TICKS = frozenset({66, 67, 68, 75})
_LIVE_DATA = 1  # market data types: 1 live, 2 frozen, 3 delayed, 4 delayed frozen


@dataclass
class QuoteTicks:
    """The ticks of one market data request."""

    prices: dict[str, Decimal] = field(default_factory=dict)
    delayed: bool = False


@dataclass
class Listing:
    """The orders and executions that messages named since it was opened."""

    orders: set[OrderKey] = field(default_factory=set)
    executions: set[str] = field(default_factory=set)


class Journal:
    """Taps the library's wrapper. Used on the session's loop only.

    :ivar orders: by permId, as last reported.
    :ivar executions: by execId; the commission as soon as it came.
    :ivar order_errors: what went wrong with an order id of this session, oldest first; no notices.
    :ivar complaints: of the pace, of whatever kind of request, until somebody takes them.
    :ivar news: grows with all that is said unasked of orders, fills and holdings; `news_known` is what it was when all
        was asked for last.
    :ivar account_heard: when values of the account last came, on the monotonic clock.
    :ivar down: why the gateway has no session with IBKR at the moment, None while it has.
    :ivar failed: set when a connection attempt or the connection itself is lost, with the reason.
    """

    def __init__(self) -> None:
        self.orders: dict[OrderKey, BrokerOrder] = {}
        self.executions: dict[str, Execution] = {}
        self.order_errors: dict[int, list[BrokerError]] = {}
        self.complaints: deque[BrokerError] = deque()
        self.quotes: dict[int, QuoteTicks] = {}
        self.requests: dict[Hashable, asyncio.Future[Any]] = {}
        self.news = self.news_known = 0
        self.account_heard: float | None = None
        self.down: SessionInvalid | None = None
        self.failed: BrokerError | None = None
        self.greeted = False
        self._keys: dict[tuple[int, int], OrderKey] = {}
        self._commissions: dict[str, Any] = {}
        self._listings: list[Listing] = []
        self._pulse = asyncio.Event()

    def attach(self, client: Any) -> None:
        """Tap an `IB` object of the library; ours first, then the library's own handler."""
        wrapper = client.wrapper
        for name in ("connectAck", "managedAccounts", "error", "openOrder", "orderStatus"):
            setattr(wrapper, name, _chain(getattr(self, f"on_{name}"), getattr(wrapper, name)))
        for name in ("updateAccountValue", "updateAccountTime"):
            setattr(wrapper, name, _chain(self.on_account, getattr(wrapper, name)))
        for name in ("marketDataType", "updatePortfolio", "pnl"):
            setattr(wrapper, name, _chain(getattr(self, f"on_{name}"), getattr(wrapper, name)))
        # The library would keep trades and fills with events of their own of all orders of the day; nobody reads them.
        for name in ("completedOrder", "execDetails", "commissionReport"):
            setattr(wrapper, name, getattr(self, f"on_{name}"))
        # Market data is asked for here and nowhere else; the library would log each tick as unknown.
        wrapper.priceSizeTick = self.on_priceSizeTick
        wrapper.tickSize = _ignore
        client.client.apiError += self.on_lost
        client.client.conn.disconnected += self.on_lost

    # --- waiting ------------------------------------------------------------------------------------

    async def message(self, seconds: float, *, unless: asyncio.Future[Any] | None = None) -> None:
        """Return at the next message, after `seconds`, or when `unless` is done."""
        pulse = asyncio.ensure_future(self._pulse.wait())
        try:
            await asyncio.wait(
                {pulse, unless} if unless else {pulse}, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            pulse.cancel()

    @contextmanager
    def listing(self) -> Iterator[Listing]:
        """Note what is named by messages while it is open."""
        listing = Listing()
        self._listings.append(listing)
        try:
            yield listing
        finally:
            self._listings.remove(listing)

    def order(self, client_id: int, order_id: int, order_ref: str) -> BrokerOrder | None:
        """The order that was sent with this id and orderRef, if the broker has reported it."""
        return next(
            (
                order
                for order in self.orders.values()
                if (order.client_id, order.order_id, order.order_ref) == (client_id, order_id, order_ref)
            ),
            None,
        )

    def _wake(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()

    # --- the connection ---------------------------------------------------------------------------

    def on_connectAck(self) -> None:  # noqa: N802  the library's names, here and below
        self.greeted = True
        self._wake()

    def on_managedAccounts(self, accounts: str) -> None:  # noqa: N802
        if not accounts.strip(", "):
            self.failed = self.down = SessionInvalid(
                "The gateway names no account: it is not logged in to IBKR.",
                remedy="Log in to the gateway, or confirm the login that it waits for.",
            )
        self._wake()

    def on_lost(self, text: str) -> None:
        # Comes after an error message where there was one (326), which says more.
        if self.failed is None:
            self.failed = GatewayUnavailable(
                f"{text.rstrip('.') or 'the gateway closed the connection'}.",
                remedy="Check that the gateway runs and that it accepts API clients from this host.",
            )
        self._wake()

    def on_error(self, request_id: int, code: int, text: str, _advanced: str = "") -> None:
        if code in (1101, 1102):
            self.down = None
        if not is_notice(code):
            error = error_for(code, text)
            if is_rate_limit(error):
                self.complaints.append(error)
            self._sort_error(request_id, error)
        self._wake()

    def _sort_error(self, request_id: int, error: BrokerError) -> None:
        if isinstance(error, SessionInvalid):
            self.down = error
        elif request_id in self.order_errors:
            self.order_errors[request_id].append(error)
        elif request_id in self.requests:
            self._fail(self.requests[request_id], error)
        elif error.code in (326, 1300, 507):
            self.failed = error
        elif request_id < 0:
            if error.code == MESSAGE_RATE:
                self.failed = error  # the gateway hangs up behind it
            # No request is named; those that have no id of their own are the ones it can be about.
            for key, request in self.requests.items():
                if isinstance(key, str):
                    self._fail(request, error)

    @staticmethod
    def _fail(request: asyncio.Future[Any], error: BrokerError) -> None:
        if not request.done():
            request.set_exception(error)

    # --- orders ---------------------------------------------------------------------------------------

    def on_openOrder(self, order_id: int, contract: Any, order: Any, state: Any) -> None:  # noqa: N802
        if order.whatIf:
            return
        order.orderId = order.orderId or order_id
        new = to_order(contract, order, state)
        key = new.perm_id or (new.client_id, new.order_id)
        known = self._key(new.client_id, new.order_id, new.perm_id)
        if (old := self.orders.get(known)) is not None and old.order_ref == new.order_ref:
            del self.orders[known]  # it goes on under the permId that it has now
            # Fills are told by orderStatus alone, and so is an end: its quantities come right behind this message.
            # In the answer to a listing of open orders, being listed is the news.
            ended = old.status in TERMINAL_STATUSES or new.status in TERMINAL_STATUSES
            new = replace(
                new,
                status=old.status if ended and "openOrders" not in self.requests else new.status,
                filled=old.filled,
                remaining=new.quantity - old.filled,
                average_price=old.average_price,
            )
        self._note(key, new)

    def on_orderStatus(  # noqa: N802
        self, order_id: int, status: str, filled: float, remaining: float, average: float, perm_id: int, *rest: Any
    ) -> None:
        client_id = rest[2]  # parentId, lastFillPrice, clientId, ...
        key = self._key(client_id, order_id, perm_id)
        if (old := self.orders.get(key)) is None:
            return  # of an order that no openOrder message has named: the next listing has it
        new = replace(
            old,
            status=status,
            filled=to_decimal(filled),
            remaining=to_decimal(remaining),
            average_price=to_price(average),
            perm_id=perm_id or old.perm_id,
        )
        if new.perm_id and key != new.perm_id:
            del self.orders[key]
        self._note(new.perm_id or key, new)

    def _key(self, client_id: int, order_id: int, perm_id: int) -> OrderKey:
        """What an order is known by so far: this permId, or that which its ids were last reported with."""
        ids = (client_id, order_id)
        return perm_id if perm_id in self.orders else self._keys.get(ids, ids)

    def on_completedOrder(self, contract: Any, order: Any, state: Any) -> None:  # noqa: N802
        new = to_order(contract, order, state)
        if (old := self.orders.get(new.perm_id)) is not None:
            new = replace(new, order_id=old.order_id, client_id=old.client_id, average_price=old.average_price)
        self._note(new.perm_id, new)

    def _note(self, key: OrderKey, order: BrokerOrder) -> None:
        self.orders[key] = order
        if order.order_id:
            self._keys[order.client_id, order.order_id] = key
        for listing in self._listings:
            listing.orders.add(key)
        self._heard(unasked=self.requests.keys().isdisjoint(("openOrders", "completedOrders")))

    # --- executions -----------------------------------------------------------------------------------

    def on_execDetails(self, request_id: int, contract: Any, execution: Any) -> None:  # noqa: N802
        new = to_execution(contract, execution)
        self.executions[new.exec_id] = new
        for listing in self._listings:
            listing.executions.add(new.exec_id)
        if new.exec_id in self._commissions:
            self._add_commission(new.exec_id)
        self._heard(unasked=request_id not in self.requests)

    def on_updatePortfolio(self, *_holding: Any) -> None:  # noqa: N802
        """A fill of any client comes this way too; a client is told of the fills of its own orders only."""
        self._heard(unasked="accountValues" not in self.requests)

    def _heard(self, *, unasked: bool) -> None:
        self.news += unasked
        self._wake()

    def on_account(self, *_value: Any) -> None:
        """A value of the account, or the time that ends a round of them."""
        self.account_heard = time.monotonic()

    def on_pnl(self, request_id: int, daily: float, *_profits: float) -> None:
        """Comes once a second, and without a number until there is one."""
        request, profit = self.requests.get(request_id), to_optional(daily)
        if request is not None and not request.done() and profit is not None:
            request.set_result(profit)

    def on_commissionReport(self, report: Any) -> None:  # noqa: N802
        self._commissions[report.execId] = (
            to_decimal(report.commission),
            report.currency,
            to_optional(report.realizedPNL),
        )
        if report.execId in self.executions:
            self._add_commission(report.execId)
        self._wake()

    def _add_commission(self, exec_id: str) -> None:
        commission, currency, realized = self._commissions[exec_id]
        self.executions[exec_id] = replace(
            self.executions[exec_id], commission=commission, commission_currency=currency, realized_pnl=realized
        )

    # --- market data ----------------------------------------------------------------------------------

    def on_priceSizeTick(self, request_id: int, kind: int, price: float, _size: float) -> None:  # noqa: N802
        if (quote := self.quotes.get(request_id)) is None or (name := _PRICE_TICKS.get(kind)) is None:
            return
        quote.delayed = quote.delayed or kind in _DELAYED_TICKS
        # IBKR sends -1 (and 0 for an empty book) where there is no price.
        if price > 0:
            quote.prices[name] = to_decimal(price)
        self._wake()

    def on_marketDataType(self, request_id: int, kind: int) -> None:  # noqa: N802
        if (quote := self.quotes.get(request_id)) is not None:
            quote.delayed = quote.delayed or kind != _LIVE_DATA


def _chain(ours: Callable[..., None], theirs: Callable[..., None]) -> Callable[..., None]:
    def both(*args: Any) -> None:
        ours(*args)
        theirs(*args)

    return both


def _ignore(*_args: Any) -> None:
    """Sizes are not used."""
