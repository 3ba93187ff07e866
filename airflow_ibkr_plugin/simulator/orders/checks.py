"""What the gateway refuses before an order reaches the market."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.orders.book import (
    LIMIT_ORDER,
    MARKET_ORDER,
    STOP_LIMIT_ORDER,
    STOP_ORDER,
)

TIFS = ("DAY", "GTC", "IOC")
_TYPES = (MARKET_ORDER, LIMIT_ORDER, STOP_ORDER, STOP_LIMIT_ORDER)
# IBKR takes these spellings too; clients send either.
_SPELLINGS = {"STPLMT": STOP_LIMIT_ORDER, "STOP LIMIT": STOP_LIMIT_ORDER, "MARKET": MARKET_ORDER, "LIMIT": LIMIT_ORDER}


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


def order_type(fields: dict[str, Any]) -> str:
    """The order's type in IBKR's own spelling."""
    given = str(fields["orderType"]).upper()
    return _SPELLINGS.get(given, given)


def check_order(fields: dict[str, Any], instrument: Instrument, account: str) -> None:
    """Check what a placeOrder asks for.

    :raises Refusal: the gateway does not take it.
    """
    kind = order_type(fields)
    if fields["action"] not in ("BUY", "SELL"):
        raise invalid(f"Action {fields['action']!r} is neither BUY nor SELL")
    if kind not in _TYPES:
        raise Refusal(387, f"Unsupported order type for this exchange and security type.{kind}")
    if (fields["tif"] or "DAY") not in TIFS:
        raise Refusal(10052, f"Invalid time in force:{fields['tif']}.")
    if fields["account"] not in ("", account):
        raise invalid(f"Invalid account code {fields['account']!r}")
    _check_features(fields)
    quantity = fields["quantity"]
    if quantity is None or quantity <= 0:
        raise Refusal(201, "Order rejected - reason:The order size must be positive.", kept=True)
    if quantity != int(quantity):
        raise Refusal(10243, "Fractional-sized order cannot be placed via API.")
    limited, stopped = kind in (LIMIT_ORDER, STOP_LIMIT_ORDER), kind in (STOP_ORDER, STOP_LIMIT_ORDER)
    for needed, name, label in ((limited, "lmtPrice", "limit"), (stopped, "auxPrice", "stop")):
        if needed:
            _check_price(fields[name], instrument, label)


def _check_features(fields: dict[str, Any]) -> None:
    """Refuse what the simulator would silently do otherwise than IBKR."""
    present = {
        "transmit=False": not fields["transmit"],
        "parentId": bool(fields["parentId"]),
        "ocaGroup": bool(fields["ocaGroup"]),
        "conditions": bool(fields["conditions"]),
        "algoStrategy": bool(fields["algoStrategy"]),
        "goodAfterTime": bool(fields["goodAfterTime"]),
        "hedgeType": bool(fields["hedgeType"]),
        "allOrNone": bool(fields["allOrNone"]),
        "cashQty": bool(fields.get("cashQty")),
    }
    asked = [name for name, there in present.items() if there]
    if asked:
        raise invalid(f"{', '.join(asked)} is not served by this simulator")


def _check_price(price: Decimal | None, instrument: Instrument, label: str) -> None:
    if price is None or price <= 0:
        raise invalid(f"The order has no {label} price")
    if price % instrument.min_tick:
        raise Refusal(110, "The price does not conform to the minimum price variation for this contract.")
