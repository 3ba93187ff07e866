"""Faults of requests: what happens instead of a request's handler, before it, or after it.

Data farms are here too: a request wakes an inactive one, and gets nothing out of a broken one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.simulator.link import Farm, FarmState
from airflow_ibkr_plugin.simulator.orders.checks import Refusal

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.api.session import Handler, Session

_PACING = {
    162: "Historical Market Data Service error message:Historical data request pacing violation",
    420: "Invalid Real-time Query:Historical data request pacing violation",
}
#: Codes that a pacing fault can answer with.
PACING_CODES = tuple(_PACING)

_OF_HISTORY = ("reqHistoricalData", "reqHeadTimeStamp", "reqHistoricalTicks")
_OF_MARKET = ("reqMktData", "reqRealTimeBars", "reqTickByTickData")
_ASK_FOR_ORDERS = ("reqOpenOrders", "reqAllOpenOrders", "reqCompletedOrders")


def with_faults(handlers: dict[str, Handler]) -> dict[str, Handler]:
    """The handlers, each behind the faults of its request."""
    guards = {"placeOrder": _place_order}
    guards |= dict.fromkeys(_OF_HISTORY, _historical_data) | dict.fromkeys(_OF_MARKET, _market_data)
    guards |= dict.fromkeys(_ASK_FOR_ORDERS, _ask_for_orders)
    return {name: _behind(guards[name], handler) if name in guards else handler for name, handler in handlers.items()}


def _behind(guard: Any, handler: Handler) -> Handler:
    return lambda session, values: guard(session, values, handler)


def _place_order(session: Session, values: dict[str, Any], handler: Handler) -> None:
    if values["whatIf"]:  # asks, and orders nothing
        handler(session, values)
        return
    faults, where = session.gateway.faults, {"client": session.client_id, "order_ref": values["orderRef"]}
    if faults.take("drop_before_accept", **where):
        session.abort("fault drop_before_accept: dropped before the order was taken")
        return
    if faults.take("lose_order", **where):
        return
    handler(session, values)
    if faults.take("drop_after_accept", **where):
        # What the client would have been told is dropped with the connection; the order lives.
        session.gateway.commit()
        session.abort("fault drop_after_accept: dropped after the order was taken")


def _historical_data(session: Session, values: dict[str, Any], handler: Handler) -> None:
    if (fault := session.gateway.faults.take("pacing", client=session.client_id)) is not None:
        code = fault.details["code"]
        raise Refusal(code, _PACING[code])
    _wake(session, Farm.HISTORY)
    if session.gateway.link.farms[Farm.HISTORY] is not FarmState.OK:
        raise Refusal(162, "Historical Market Data Service error message:HMDS server disconnect occurred")
    handler(session, values)


def _market_data(session: Session, values: dict[str, Any], handler: Handler) -> None:
    _wake(session, Farm.MARKET)
    handler(session, values)


def _wake(session: Session, farm: Farm) -> None:
    link = session.gateway.link
    if link.farms[farm] is FarmState.INACTIVE:
        session.simulator.tell_all([link.set_farm(farm, FarmState.OK)])


def _ask_for_orders(session: Session, values: dict[str, Any], handler: Handler) -> None:
    handler(session, values)
    session.gateway.faults.silent.clear()
