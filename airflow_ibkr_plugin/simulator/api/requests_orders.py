"""Requests about orders and executions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.api import order_messages
from airflow_ibkr_plugin.simulator.api.requests_contracts import one_contract
from airflow_ibkr_plugin.simulator.market.history_query import BadRequest, parse_moment
from airflow_ibkr_plugin.simulator.orders.book import MANUAL_CLIENT, Execution, Order
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, invalid
from airflow_ibkr_plugin.simulator.wire import tables_out as out
from airflow_ibkr_plugin.simulator.wire.tables_orders import OPEN_ORDER

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session
    from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
    from airflow_ibkr_plugin.simulator.orders.ticket import Ticket


def place_order(session: Session, values: dict[str, Any]) -> None:
    client, order_id = session.client_id, values["orderId"]
    # Negative ids are those that manual orders are bound to.
    if client is None or order_id is None or (order_id < 0 and session.gateway.book.get(client, order_id) is None):
        raise invalid(f"Order id {order_id} cannot be used")
    instrument = one_contract(session, values)
    if values["whatIf"]:
        _what_if(session, instrument, values)
    else:
        session.desk.place(client, order_id, instrument, values)


def _what_if(session: Session, instrument: Instrument, values: dict[str, Any]) -> None:
    order, state = session.desk.preview(session.client_id or 0, values["orderId"], instrument, values)
    fields = order_messages.open_order_fields(order, instrument, session.gateway.code(order.account))
    session.send(OPEN_ORDER, **fields | {"sharesAllocation": "", "whatIf": True} | state)


def cancel_order(session: Session, values: dict[str, Any]) -> None:
    assert session.client_id is not None
    _tell_cancelled(session, session.desk.cancel(session.client_id, values["orderId"]))


def global_cancel(session: Session, values: dict[str, Any]) -> None:
    _tell_cancelled(session, session.desk.cancel_all())


def _tell_cancelled(session: Session, tickets: list[Ticket]) -> None:
    """Orders that were never transmitted have no permId; each is news to its own client."""
    for ticket in tickets:
        if (owner := session.simulator.clients.client(ticket.client_id)) is not None:
            owner.send(out.ORDER_STATUS, **order_messages.api_cancelled_fields(ticket))


def open_orders(session: Session, values: dict[str, Any]) -> None:
    """The client's own orders; client 0 binds the manual ones among its own."""
    session.desk.step()
    orders = session.gateway.book.working(session.client_id)
    _bind(session, orders)
    _send_open(session, orders)


def all_open_orders(session: Session, values: dict[str, Any]) -> None:
    session.desk.step()
    _send_open(session, session.gateway.book.working())


def auto_open_orders(session: Session, values: dict[str, Any]) -> None:
    if session.client_id != MANUAL_CLIENT:
        raise Refusal(327, "Only API connections with clientId set to 0 can set the auto bind TWS orders property.")
    session.desk.auto_bind = values["autoBind"]


def _bind(session: Session, orders: list[Order]) -> None:
    for order in session.desk.bind(orders):
        order_messages.send_order_bound(session, order)


def _send_open(session: Session, orders: list[Order]) -> None:
    for order in orders:
        order_messages.send_open_order(session, order)
    session.send(out.OPEN_ORDER_END)


def completed_orders(session: Session, values: dict[str, Any]) -> None:
    session.desk.step()
    for order in session.gateway.book.ended(session.gateway.today):
        if values["apiOnly"] and order.is_manual:
            continue
        order_messages.send_completed_order(session, order)
    session.send(out.COMPLETED_ORDERS_END)


def executions(session: Session, values: dict[str, Any]) -> None:
    """The day's fills of all clients that the filter lets through, each with its commission."""
    session.desk.step()
    try:
        since = parse_moment(values["time"], session.gateway.clock.time(), "Start") or 0.0
    except BadRequest:
        raise invalid(f"Invalid execution filter time {values['time']!r}") from None
    for execution in session.gateway.book.executions(session.gateway.today):
        if execution.time >= since and _matches(session, execution, values):
            order_messages.send_execution(session, execution, request=values["reqId"])
            order_messages.send_commission(session, execution)
    session.send(out.EXEC_DETAILS_END, reqId=values["reqId"])


def _matches(session: Session, execution: Execution, wanted: dict[str, Any]) -> bool:
    instrument = session.gateway.instrument(execution.con_id)
    return (
        (not wanted["clientId"] or wanted["clientId"] == execution.client_id)
        and wanted["account"] in ("", session.gateway.code(execution.account))
        and wanted["symbol"].upper() in ("", instrument.symbol)
        and wanted["secType"] in ("", instrument.sec_type)
        and wanted["exchange"] in ("", execution.exchange)
        and wanted["side"].upper() in ("", execution.side, "BUY" if execution.side == "BOT" else "SELL")
    )


HANDLERS: dict[str, Handler] = {
    "placeOrder": place_order,
    "cancelOrder": cancel_order,
    "reqGlobalCancel": global_cancel,
    "reqOpenOrders": open_orders,
    "reqAllOpenOrders": all_open_orders,
    "reqAutoOpenOrders": auto_open_orders,
    "reqCompletedOrders": completed_orders,
    "reqExecutions": executions,
}
