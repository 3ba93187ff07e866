"""IBKR's own client, ibapi: the callbacks of its reader thread are noted, and waited for."""

from __future__ import annotations

import inspect
import itertools
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, TypeVar

from driver import Bar, ConnectionRefused, Details, Fill, Order, Position, Wanted
from ibapi import order as ibapi_order
from ibapi.client import EClient
from ibapi.contract import Contract
from ibapi.execution import ExecutionFilter
from ibapi.wrapper import EWrapper

SECONDS = 20
T = TypeVar("T")

_TICKS = {1: "bid", 2: "ask", 4: "last", 9: "close"}
_ENDED = ("Filled", "Cancelled", "Inactive")
_UNSET = 1.7976931348623157e308


class ShortReads:
    """A socket that never fills the buffer of a read.

    ibapi reads on until a read is shorter than its buffer; where the data end with a full one, it waits for a second
    and then drops all of it.
    """

    def __init__(self, real: Any) -> None:
        self._real = real

    def recv(self, size: int) -> bytes:
        return bytes(self._real.recv(size - 1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class App(EWrapper, EClient):
    """Notes every callback: `heard[name]` is a list of its arguments."""

    def __init__(self) -> None:
        EWrapper.__init__(self)
        EClient.__init__(self, self)
        self.news = threading.Condition()
        self.heard: dict[str, list[tuple[Any, ...]]] = defaultdict(list)

    def note(self, name: str, arguments: tuple[Any, ...]) -> None:
        with self.news:
            self.heard[name].append(arguments)
            self.news.notify_all()


def _noted(name: str) -> Callable[..., None]:
    return lambda self, *arguments: self.note(name, arguments)


for _name, _ in inspect.getmembers(EWrapper, inspect.isfunction):
    if not _name.startswith("_"):
        setattr(App, _name, _noted(_name))
# The older library has no time of an error; the newer one calls a commission "and fees", and cancels with a form.
_TIMED_ERRORS = "errorTime" in inspect.signature(EWrapper.error).parameters
_WITH_FEES = hasattr(EWrapper, "commissionAndFeesReport")


class IbapiDriver:
    """See `driver.Driver`."""

    def __init__(self) -> None:
        self.app = App()
        self._thread = threading.Thread(target=self.app.run, daemon=True)
        self._request_ids = itertools.count(1_000_000)
        self._order_ids: Iterator[int] = itertools.count(1)
        self._placed: dict[int, str] = {}

    # --- connection ------------------------------------------------------------------------------

    def connect(self, port: int, client_id: int) -> None:
        self.app.connect("127.0.0.1", port, client_id)
        self.app.conn.socket = ShortReads(self.app.conn.socket)
        self._thread.start()
        self.until(lambda: self.app.heard["nextValidId"] or not self.connected)
        if not self.connected:
            # What was read before the end may still be in its queue.
            self._thread.join(SECONDS)
            raise ConnectionRefused(self.errors)
        self._order_ids = itertools.count(self.app.heard["nextValidId"][0][0])

    def disconnect(self) -> None:
        # The connection is closed when nobody reads from it any more; its reader would look up once a second.
        threads = (self._thread, self.app.reader)
        if self.connected:
            self.app.conn.socket.shutdown(socket.SHUT_RDWR)
        self.app.disconnect()
        for thread in threads:
            if thread is not None and thread.is_alive():
                thread.join(SECONDS)

    @property
    def connected(self) -> bool:
        return bool(self.app.isConnected())

    @property
    def server_version(self) -> int:
        return int(self.app.serverVersion())

    @property
    def errors(self) -> list[tuple[int, int, str]]:
        skip = 1 if _TIMED_ERRORS else 0
        return [(args[0], args[1 + skip], args[2 + skip]) for args in list(self.app.heard["error"])]

    def accounts(self) -> list[str]:
        [[accounts]] = self.app.heard["managedAccounts"]
        return [name for name in accounts.split(",") if name]

    def until(self, condition: Callable[[], T]) -> T:
        with self.app.news:
            # Not all that is waited for is a callback: look again now and then.
            for _ in range(SECONDS * 20):
                if found := condition():
                    return found
                self.app.news.wait(0.05)
        raise AssertionError("the condition did not come true")

    def _ask(self, request: Callable[[int], None], end: str, *answers: str) -> list[tuple[Any, ...]]:
        """Send a request under a new id; the arguments of its answers when its end or an error has come."""
        number = next(self._request_ids)
        request(number)
        self.until(lambda: self._of(number, end) or any(error[0] == number for error in self.errors))
        return [arguments for name in answers for arguments in self._of(number, name)]

    def _of(self, number: int, name: str) -> list[tuple[Any, ...]]:
        return [arguments for arguments in list(self.app.heard[name]) if arguments[0] == number]

    def _list(self, request: Callable[[], None], end: str, answer: str) -> list[tuple[Any, ...]]:
        """Send a request that has no id; the arguments of its answers."""
        start, ends = len(self.app.heard[answer]), len(self.app.heard[end])
        request()
        self.until(lambda: len(self.app.heard[end]) > ends)
        return self.app.heard[answer][start:]

    # --- data ------------------------------------------------------------------------------------

    def server_time(self) -> int:
        [[now]] = self._list(self.app.reqCurrentTime, "currentTime", "currentTime")
        return int(now)

    def details(self, symbol: str, currency: str = "USD") -> list[Details]:
        def request(number: int) -> None:
            self.app.reqContractDetails(number, _stock(symbol, currency))

        return [
            Details(
                con_id=found.contract.conId,
                symbol=found.contract.symbol,
                primary_exchange=found.contract.primaryExchange,
                currency=found.contract.currency,
                min_tick=found.minTick,
                time_zone=found.timeZoneId,
                liquid_hours=found.liquidHours,
                ids={entry.tag: entry.value for entry in found.secIdList or ()},
            )
            for _, found in self._ask(request, "contractDetailsEnd", "contractDetails")
        ]

    def daily_bars(self, symbol: str, duration: str) -> list[Bar]:
        def request(number: int) -> None:
            self.app.reqHistoricalData(number, _stock(symbol), "", duration, "1 day", "TRADES", 1, 1, False, [])

        return [
            Bar(day=bar.date, open=bar.open, high=bar.high, low=bar.low, close=bar.close, volume=float(bar.volume))
            for _, bar in self._ask(request, "historicalDataEnd", "historicalData")
        ]

    def snapshot(self, symbol: str) -> dict[str, float]:
        def request(number: int) -> None:
            self.app.reqMktData(number, _stock(symbol), "", True, False, [])

        return _prices(self._ask(request, "tickSnapshotEnd", "tickPrice"))

    def open_stream(self, symbol: str) -> Any:
        number = next(self._request_ids)
        self.app.reqMktData(number, _stock(symbol), "", False, False, [])
        return number

    def stream_prices(self, stream: Any) -> dict[str, float]:
        return _prices(self._of(stream, "tickPrice"))

    def close_stream(self, stream: Any) -> None:
        self.app.cancelMktData(stream)

    # --- orders ------------------------------------------------------------------------------------

    def new_order_id(self) -> int:
        return next(self._order_ids)

    def place(self, symbol: str, wanted: Wanted) -> int:
        order_id = self.new_order_id()
        self._placed[order_id] = symbol
        self.app.placeOrder(order_id, _stock(symbol), _order(wanted))
        return order_id

    def modify(self, order_id: int, wanted: Wanted) -> None:
        self.app.placeOrder(order_id, _stock(self._placed[order_id]), _order(wanted))

    def cancel(self, order_id: int) -> None:
        self.app.cancelOrder(order_id, *_cancel_form())

    def cancel_all(self) -> None:
        self.app.reqGlobalCancel(*_cancel_form())

    def order(self, order_id: int) -> Order | None:
        shown, told = self._of(order_id, "openOrder"), self._of(order_id, "orderStatus")
        return _shown(*shown[-1], told[-1]) if shown and told else None

    def fills(self, order_id: int) -> list[Fill]:
        mine = (order_id, self.app.clientId)
        executed = list(self.app.heard["execDetails"])
        return self._fills(args for args in executed if (args[2].orderId, args[2].clientId) == mine)

    def what_if(self, symbol: str, wanted: Wanted) -> dict[str, float]:
        order_id, order = self.new_order_id(), _order(wanted)
        order.whatIf = True
        self.app.placeOrder(order_id, _stock(symbol), order)
        *_, state = self.until(lambda: self._of(order_id, "openOrder"))[-1]
        fee = state.commissionAndFees if _WITH_FEES else state.commission
        return {"init_margin_change": float(state.initMarginChange), "commission": fee}

    def open_orders(self, *, everyone: bool) -> list[Order]:
        request = self.app.reqAllOpenOrders if everyone else self.app.reqOpenOrders
        told = len(self.app.heard["orderStatus"])
        # News of other orders may come among the answers; what an order is told last is how it stands.
        shown = {order[2].permId: order for order in self._list(request, "openOrderEnd", "openOrder")}
        statuses = {status[5]: status for status in self.app.heard["orderStatus"][told:]}
        orders = [_shown(*order, statuses[perm_id]) for perm_id, order in shown.items()]
        return [order for order in orders if order.status not in _ENDED]

    def completed_orders(self) -> list[Order]:
        ended = self._list(lambda: self.app.reqCompletedOrders(False), "completedOrdersEnd", "completedOrder")
        return [_shown(0, contract, order, state, None) for contract, order, state in ended]

    def executions(self, symbol: str = "", side: str = "", client_id: int = 0) -> list[Fill]:
        wanted = ExecutionFilter()
        wanted.symbol, wanted.side, wanted.clientId = symbol, side, client_id

        def request(number: int) -> None:
            self.app.reqExecutions(number, wanted)

        return self._fills(iter(self._ask(request, "execDetailsEnd", "execDetails")))

    def _fills(self, executed: Iterator[tuple[Any, ...]]) -> list[Fill]:
        name = "commissionAndFeesReport" if _WITH_FEES else "commissionReport"
        reports = {report.execId: report for [report] in list(self.app.heard[name])}
        return [_fill(contract, execution, reports.get(execution.execId)) for _, contract, execution in executed]

    # --- account -----------------------------------------------------------------------------------

    def positions(self) -> list[Position]:
        held = self._list(self.app.reqPositions, "positionEnd", "position")
        self.app.cancelPositions()
        return [
            Position(symbol=contract.symbol, quantity=float(quantity), average_cost=cost)
            for _, contract, quantity, cost in held
        ]

    def account_values(self) -> dict[str, str]:
        def request() -> None:
            self.app.reqAccountUpdates(True, "")

        values = self._list(request, "accountDownloadEnd", "updateAccountValue")
        self.app.reqAccountUpdates(False, "")
        return {key: value for key, value, currency, _ in values if currency in ("", "USD")}

    def account_summary(self, *tags: str) -> dict[str, str]:
        def request(number: int) -> None:
            self.app.reqAccountSummary(number, "All", ",".join(tags))

        values = self._ask(request, "accountSummaryEnd", "accountSummary")
        self.app.cancelAccountSummary(values[0][0])
        return {tag: value for _, _, tag, value, _ in values if tag in tags}

    def profit(self) -> dict[str, float]:
        [account] = self.accounts()

        def request(number: int) -> None:
            self.app.reqPnL(number, account, "")

        number, daily, unrealized, realized = self._ask(request, "pnl", "pnl")[-1]
        self.app.cancelPnL(number)
        return {"daily": daily, "unrealized": unrealized, "realized": realized}


def _cancel_form() -> list[Any]:
    """The newer library wants one to cancel an order."""
    if len(inspect.signature(EClient.cancelOrder).parameters) == 2:
        return []
    from ibapi.order_cancel import OrderCancel

    return [OrderCancel()]


def _stock(symbol: str, currency: str = "USD") -> Contract:
    contract = Contract()
    contract.symbol, contract.secType, contract.exchange, contract.currency = symbol, "STK", "SMART", currency
    return contract


def _order(wanted: Wanted) -> Any:
    order = ibapi_order.Order()
    order.action, order.totalQuantity, order.orderType = wanted.action, Decimal(wanted.quantity), wanted.kind
    order.tif, order.orderRef, order.parentId, order.transmit = wanted.tif, wanted.ref, wanted.parent, wanted.transmit
    if wanted.limit is not None:
        order.lmtPrice = wanted.limit
    if wanted.stop is not None:
        order.auxPrice = wanted.stop
    # The older library sets these two unasked; a real TWS refuses them since 2021 (10268).
    order.eTradeOnly = order.firmQuoteOnly = False
    return order


def _prices(ticks: list[tuple[Any, ...]]) -> dict[str, float]:
    return {_TICKS[kind]: price for _, kind, price, _ in ticks if kind in _TICKS}


def _price(value: float) -> float:
    return 0.0 if value == _UNSET else value


def _shown(order_id: int, contract: Any, order: Any, state: Any, status: tuple[Any, ...] | None) -> Order:
    return Order(
        order_id=order_id,
        perm_id=order.permId,
        client_id=order.clientId,
        ref=order.orderRef,
        symbol=contract.symbol,
        action=order.action,
        quantity=float(order.totalQuantity),
        kind=order.orderType,
        limit=_price(order.lmtPrice),
        stop=_price(order.auxPrice),
        tif=order.tif,
        parent=order.parentId,
        status=status[1] if status else state.status,
        filled=float(status[2]) if status else float(order.filledQuantity),
        average=float(status[4]) if status else 0.0,
    )


def _fill(contract: Any, execution: Any, report: Any) -> Fill:
    fee = None if report is None else report.commissionAndFees if _WITH_FEES else report.commission
    return Fill(
        exec_id=execution.execId,
        order_id=execution.orderId,
        perm_id=execution.permId,
        client_id=execution.clientId,
        ref=execution.orderRef,
        symbol=contract.symbol,
        side=execution.side,
        shares=float(execution.shares),
        price=execution.price,
        commission=fee,
        currency=None if report is None else report.currency,
    )
