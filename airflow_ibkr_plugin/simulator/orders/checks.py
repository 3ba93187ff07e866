"""What the gateway refuses before an order reaches the market."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.orders.book import (
    LIMIT_ORDER,
    MARKET_ORDER,
    OCA_CANCEL,
    OCA_REDUCE,
    STOP_LIMIT_ORDER,
    STOP_ORDER,
    TRAIL_LIMIT_ORDER,
    TRAIL_ORDER,
    TRAILING,
    Book,
    Order,
)
from airflow_ibkr_plugin.simulator.orders.ticket import Ticket

TIFS = ("DAY", "GTC", "IOC")
_TYPES = (MARKET_ORDER, LIMIT_ORDER, STOP_ORDER, STOP_LIMIT_ORDER, TRAIL_ORDER, TRAIL_LIMIT_ORDER)
# Types that IBKR has and this gateway does not serve. Source: TWS API documentation, "Order Types".
_OTHER_TYPES = frozenset(
    ["BOX TOP", "LIT", "LOC", "LOO", "LWH", "MIDPRICE", "MIT", "MKT PRT", "MOC", "MOO", "MTL", "PASSV REL",
     "PEG BENCH", "PEG BEST", "PEG MID", "PEG MKT", "PEG PRIM", "PEG STK", "REL", "REL + LMT", "REL + MKT", "SNAP MID",
     "SNAP MKT", "SNAP PRIM", "STP PRT", "TRAIL LIT", "TRAIL MIT", "VOL", "VWAP"]
)  # fmt: skip
#: Working orders of one side of a contract in an account. Source: TWS API documentation, "Order Limitations".
MAX_WORKING = 20


class Refusal(Exception):
    """An order or request that is answered with an error.

    :param kept: whether the order id is used up and the order is listed as Inactive (as for 201).
    """

    def __init__(self, code: int, message: str, *, kept: bool = False) -> None:
        self.code = code
        self.message = message
        self.kept = kept
        super().__init__(code, message)


def invalid(cause: str) -> Refusal:
    """IBKR's answer to a request that does not validate."""
    return Refusal(321, f"Error validating request.-'bP' : cause - {cause}")


def rejected(reason: str) -> Refusal:
    """IBKR's answer to an order that its servers do not take."""
    return Refusal(201, f"Order rejected - reason:{reason}", kept=True)


def check_ticket(ticket: Ticket, accounts: Collection[str]) -> None:
    """Check what a placeOrder asks for, by itself.

    :raises Refusal: the gateway does not take it.
    """
    fields, kind = ticket.fields, ticket.order_type
    if fields["action"] not in ("BUY", "SELL"):
        raise invalid(f"Action {fields['action']!r} is neither BUY nor SELL")
    if kind in _OTHER_TYPES:
        raise Refusal(387, f"Unsupported order type for this exchange and security type.{kind}")
    if kind not in _TYPES:
        raise invalid("Invalid order type was entered")
    if ticket.tif not in TIFS:
        raise Refusal(10052, f"Invalid time in force:{fields['tif']}.")
    if not fields["account"] and len(accounts) > 1:
        raise Refusal(435, "You must specify an account.")
    if fields["account"] and fields["account"] not in accounts:
        raise invalid(f"Invalid account code {fields['account']!r}")
    _check_features(fields)
    quantity = fields["quantity"]
    if quantity is None or quantity <= 0:
        raise rejected("The order size must be positive.")
    if quantity != int(quantity):
        raise Refusal(10243, "Fractional-sized order cannot be placed via API.")
    _check_prices(ticket)


def check_place_in_book(order: Order, book: Book) -> None:
    """Check a new order against the working ones.

    :raises Refusal: the servers do not take it.
    """
    if book.working_count(order.account, order.con_id, order.action) >= MAX_WORKING:
        raise rejected(
            f"Your account has a minimum of {MAX_WORKING} orders working on either the buy or sell side for this"
            " particular contract."
        )
    if order.oca_group and book.group_is_filled(order.client_id, order.oca_group):
        raise rejected("OCA group is already filled.")


def _check_features(fields: dict[str, Any]) -> None:
    """Refuse what the simulator would silently do otherwise than IBKR."""
    present = {
        "conditions": bool(fields["conditions"]),
        "algoStrategy": bool(fields["algoStrategy"]),
        "goodAfterTime": bool(fields["goodAfterTime"]),
        "hedgeType": bool(fields["hedgeType"]),
        "allOrNone": bool(fields["allOrNone"]),
        "cashQty": bool(fields.get("cashQty")),
        "adjustedOrderType": fields.get("adjustedOrderType") not in (None, "", "None"),
    }
    asked = [name for name, there in present.items() if there]
    if asked:
        raise invalid(f"{', '.join(asked)} is not served by this simulator")
    if fields["ocaGroup"] and (fields["ocaType"] or OCA_REDUCE) not in range(OCA_CANCEL, OCA_REDUCE + 1):
        raise invalid(f"Invalid OCA type {fields['ocaType']}")


def _check_prices(ticket: Ticket) -> None:
    fields, kind = ticket.fields, ticket.order_type
    if kind in TRAILING:
        _check_trail(ticket)
        return
    limited, stopped = kind in (LIMIT_ORDER, STOP_LIMIT_ORDER), kind in (STOP_ORDER, STOP_LIMIT_ORDER)
    for needed, name, label in ((limited, "lmtPrice", "limit"), (stopped, "auxPrice", "stop")):
        if needed:
            _check_price(fields[name], ticket.instrument, label)


def _check_trail(ticket: Ticket) -> None:
    percent, stop = ticket.number("trailingPercent"), ticket.number("trailStopPrice")
    if ticket.fields["auxPrice"] or percent is None:
        _check_price(ticket.fields["auxPrice"], ticket.instrument, "trailing amount or percentage, or stop")
    elif not 0 < percent < 100:
        raise invalid(f"The trailing percentage {percent} is not between 0 and 100")
    if stop is not None:
        _check_price(stop, ticket.instrument, "stop")
    if ticket.order_type == TRAIL_LIMIT_ORDER:
        offset = ticket.order(0, 0.0).limit_offset
        if stop is None or offset is None:
            raise invalid("A TRAIL LIMIT order needs a stop price, and a limit price or limit price offset")
        if offset % ticket.instrument.min_tick:
            raise _off_grid()


def _check_price(price: Decimal | None, instrument: Instrument, label: str) -> None:
    if price is None or price <= 0:
        raise invalid(f"The order has no {label} price")
    if price % instrument.min_tick:
        raise _off_grid()


def _off_grid() -> Refusal:
    return Refusal(110, "The price does not conform to the minimum price variation for this contract.")
