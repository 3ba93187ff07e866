from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ib_insync as ibi
import pytest

Seen = list[tuple[int, int]]


@pytest.fixture
def seen(ib: ibi.IB) -> Seen:
    """Errors with their id."""
    found: Seen = []
    ib.errorEvent += lambda request, code, text, contract: found.append((request, code))
    return found


@pytest.fixture
def apple(ib: ibi.IB) -> ibi.Contract:
    return ib.qualifyContracts(ibi.Stock("AAPL", "SMART", "USD"))[0]


@pytest.fixture
def coke(ib: ibi.IB) -> ibi.Contract:
    """A share so cheap that the account can buy more than a second offers."""
    return ib.qualifyContracts(ibi.Stock("KO", "SMART", "USD"))[0]


@pytest.fixture
def quote(ib: ibi.IB) -> Callable[[ibi.Contract], ibi.Ticker]:
    """What the market shows."""
    return lambda contract: ib.reqTickers(contract)[0]


@pytest.fixture
def place(ib: ibi.IB, apple: ibi.Contract, until: Any) -> Callable[..., ibi.Trade]:
    """Place an order, for the day unless it says otherwise; wait for its permId, or for an error about it."""

    def place_one(order: ibi.Order, contract: ibi.Contract | None = None) -> ibi.Trade:
        order.tif = order.tif or "DAY"
        trade = ib.placeOrder(contract or apple, order)
        until(lambda: trade.orderStatus.permId or trade.isDone())
        return trade

    return place_one


@pytest.fixture
def bracket(ib: ibi.IB, until: Any) -> Callable[..., list[ibi.Trade]]:
    """Place ib_insync's bracket: parent, take-profit, stop-loss; wait until all are known."""

    def place_one(contract: ibi.Contract, entry: float, profit: float, loss: float, **fields: Any) -> list[ibi.Trade]:
        orders = ib.bracketOrder("BUY", fields.pop("quantity", 100), entry, profit, loss, **{"tif": "GTC"} | fields)
        trades = [ib.placeOrder(contract, order) for order in orders]
        until(lambda: all(trade.orderStatus.permId for trade in trades))
        return trades

    return place_one


@pytest.fixture
def wire(ib: ibi.IB) -> list[list[str]]:
    """The order messages that the client gets, as they come."""
    messages: list[list[str]] = []
    interpret = ib.client.decoder.interpret

    def note(fields: list[str]) -> None:
        if fields[0] in ("3", "5", "11", "59", "100"):
            messages.append(list(fields))
        interpret(fields)

    ib.client.decoder.interpret = note  # type: ignore[method-assign]
    return messages
