"""Where a message's values land in a client library: the names its callbacks and objects have for them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

#: The table's name for a field -> the libraries' names, where they have another.
NAMES: dict[str, tuple[str, ...]] = {
    "account": ("accountName", "acctNumber", "accountsList"),
    "accounts": ("accountsList",),
    "adjustedTrailStopPrice": ("trailStopPrice",),
    "ask": ("askPrice", "priceAsk"),
    "askSize": ("sizeAsk",),
    "average": ("wap",),
    "barCount": ("count",),
    "bid": ("bidPrice", "priceBid"),
    "bidSize": ("sizeBid",),
    "bit": ("bitNumber",),
    "clientId": ("apiClientId",),
    "code": ("errorCode",),
    "comboLegsDescription": ("comboLegsDescrip",),
    "commission": ("commissionAndFees",),
    "commissionCurrency": ("commissionAndFeesCurrency",),
    "completedTrailStopPrice": ("trailStopPrice",),
    "derivative": ("derivativeSecTypes",),
    "end": ("endDateTime",),
    "execExchange": ("exchange",),
    "id": ("reqId",),
    "key": ("tag",),
    "kind": ("tickType",),
    "lastTradeDate": ("lastTradeDateOrContractMonth",),
    "listingExchange": ("listingExch",),
    "maxCommission": ("maxCommissionAndFees",),
    "message": ("errorString",),
    "minCommission": ("minCommissionAndFees",),
    "open": ("open_",),
    "orderId": ("apiOrderId",),
    "permId": ("reqId",),
    "position": ("pos",),
    "quantity": ("totalQuantity",),
    "reqId": ("tickerId",),
    "start": ("startDateTime",),
    "tierDisplayName": ("displayName",),
    "tierName": ("name",),
    "tierValue": ("val",),
    "time": ("timeStamp",),
    "type": ("marketDataType",),
    "value": ("val",),
    "yield": ("yield_",),
}

#: On the wire, but not kept as they are: what IBKR gave up, a trailing stop that a later field says again, and bits.
NOT_KEPT = {"eTradeOnly", "faProfile", "firmQuoteOnly", "mdSizeMultiplier", "nbboPriceCap", "sharesAllocation",
            "suggestedSize", "trailStopPrice", "attributes", "mask"}  # fmt: skip


def collected(arguments: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    """All values of named arguments by name, those of objects by the names of their attributes."""
    found: dict[str, list[Any]] = {}
    _collect(found, arguments)
    return found


def _collect(found: dict[str, list[Any]], named: Iterable[tuple[str, Any]]) -> None:
    for name, value in named:
        if isinstance(value, (list, tuple)):
            _collect(found, ((name, item) for item in value))
        elif hasattr(value, "__dict__") and not isinstance(value, Enum):
            _collect(found, vars(value).items())
        else:
            found.setdefault(name, []).append(value)


def lost(sent: dict[str, Any], on_wire: dict[str, Any], found: dict[str, list[Any]]) -> list[str]:
    """The names of the values that are not where they should have landed.

    :param on_wire: what the table reads of the message: without what its gates and conditions leave out.
    """
    missing = []
    for name in sent.keys() & on_wire.keys() - NOT_KEPT:
        value = sent[name]
        if isinstance(value, list):
            pairs = zip(value, on_wire[name], strict=True)
            missing += [inner for entry, read in pairs for inner in lost(entry, read, found)]
        elif not any(
            _same(str(value), kept) for alias in (name, *NAMES.get(name, ())) for kept in found.get(alias, ())
        ):
            missing.append(name)
    return missing


def _same(sent: str, kept: object) -> bool:
    if isinstance(kept, bool):
        return kept == (float(sent) != 0)
    if isinstance(kept, str):
        return kept == sent
    return sent.replace(".", "", 1).isdecimal() and kept is not None and float(sent) == float(str(kept))
