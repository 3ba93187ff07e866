"""An order as a client has sent it, and the order in the book that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.orders.book import (
    LIMIT_ORDER,
    MARKET_ORDER,
    OCA_REDUCE,
    STOP_LIMIT_ORDER,
    TRAIL_LIMIT_ORDER,
    TRAILING,
    Order,
)

# What of a client's message is only handed back in openOrder and completedOrder.
_ECHOED = ("orderRef", "openClose", "origin", "goodTillDate", "modelCode", "exchange", "displaySize", "triggerMethod")
# IBKR takes these spellings too; clients send either.
_SPELLINGS = {
    "STPLMT": STOP_LIMIT_ORDER,
    "STOP LIMIT": STOP_LIMIT_ORDER,
    "TRAILLMT": TRAIL_LIMIT_ORDER,
    "MARKET": MARKET_ORDER,
    "LIMIT": LIMIT_ORDER,
}
_DEFAULT_TIF = "DAY"

#: What the fields of a placeOrder are that asks for nothing special.
PLAIN: dict[str, Any] = {
    "lmtPrice": None,
    "auxPrice": None,
    "tif": _DEFAULT_TIF,
    "account": "",
    "orderRef": "",
    "ocaGroup": "",
    "ocaType": None,
    "transmit": True,
    "parentId": 0,
    "outsideRth": False,
    "conditions": [],
    "algoStrategy": "",
    "goodAfterTime": "",
    "hedgeType": "",
    "allOrNone": False,
}


@dataclass(frozen=True, eq=False)
class Ticket:
    """One placeOrder.

    :param fields: by tws name, as decoded.
    """

    client_id: int
    order_id: int
    instrument: Instrument
    fields: dict[str, Any]

    @property
    def parent_id(self) -> int:
        """The order id of what it is attached to, 0 without one."""
        return self.fields["parentId"] or 0

    @property
    def transmit(self) -> bool:
        """Whether it is to be transmitted, not only kept."""
        return bool(self.fields["transmit"])

    @property
    def order_ref(self) -> str:
        """The client's own mark."""
        return str(self.fields["orderRef"])

    @property
    def order_type(self) -> str:
        """In IBKR's own spelling."""
        given = str(self.fields["orderType"]).upper()
        return _SPELLINGS.get(given, given)

    @property
    def tif(self) -> str:
        """Time in force; DAY by preset."""
        return self.fields["tif"] or _DEFAULT_TIF

    def number(self, name: str) -> Decimal | None:
        """A price or the like, None where the client left it out."""
        value = self.fields.get(name)
        return value if value is None or isinstance(value, Decimal) else Decimal(repr(value))

    def order(self, perm_id: int, now: float) -> Order:
        """The order of the book that it asks for; it meets the market from this second on."""
        trails = self.order_type in TRAILING
        return Order(
            perm_id=perm_id,
            client_id=self.client_id,
            order_id=self.order_id,
            con_id=self.instrument.con_id,
            action=self.fields["action"],
            quantity=self.fields["quantity"] or Decimal(0),
            order_type=self.order_type,
            limit_price=self.fields["lmtPrice"],
            stop_price=self.number("trailStopPrice" if trails else "auxPrice"),
            tif=self.tif,
            outside_hours=self.fields["outsideRth"],
            fields={name: self.fields[name] for name in _ECHOED if self.fields.get(name)},
            placed=now,
            checked=int(now) - 1,
            # The amount goes before the percentage, as where both are set on a TWS order line.
            trail_amount=(self.fields["auxPrice"] or None) if trails else None,
            trail_percent=self._trail_percent() if trails else None,
            limit_offset=self._limit_offset() if self.order_type == TRAIL_LIMIT_ORDER else None,
            parent_id=self.parent_id,
            oca_group=self.fields["ocaGroup"],
            oca_type=self.fields["ocaType"] or OCA_REDUCE,
            account=self.fields["account"],
        )

    def _trail_percent(self) -> Decimal | None:
        return None if self.fields["auxPrice"] else self.number("trailingPercent")

    def _limit_offset(self) -> Decimal | None:
        """Given, or the distance between the first stop price and the limit price."""
        offset, stop, limit = self.number("lmtPriceOffset"), self.number("trailStopPrice"), self.number("lmtPrice")
        if offset is not None or stop is None or not limit:
            return offset
        return limit - stop if self.fields["action"] == "BUY" else stop - limit
