"""Requests about orders and executions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.api import order_messages
from airflow_ibkr_plugin.simulator.api.requests_data import one_contract
from airflow_ibkr_plugin.simulator.orders.book import Execution, Order
from airflow_ibkr_plugin.simulator.orders.checks import Refusal, invalid, order_type
from airflow_ibkr_plugin.simulator.wire import tables_out as out
from airflow_ibkr_plugin.simulator.wire.tables_orders import OPEN_ORDER

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session
    from airflow_ibkr_plugin.simulator.market.catalogue import Instrument


def place_order(session: Session, values: dict[str, Any]) -> None:
    client, order_id = session.client_id, values["orderId"]
    if client is None or order_id is None or order_id < 0:
        raise invalid(f"Order id {order_id} cannot be used")
    instrument = one_contract(session, values)
    if values["whatIf"]:
        _what_if(session, instrument, values)
        return
    try:
        session.desk.place(client, order_id, instrument, values)
    except Refusal as refusal:
        if refusal.kept:
            session.desk.reject(client, order_id, instrument, values, refusal.message)
        raise


def _what_if(session: Session, instrument: Instrument, values: dict[str, Any]) -> None:
    margins = session.desk.margin_change(instrument, values)
    session.send(
        OPEN_ORDER,
        orderId=values["orderId"],
        **instrument.wire(),
        action=values["action"],
        quantity=values["quantity"],
        orderType=order_type(values),
        lmtPrice=order_messages.java_double(values["lmtPrice"]),
        auxPrice=order_messages.java_double(values["auxPrice"]),
        tif=values["tif"] or "DAY",
        account=session.gateway.account,
        orderRef=values["orderRef"],
        clientId=session.client_id,
        permId=0,
        sharesAllocation="",
        whatIf=True,
        status="PreSubmitted",
        commissionCurrency="USD",
        **margins,
    )


def cancel_order(session: Session, values: dict[str, Any]) -> None:
    assert session.client_id is not None
    session.desk.cancel(session.client_id, values["orderId"])


def global_cancel(session: Session, values: dict[str, Any]) -> None:
    session.desk.cancel_all()


def open_orders(session: Session, values: dict[str, Any]) -> None:
    _send_open(session, [o for o in session.gateway.book.working() if o.client_id == session.client_id])


def all_open_orders(session: Session, values: dict[str, Any]) -> None:
    _send_open(session, session.gateway.book.working())


def _send_open(session: Session, orders: list[Order]) -> None:
    for order in orders:
        order_messages.send_open_order(session, order)
    session.send(out.OPEN_ORDER_END)


def completed_orders(session: Session, values: dict[str, Any]) -> None:
    session.desk.step()
    for order in session.gateway.book.ended(session.gateway.today):
        order_messages.send_completed_order(session, order)
    session.send(out.COMPLETED_ORDERS_END)


def executions(session: Session, values: dict[str, Any]) -> None:
    session.desk.step()
    for execution in session.gateway.book.executions(session.gateway.today):
        if _matches(session, execution, values):
            order_messages.send_execution(session, execution, request=values["reqId"])
            order_messages.send_commission(session, execution)
    session.send(out.EXEC_DETAILS_END, reqId=values["reqId"])


def _matches(session: Session, execution: Execution, wanted: dict[str, Any]) -> bool:
    instrument = session.gateway.instrument(execution.con_id)
    details = order_messages.execution_fields(execution, instrument, session.gateway.account, session.version)
    day, clock = details["time"].split()[:2]
    return (
        (not wanted["clientId"] or wanted["clientId"] == execution.client_id)
        and wanted["account"] in ("", session.gateway.account)
        and wanted["symbol"].upper() in ("", instrument.symbol)
        and wanted["secType"] in ("", instrument.sec_type)
        and wanted["exchange"] in ("", execution.exchange)
        and wanted["side"].upper() in ("", execution.side, "BUY" if execution.side == "BOT" else "SELL")
        # "yyyymmdd hh:mm:ss", or with a dash, in the gateway's zone: sorts as text.
        and f"{day} {clock}" >= wanted["time"].replace("-", " ").strip()
    )


HANDLERS: dict[str, Handler] = {
    "placeOrder": place_order,
    "cancelOrder": cancel_order,
    "reqGlobalCancel": global_cancel,
    "reqOpenOrders": open_orders,
    "reqAllOpenOrders": all_open_orders,
    "reqCompletedOrders": completed_orders,
    "reqExecutions": executions,
}
