"""ib_insync and ib_async: one driver, for they share their interface."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from driver import Bar, ConnectionRefused, Details, Fill, Order, Position, Wanted

library: Any = importlib.import_module("ib_async" if importlib.util.find_spec("ib_async") else "ib_insync")

SECONDS = 20
T = TypeVar("T")


class InsyncDriver:
    """See `driver.Driver`."""

    #: All clients of the process share it: both libraries work on the thread's own loop.
    _loop = asyncio.new_event_loop()

    def __init__(self) -> None:
        asyncio.set_event_loop(self._loop)
        self.ib = library.IB()
        self.ib.RequestTimeout = SECONDS
        self.errors: list[tuple[int, int, str]] = []
        self.ib.errorEvent += lambda request, code, text, contract: self.errors.append((request, code, text))
        self._trades: dict[int, Any] = {}

    # --- connection ------------------------------------------------------------------------------

    def connect(self, port: int, client_id: int) -> None:
        try:
            self.ib.connect("127.0.0.1", port, clientId=client_id, timeout=4)
        except (TimeoutError, ConnectionError) as error:
            raise ConnectionRefused(self.errors) from error

    def disconnect(self) -> None:
        self.ib.disconnect()

    @property
    def connected(self) -> bool:
        return bool(self.ib.isConnected())

    @property
    def server_version(self) -> int:
        return int(self.ib.client.serverVersion())

    def accounts(self) -> list[str]:
        return list(self.ib.managedAccounts())

    def until(self, condition: Callable[[], T]) -> T:
        deadline = time.monotonic() + SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, "the condition did not come true"
            # Not `ib.sleep`: it raises when any client of the process loses its connection.
            self._loop.run_until_complete(asyncio.sleep(0.01))
        return found

    # --- data ------------------------------------------------------------------------------------

    def server_time(self) -> int:
        return int(self.ib.reqCurrentTime().timestamp())

    def details(self, symbol: str, currency: str = "USD") -> list[Details]:
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
            for found in self.ib.reqContractDetails(library.Stock(symbol, "SMART", currency))
        ]

    def _stock(self, symbol: str) -> Any:
        # ib_async takes only contracts whose conId is known for a key.
        [contract] = self.ib.qualifyContracts(library.Stock(symbol, "SMART", "USD"))
        return contract

    def daily_bars(self, symbol: str, duration: str) -> list[Bar]:
        bars = self.ib.reqHistoricalData(self._stock(symbol), "", duration, "1 day", "TRADES", useRTH=True)
        return [
            Bar(day=f"{bar.date:%Y%m%d}", open=bar.open, high=bar.high, low=bar.low, close=bar.close, volume=bar.volume)
            for bar in bars
        ]

    def snapshot(self, symbol: str) -> dict[str, float]:
        [ticker] = self.ib.reqTickers(self._stock(symbol))
        return _prices(ticker)

    def open_stream(self, symbol: str) -> Any:
        return self.ib.reqMktData(self._stock(symbol))

    def stream_prices(self, stream: Any) -> dict[str, float]:
        return _prices(stream)

    def close_stream(self, stream: Any) -> None:
        self.ib.cancelMktData(stream.contract)

    # --- orders ------------------------------------------------------------------------------------

    def new_order_id(self) -> int:
        return int(self.ib.client.getReqId())

    def place(self, symbol: str, wanted: Wanted) -> int:
        order = _order(wanted)
        order.orderId = self.new_order_id()
        self._trades[order.orderId] = self.ib.placeOrder(self._stock(symbol), order)
        return int(order.orderId)

    def modify(self, order_id: int, wanted: Wanted) -> None:
        trade = self._trades[order_id]
        order = _order(wanted)
        order.orderId = order_id
        order.permId = trade.order.permId
        self._trades[order_id] = self.ib.placeOrder(trade.contract, order)

    def cancel(self, order_id: int) -> None:
        self.ib.cancelOrder(self._trades[order_id].order)

    def cancel_all(self) -> None:
        self.ib.reqGlobalCancel()

    def order(self, order_id: int) -> Order | None:
        trade = self._trades[order_id]
        return _shown(trade) if trade.order.permId or trade.orderStatus.permId else None

    def fills(self, order_id: int) -> list[Fill]:
        return [_fill(fill) for fill in self._trades[order_id].fills]

    def what_if(self, symbol: str, wanted: Wanted) -> dict[str, float]:
        state = self.ib.whatIfOrder(self._stock(symbol), _order(wanted))
        return {"init_margin_change": float(state.initMarginChange), "commission": float(state.commission)}

    def open_orders(self, *, everyone: bool) -> list[Order]:
        trades = self.ib.reqAllOpenOrders() if everyone else self.ib.reqOpenOrders()
        return [_shown(trade) for trade in trades]

    def completed_orders(self) -> list[Order]:
        return [_shown(trade) for trade in self.ib.reqCompletedOrders(apiOnly=False)]

    def executions(self, symbol: str = "", side: str = "", client_id: int = 0) -> list[Fill]:
        wanted = library.ExecutionFilter(clientId=client_id, symbol=symbol, side=side)
        answered = [fill.execution.execId for fill in self.ib.reqExecutions(wanted)]
        # A fill that was known before is answered by a copy, which never gets its commission.
        return [_fill(fill) for fill in self.ib.fills() if fill.execution.execId in answered]

    # --- account -----------------------------------------------------------------------------------

    def positions(self) -> list[Position]:
        self.ib.reqPositions()
        return [
            Position(symbol=held.contract.symbol, quantity=held.position, average_cost=held.avgCost)
            for held in self.ib.positions()
        ]

    def account_values(self) -> dict[str, str]:
        return {item.tag: item.value for item in self.ib.accountValues() if item.currency in ("", "USD")}

    def account_summary(self, *tags: str) -> dict[str, str]:
        return {item.tag: item.value for item in self.ib.accountSummary() if item.tag in tags}

    def profit(self) -> dict[str, float]:
        [account] = self.accounts()
        pnl = self.ib.reqPnL(account)
        self.until(lambda: not math.isnan(pnl.dailyPnL))
        self.ib.cancelPnL(account)
        return {"daily": pnl.dailyPnL, "unrealized": pnl.unrealizedPnL, "realized": pnl.realizedPnL}


def _order(wanted: Wanted) -> Any:
    order = library.Order(
        action=wanted.action,
        totalQuantity=wanted.quantity,
        orderType=wanted.kind,
        tif=wanted.tif,
        orderRef=wanted.ref,
        parentId=wanted.parent,
        transmit=wanted.transmit,
    )
    if wanted.limit is not None:
        order.lmtPrice = wanted.limit
    if wanted.stop is not None:
        order.auxPrice = wanted.stop
    return order


def _prices(ticker: Any) -> dict[str, float]:
    names = ("bid", "ask", "last", "close")
    return {name: getattr(ticker, name) for name in names if not math.isnan(getattr(ticker, name))}


def _price(value: float) -> float:
    return 0.0 if value == library.util.UNSET_DOUBLE else float(value)


def _shown(trade: Any) -> Order:
    order, status = trade.order, trade.orderStatus
    return Order(
        order_id=order.orderId,
        perm_id=order.permId or status.permId,
        client_id=order.clientId,
        ref=order.orderRef,
        symbol=trade.contract.symbol,
        action=order.action,
        quantity=float(order.totalQuantity),
        kind=order.orderType,
        limit=_price(order.lmtPrice),
        stop=_price(order.auxPrice),
        tif=order.tif,
        status=status.status,
        parent=order.parentId,
        # A completed order has no status of its own; it says itself what was filled.
        filled=float(status.filled or _price(order.filledQuantity)),
        average=float(status.avgFillPrice),
    )


def _fill(fill: Any) -> Fill:
    execution, report = fill.execution, fill.commissionReport
    return Fill(
        exec_id=execution.execId,
        order_id=execution.orderId,
        perm_id=execution.permId,
        client_id=execution.clientId,
        ref=execution.orderRef,
        symbol=fill.contract.symbol,
        side=execution.side,
        shares=float(execution.shares),
        price=execution.price,
        commission=report.commission if report.execId else None,
        currency=report.currency if report.execId else None,
    )
