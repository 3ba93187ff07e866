"""Orders and executions as wire messages."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import EASTERN, tws_time
from airflow_ibkr_plugin.simulator.orders.book import CANCELLED, TRAILING, Execution, Order
from airflow_ibkr_plugin.simulator.wire import tables_out as out
from airflow_ibkr_plugin.simulator.wire.fields import UNSET_DOUBLE, UNSET_INT
from airflow_ibkr_plugin.simulator.wire.tables_orders import COMPLETED_ORDER, OPEN_ORDER

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Session
    from airflow_ibkr_plugin.simulator.orders.ticket import Ticket

# From this version on execution times carry their zone; before, two spaces and the gateway's zone.
_ZONED_TIMES = 174
# TWS computes average prices as doubles; a quotient is not written longer than one.
_AVERAGE_UNIT = Decimal("0.00000001")


def order_fields(order: Order, instrument: Instrument, account: str) -> dict[str, Any]:
    """Fields that openOrder and completedOrder share."""
    return (
        instrument.wire()
        | {name: value for name, value in order.fields.items() if value is not None}
        | {
            "action": order.action,
            "quantity": order.quantity,
            "orderType": order.order_type,
            "lmtPrice": java_double(order.limit_price),
            "auxPrice": java_double(order.trail_amount if order.order_type in TRAILING else order.stop_price),
            "tif": order.tif,
            "account": account,
            "permId": order.perm_id,
            "outsideRth": order.outside_hours,
            "status": order.status,
        }
        | _oca_fields(order)
        | _trail_fields(order)
    )


def _oca_fields(order: Order) -> dict[str, Any]:
    return {"ocaGroup": order.oca_group, "ocaType": order.oca_type} if order.oca_group else {}


def _trail_fields(order: Order) -> dict[str, Any]:
    if order.order_type not in TRAILING:
        return {}
    given = {
        "trailStopPrice": order.stop_price,
        "adjustedTrailStopPrice": order.stop_price,
        "trailingPercent": order.trail_percent,
        "lmtPriceOffset": order.limit_offset,
    }
    return {name: java_double(value) for name, value in given.items() if value is not None}


def open_order_fields(
    order: Order, instrument: Instrument, account: str, execution: Execution | None = None
) -> dict[str, Any]:
    """Fields of an openOrder message; with a fill, its commission too."""
    fields = order_fields(order, instrument, account) | {
        "orderId": order.order_id,
        "clientId": order.client_id,
        "parentId": order.parent_id,
        "sharesAllocation": f"{order.perm_id}.0/{account}/{java_number(order.quantity)}",
    }
    if execution is not None:
        fields |= {"commission": execution.commission, "commissionCurrency": execution.commission_currency}
    return fields


def completed_order_fields(order: Order, instrument: Instrument, account: str) -> dict[str, Any]:
    """Fields of a completedOrder message."""
    return order_fields(order, instrument, account) | {
        **({"parentPermId": order.parent_perm_id} if order.parent_perm_id else {}),
        "filledQuantity": order.filled,
        "completedTrailStopPrice": java_double(order.stop_price) if order.stop_price else UNSET_DOUBLE,
        "shareholder": "Not an insider or substantial shareholder",
        "completedTime": tws_time(order.ended or order.placed, EASTERN, "US/Eastern"),
        "completedStatus": order.end_reason,
    }


def execution_fields(execution: Execution, instrument: Instrument, account: str, version: int) -> dict[str, Any]:
    """Fields of an execDetails message, without its request id."""
    when = tws_time(execution.time, EASTERN, "US/Eastern")
    if version < _ZONED_TIMES:
        day, clock, _ = when.split(" ")
        when = f"{day}  {clock}"
    return instrument.wire() | {
        # Executions of manual orders have no order id.
        "orderId": execution.order_id or UNSET_INT,
        "exchange": execution.exchange,
        "execId": execution.exec_id,
        "time": when,
        "account": account,
        "execExchange": execution.exchange,
        "side": execution.side,
        "shares": execution.shares,
        "price": execution.price,
        "permId": execution.perm_id,
        "clientId": execution.client_id,
        "cumQty": execution.cumulative,
        "avgPrice": _average(execution.avg_price),
        "orderRef": execution.order_ref,
        "lastLiquidity": 2,
    }


def status_fields(order: Order) -> dict[str, Any]:
    """Fields of an orderStatus message."""
    return {
        "orderId": order.order_id,
        "status": order.status,
        "filled": order.filled,
        "remaining": order.remaining,
        "avgFillPrice": _average(order.avg_price),
        "permId": order.perm_id,
        "parentId": order.parent_id,
        "lastFillPrice": order.last_price,
        "clientId": order.client_id,
        "whyHeld": order.why_held,
    }


def api_cancelled_fields(ticket: Ticket) -> dict[str, Any]:
    """Fields of the orderStatus of an order that was cancelled before it was transmitted."""
    return {
        "orderId": ticket.order_id,
        "status": "ApiCancelled",
        "filled": Decimal(0),
        "remaining": ticket.fields["quantity"],
        "avgFillPrice": Decimal(0),
        "permId": 0,
        "parentId": ticket.parent_id,
        "lastFillPrice": Decimal(0),
        "clientId": ticket.client_id,
    }


def send_open_order(session: Session, order: Order, execution: Execution | None = None) -> None:
    """An order's openOrder and orderStatus; a cancelled one is told by its status alone."""
    gateway = session.gateway
    instrument = gateway.instrument(order.con_id)
    if order.status != CANCELLED:
        session.send(OPEN_ORDER, **open_order_fields(order, instrument, gateway.code(order.account), execution))
    session.send(out.ORDER_STATUS, **status_fields(order))


def send_order_bound(session: Session, order: Order) -> None:
    """A manual order has got an order id."""
    session.send(out.ORDER_BOUND, permId=order.perm_id, clientId=order.client_id, orderId=order.order_id)


def send_completed_order(session: Session, order: Order) -> None:
    """An ended order's completedOrder."""
    instrument = session.gateway.instrument(order.con_id)
    account = session.gateway.code(order.account)
    session.send(COMPLETED_ORDER, **completed_order_fields(order, instrument, account))


def send_execution(session: Session, execution: Execution, *, request: int) -> None:
    """A fill's execDetails; `request` is -1 when nobody asked."""
    instrument = session.gateway.instrument(execution.con_id)
    account = session.gateway.code(execution.account)
    fields = execution_fields(execution, instrument, account, session.version)
    session.send(out.EXEC_DETAILS, reqId=request, **fields)


def send_commission(session: Session, execution: Execution) -> None:
    """A fill's commissionReport."""
    realized = {} if execution.realized is None else {"realizedPNL": java_double(execution.realized)}
    session.send(
        out.COMMISSION_REPORT,
        execId=execution.exec_id,
        commission=float(execution.commission),
        currency=execution.commission_currency,
        **realized,
    )


def java_double(value: Decimal | None) -> str:
    """A price as Java writes a double: always with a fraction."""
    return repr(float(value)) if value is not None else "0.0"


def _average(price: Decimal) -> Decimal:
    return price.quantize(_AVERAGE_UNIT)


def java_number(value: Decimal) -> str:
    """A quantity without a needless fraction."""
    return format(value.normalize(), "f")
