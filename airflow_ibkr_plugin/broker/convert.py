"""From the client library's objects to this package's values. Pure."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.trading.bars import Bar
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.portfolio import Position

# IBKR sends the largest double where a field has no value. Source: TWS API, UNSET_DOUBLE.
_UNSET = 1e300
# An execution of an order by hand comes with this for its order id. Source: TWS API, UNSET_INTEGER.
_UNSET_ID = 2**31 - 1


def to_decimal(value: Any) -> Decimal:
    """A number as the library parsed it (float or int) as the shortest decimal that reads back the same."""
    number = float(value)
    return Decimal(int(number)) if number.is_integer() else Decimal(repr(number))


def to_optional(value: Any) -> Decimal | None:
    """The same; None where IBKR has no value."""
    number = float(value) if value is not None else math.nan
    return None if math.isnan(number) or abs(number) > _UNSET else to_decimal(number)


def to_price(value: Any) -> Decimal | None:
    """The same for a price of an order or a fill, where IBKR writes 0 for none."""
    return to_optional(value) or None


def contract_of(library: Any, what: InstrumentSpec) -> Any:
    """The library's contract for a request: by conId where it is pinned, else by the fields of the spec."""
    return library.Contract(
        conId=what.con_id if isinstance(what, Instrument) else 0,
        symbol=what.symbol,
        secType=str(what.sec_type),
        exchange=what.exchange,
        primaryExchange=what.primary_exchange,
        currency=what.currency,
    )


def name_of(contract: Any) -> str:
    """What people call the instrument: `SPY`, `EUR.USD`. As :attr:`InstrumentSpec.name`."""
    return f"{contract.symbol}.{contract.currency}" if contract.secType == "CASH" else str(contract.symbol)


def order_of(library: Any, ticket: OrderTicket, *, order_ref: str, account: str) -> Any:
    """The library's order for a ticket. Decimals go out as they are, written without an exponent."""
    order = library.Order(
        action=str(ticket.side),
        totalQuantity=_plain(ticket.quantity),
        orderType=str(ticket.order_type),
        tif=str(ticket.tif),
        outsideRth=ticket.outside_rth,
        orderRef=order_ref,
        account=account,
    )
    if ticket.limit_price is not None:
        order.lmtPrice = _plain(ticket.limit_price)
    if ticket.order_type is OrderType.TRAIL:
        # Its distance stands where other types have their stop price. Source: TWS API, "Order Types", trailing stop.
        if ticket.trail_amount is not None:
            order.auxPrice = _plain(ticket.trail_amount)
        if ticket.trail_percent is not None:
            order.trailingPercent = _plain(ticket.trail_percent)
        if ticket.stop_price is not None:
            order.trailStopPrice = _plain(ticket.stop_price)
    elif ticket.stop_price is not None:
        order.auxPrice = _plain(ticket.stop_price)
    return order


def _plain(value: Decimal) -> Decimal:
    return Decimal(f"{value:f}")


def to_instrument(details: Any, spec: InstrumentSpec) -> Instrument:
    """A contract's details as the instrument that `spec` is pinned to. The exchange stays the one to route to."""
    contract = details.contract
    return Instrument(
        symbol=spec.symbol,
        sec_type=spec.sec_type,
        exchange=spec.exchange,
        currency=contract.currency,
        primary_exchange=contract.primaryExchange,
        con_id=contract.conId,
        min_tick=to_decimal(details.minTick),
        size_increment=to_decimal(details.sizeIncrement or 1),
        min_size=to_decimal(details.minSize or 1),
        local_symbol=contract.localSymbol,
        trading_class=contract.tradingClass,
        long_name=details.longName,
        time_zone=details.timeZoneId,
        trading_hours=details.tradingHours,
        liquid_hours=details.liquidHours,
    )


def to_bar(raw: Any) -> Bar:
    """A historical bar; days come as dates, intraday bars as aware times (formatDate=2)."""
    start = raw.date
    if not isinstance(start, datetime):
        start = midnight(start)
    return Bar(
        time=start.astimezone(UTC),
        open=raw.open,
        high=raw.high,
        low=raw.low,
        close=raw.close,
        # IBKR writes -1 where a series has no volume, such as MIDPOINT.
        volume=max(float(raw.volume), 0.0),
        wap=max(float(raw.average), 0.0),
        count=max(int(raw.barCount), 0),
    )


def midnight(day: date) -> datetime:
    """Midnight UTC of a date, aware."""
    return datetime.combine(day, time(), UTC)


def to_position(raw: Any, valued: Any | None) -> Position:
    """A position; `valued` is the same one of the account's portfolio, where it has been sent."""
    return Position(
        account=raw.account,
        con_id=raw.contract.conId,
        symbol=name_of(raw.contract),
        quantity=to_decimal(raw.position),
        average_cost=to_decimal(raw.avgCost),
        currency=raw.contract.currency,
        sec_type=raw.contract.secType,
        market_price=to_optional(valued.marketPrice) if valued else None,
        market_value=to_optional(valued.marketValue) if valued else None,
        unrealized_pnl=to_optional(valued.unrealizedPNL) if valued else None,
        realized_pnl=to_optional(valued.realizedPNL) if valued else None,
    )


def to_order(contract: Any, order: Any, state: Any) -> BrokerOrder:
    """An openOrder or completedOrder message. Completed orders have no order id and no client id of their own."""
    filled = to_optional(order.filledQuantity) or Decimal(0)
    # A completed order may come with quantity 0 beside what it filled.
    quantity = max(to_decimal(order.totalQuantity), filled)
    return BrokerOrder(
        order_ref=order.orderRef,
        account=order.account,
        con_id=contract.conId,
        side=Side(order.action),
        quantity=quantity,
        order_type=order.orderType,
        status=state.status,
        filled=filled,
        remaining=quantity - filled,
        perm_id=order.permId,
        order_id=order.orderId,
        client_id=order.clientId if order.orderId else -1,
        limit_price=to_price(order.lmtPrice) if "LMT" in order.orderType else None,
        stop_price=_stop_price(order),
        tif=order.tif,
        reason=state.completedStatus if state.status != "Filled" else "",
    )


def _stop_price(order: Any) -> Decimal | None:
    """Of a trailing order, where its stop has come to."""
    if "TRAIL" in order.orderType:
        return to_price(order.trailStopPrice)
    return to_price(order.auxPrice) if "STP" in order.orderType else None


def to_execution(contract: Any, execution: Any) -> Execution:
    """An execDetails message; its commission comes in another."""
    return Execution(
        exec_id=execution.execId,
        order_ref=execution.orderRef,
        account=execution.acctNumber,
        con_id=contract.conId,
        symbol=name_of(contract),
        side=Side.BUY if execution.side == "BOT" else Side.SELL,
        quantity=to_decimal(execution.shares),
        price=to_decimal(execution.price),
        time=execution.time.astimezone(UTC),
        perm_id=execution.permId,
        order_id=0 if execution.orderId == _UNSET_ID else execution.orderId,
        client_id=execution.clientId,
        exchange=execution.exchange,
    )
