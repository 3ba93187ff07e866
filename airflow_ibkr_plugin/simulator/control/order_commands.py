"""Commands about orders: what the broker has, and what comes without a client's doing."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.api.order_messages import send_completed_order
from airflow_ibkr_plugin.simulator.api.session import Session
from airflow_ibkr_plugin.simulator.control.fields import Answer, Command, Field, choice, integer, number, text
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.orders.checks import Refusal

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator

CLIENT = Field("client", integer(0), "a connected client's id")
CONTRACT = (Field("symbol", text(), "of the contract"), Field("currency", text(), "of the contract", "USD"))


def connected(simulator: Simulator, client_id: int) -> Session:
    """The session of a client id.

    :raises ConfigError: no such client is connected.
    """
    session = simulator.clients.client(client_id)
    if session is None:
        raise ConfigError(f"client {client_id} is not connected; connected are {simulator.clients.ids}.")
    return session


def contract_at_ibkr(simulator: Simulator, values: dict[str, Any]) -> Instrument:
    """The contract that the fields of :data:`CONTRACT` name, for what only IBKR's servers can do with it.

    :raises ConfigError: none has that symbol and currency, or the servers are out of reach.
    """
    if not simulator.gateway.link.online:
        raise ConfigError("IBKR is out of reach.", remedy='First send {"cmd": "connectivity", "state": "restored"}.')
    symbol, currency = values["symbol"], values["currency"]
    found = [item for item in simulator.gateway.catalogue if (item.symbol, item.currency) == (symbol, currency)]
    if len(found) != 1:
        raise ConfigError(f"{len(found)} contracts have the symbol {symbol} and the currency {currency}.")
    return found[0]


def _orders(simulator: Simulator, values: dict[str, Any]) -> Answer:
    wanted, gateway = values["order_ref"], simulator.gateway
    return {
        "orders": [
            {
                "order_ref": order.order_ref,
                "perm_id": order.perm_id,
                "client_id": order.client_id,
                "order_id": order.order_id,
                "symbol": gateway.instrument(order.con_id).symbol,
                "action": order.action,
                "quantity": str(order.quantity),
                "order_type": order.order_type,
                "status": order.status,
                "filled": str(order.filled),
                "avg_price": str(order.avg_price),
            }
            for order in gateway.book.all_orders()
            if wanted is None or order.order_ref == wanted
        ]
    }


def _completed_order(simulator: Simulator, values: dict[str, Any]) -> Answer:
    gateway = simulator.gateway
    ended = [order for order in gateway.book.ended(gateway.today) if values["order_ref"] in (None, order.order_ref)]
    if not ended:
        raise ConfigError("completed_order: no such order has ended today.", remedy="See the command orders.")
    send_completed_order(connected(simulator, values["client"]), ended[-1])
    return {"perm_id": ended[-1].perm_id}


def _manual_order(simulator: Simulator, values: dict[str, Any]) -> Answer:
    instrument = contract_at_ibkr(simulator, values)
    fields = {
        "action": values["action"],
        "quantity": Decimal(values["quantity"]),
        "orderType": "MKT" if values["limit"] is None else "LMT",
        "lmtPrice": None if values["limit"] is None else Decimal(repr(values["limit"])),
        "tif": values["tif"],
    }
    try:
        order = simulator.desk.place_manual(instrument, fields)
    except Refusal as refusal:
        raise ConfigError(f"manual_order: {refusal.code} {refusal.message}") from None
    return {"perm_id": order.perm_id, "order_id": order.order_id, "status": order.status}


ORDERS = (
    Command(
        "orders",
        "what the broker has",
        {"order_ref": "x"},
        _orders,
        (Field("order_ref", text(), "only orders with this orderRef", None),),
    ),
    Command(
        "completed_order",
        "a completedOrder that nobody asked for: the last order that ended today",
        {"client": 1, "order_ref": "x"},
        _completed_order,
        (CLIENT, Field("order_ref", text(), "the last one with this orderRef", None)),
    ),
    Command(
        "manual_order",
        "an order that somebody enters in TWS: client 0, no order id until client 0 binds it, no orderRef",
        {"symbol": "AAPL", "action": "BUY", "quantity": 10, "limit": 1.0},
        _manual_order,
        (
            *CONTRACT,
            Field("action", choice("BUY", "SELL"), "the side"),
            Field("quantity", integer(1), "how many"),
            Field("limit", number(0, 1e9), "limit price; left out: at market", None),
            Field("tif", choice("DAY", "GTC"), "how long it is good", "DAY"),
        ),
    ),
)
