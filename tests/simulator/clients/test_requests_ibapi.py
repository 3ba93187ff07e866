"""Whatever IBKR's own client can ask for, the simulator's tables read to the last field, and as what it is."""

from __future__ import annotations

import copy
import inspect
import random
from decimal import Decimal
from typing import Any

import pytest
from ibapi import order_condition as conditions
from ibapi import server_versions
from ibapi.client import EClient
from ibapi.contract import ComboLeg, Contract, DeltaNeutralContract
from ibapi.execution import ExecutionFilter
from ibapi.order import Order, OrderComboLeg
from ibapi.softdollartier import SoftDollarTier
from ibapi.tag_value import TagValue
from ibapi.wrapper import EWrapper
from landing import collected

from airflow_ibkr_plugin.simulator.wire.codec import decode
from airflow_ibkr_plugin.simulator.wire.tables_in import NOT_SERVED, REQUESTS, START_API
from airflow_ibkr_plugin.simulator.wire.tables_orders import PLACE_ORDER

VERSIONS = range(157, min(server_versions.MAX_CLIENT_VER, 176) + 1)
UNSET = (None, "", str(2**31 - 1), 2**31 - 1, 2**63 - 1, 1.7976931348623157e308, Decimal(2**127 - 1))

#: The tables' names -> IBKR's, where they have another; () for what the client writes without being told.
NAMES: dict[str, tuple[str, ...]] = {
    "account": ("acctCode",),
    "apiOnly": (),
    "autoBind": ("bAutoBind",),
    "barSize": ("barSizeSetting",),
    "conId": ("conid",),
    "conjunction": (),
    "count": ("numIds",),
    "deltaNeutral": (),
    "deprecatedSharesAllocation": (),
    "dncConId": ("conId",),
    "dncDelta": ("delta",),
    "dncPrice": ("price",),
    "duration": ("durationStr",),
    "eTradeOnly": (),
    "exchange": ("exch",),
    "faProfile": (),
    "firmQuoteOnly": (),
    "genericTicks": ("genericTickList",),
    "group": ("groupName",),
    "lastTradeDate": ("lastTradeDateOrContractMonth",),
    "level": ("logLevel",),
    "manualCancelTime": ("manualCancelOrderTime", "manualOrderCancelTime"),
    "miscOptions": (),
    "nbboPriceCap": (),
    "optionalCapabilities": (),
    "options": (),
    "overridePercentage": ("overridePercentageConstraints",),
    "peggedDecrease": ("isPeggedChangeAmountDecrease",),
    "quantity": ("totalQuantity",),
    "subscribe": (),
    "tierName": ("name",),
    "tierValue": ("val",),
    "type": ("condType", "marketDataType"),
    "useRTH": ("useRth",),
    "value": ("price", "time", "percent", "volume", "changePercent"),
    "version": (),
}


class Client(EClient):
    """IBKR's client, whose messages are kept instead of sent."""

    def __init__(self, version: int) -> None:
        self.refusals: list[tuple[Any, ...]] = []
        wrapper = EWrapper()
        wrapper.error = lambda *args: self.refusals.append(args)
        super().__init__(wrapper)
        self.conn = self
        self.setConnState(EClient.CONNECTED)
        self.serverVersion_ = version
        self.clientId = 7
        self.optCapab = ""
        self.sent: list[list[str]] = []

    def isConnected(self) -> bool:
        return True

    def sendMsg(self, *message: Any) -> Any:
        """Called by itself as a client and, for its frames, as its own connection."""
        if isinstance(message[0], bytes):
            self.sent.append(message[0][4:-1].decode().split("\0"))
            return None
        return super().sendMsg(*message)


def read(wire: list[str], version: int) -> dict[str, Any]:
    return decode(REQUESTS[int(wire[0])], wire, version)


def astray(read: dict[str, Any], found: dict[str, list[Any]]) -> list[str]:
    """Names of the values that were read of the wire and are nowhere under that name at the sender."""
    wrong = []
    for name, value in read.items():
        aliases = NAMES.get(name)
        if isinstance(value, list):
            wrong += [inner for entry in value for inner in astray(entry, found)]
        elif aliases != () and not any(
            _same(value, kept) for alias in (name, *(aliases or ())) for kept in found.get(alias, ())
        ):
            wrong.append(f"{name}={value!r}")
    return wrong


def _same(value: object, kept: object) -> bool:
    if value in UNSET or kept in UNSET:
        return value in UNSET and kept in UNSET
    if isinstance(kept, bool) or isinstance(value, bool):
        return str(int(kept)) == str(int(value))  # type: ignore[call-overload]
    try:
        return float(str(value)) == float(str(kept))
    except ValueError:
        return str(value) == str(kept)


# --- every request ------------------------------------------------------------------------------


def argument(name: str, kind: Any, dice: random.Random) -> Any:
    """A value for a parameter of the client's methods."""
    if kind is bool:
        return dice.random() < 0.5
    if kind is str:
        return dice.choice(["", f"{name}-{dice.randrange(100)}"])
    if kind is Contract:
        return some_contract(dice)
    if kind is Order:
        return some_order(dice, frozenset())
    if kind is ExecutionFilter:
        return varied(ExecutionFilter(), dice)
    if kind is int:
        return dice.randrange(2 if name.lower() == "userth" else 10_000)
    return [] if name.endswith("Options") else kind()


def requests(version: int, dice: random.Random) -> dict[int, list[tuple[list[str], dict[str, Any]]]]:
    """All that the client sends for calls of all its methods: number -> messages and the calls' arguments."""
    made: dict[int, list[tuple[list[str], dict[str, Any]]]] = {}
    for name, method in inspect.getmembers(EClient, inspect.isfunction):
        if not name.startswith(("req", "cancel", "setServer", "startApi")) or name.endswith("ProtoBuf"):
            continue
        client = Client(version)
        parameters = list(inspect.signature(method).parameters.values())[1:]
        arguments = {item.name: argument(item.name, item.annotation, dice) for item in parameters}
        method(client, **arguments)
        for wire in client.sent:
            made.setdefault(int(wire[0]), []).append((wire, arguments | {"clientId": 7}))
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_every_request_is_read_to_its_last_field(version: int) -> None:
    for seed in range(25):
        for number, messages in requests(version, random.Random(seed)).items():
            for wire, arguments in messages:
                if number in REQUESTS:
                    assert astray(read(wire, version), collected(arguments.items())) == []
                else:
                    _, position = NOT_SERVED[number]
                    ids = [value for name, value in arguments.items() if name in ("reqId", "tickerId")]
                    assert [int(wire[position])] == ids if position else ids == []


def test_every_served_request_was_tried() -> None:
    made = requests(max(VERSIONS), random.Random(1))
    assert REQUESTS.keys() - made.keys() == {PLACE_ORDER.number}
    assert START_API.number in made


# --- orders -------------------------------------------------------------------------------------


def varied(thing: Any, dice: random.Random, *, only: frozenset[str] | None = None) -> Any:
    """The object with its plain attributes set at random."""
    for name, value in vars(thing).items():
        if only is not None and name not in only:
            continue
        if isinstance(value, bool):
            setattr(thing, name, dice.random() < 0.5)
        elif isinstance(value, int):
            setattr(thing, name, dice.choice([value, dice.randrange(100)]))
        elif isinstance(value, float):
            setattr(thing, name, dice.choice([value, dice.randrange(100_000) / 100]))
        elif isinstance(value, Decimal):
            setattr(thing, name, Decimal(dice.randrange(1, 1000)))
        elif isinstance(value, str):
            setattr(thing, name, dice.choice([value, f"{name[:8]}{dice.randrange(100)}"]))
    return thing


def some_contract(dice: random.Random) -> Contract:
    contract = varied(Contract(), dice)
    contract.strike = dice.choice([0.0, 12.5])
    contract.secType = dice.choice(["STK", "BAG", "OPT"])
    contract.exchange = dice.choice(["SMART", "IBKRATS"])
    if contract.secType == "BAG":
        contract.comboLegs = [varied(ComboLeg(), dice) for _ in range(dice.randrange(3))]
    if dice.random() < 0.5:
        contract.deltaNeutralContract = varied(DeltaNeutralContract(), dice)
    return contract


def some_condition(dice: random.Random) -> Any:
    kind = dice.choice([conditions.PriceCondition, conditions.TimeCondition, conditions.MarginCondition,
                        conditions.ExecutionCondition, conditions.VolumeCondition,
                        conditions.PercentChangeCondition])  # fmt: skip
    condition = kind()
    for name in vars(condition).keys() - {"condType", "isConjunctionConnection"}:
        setattr(condition, name, dice.randrange(1, 100) if name != "time" else "20261120 11:00:00 US/Eastern")
    condition.isConjunctionConnection = dice.random() < 0.5
    if hasattr(condition, "isMore"):
        condition.isMore = dice.random() < 0.5
    return condition


def some_order(dice: random.Random, unknown: frozenset[str]) -> Order:
    """An order with any of its attributes set, but for those that the negotiated version does not know."""
    order = varied(Order(), dice, only=frozenset(vars(Order())) - unknown)
    order.orderType = dice.choice(["MKT", "LMT", "PEG BENCH", "PEG BEST", "PEG MID", "PEGBEST"])
    order.usePriceMgmtAlgo = dice.choice([None, True, False])
    order.softDollarTier = SoftDollarTier(*dice.choice([("", "", ""), ("tier", "5", "")]))
    order.conditions = [some_condition(dice) for _ in range(dice.randrange(4))]
    order.algoStrategy = dice.choice(["", "Adaptive"])
    order.algoParams = [TagValue("a", str(i)) for i in range(dice.randrange(3))]
    order.smartComboRoutingParams = [TagValue("s", str(i)) for i in range(dice.randrange(3))]
    order.orderComboLegs = [varied(OrderComboLeg(), dice) for _ in range(dice.randrange(3))]
    order.orderMiscOptions = [TagValue("m", "1")]
    if "competeAgainstBestOffset" not in unknown and dice.random() < 0.3:
        order.competeAgainstBestOffset = float("inf")
    return order


def unknown_attributes(version: int) -> frozenset[str]:
    """The attributes that the client itself refuses to send at that version."""
    refused = set()
    for name, value in vars(Order()).items():
        client, order = Client(version), Order()
        order.totalQuantity = Decimal(1)
        other = {bool: True, str: "x", int: 5, float: 5.5}.get(type(value))
        if other is not None:
            setattr(order, name, other)
            client.placeOrder(1, Contract(), order)
            if not client.sent:
                refused.add(name)
    return frozenset(refused)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_order_with_anything_set_is_read_to_its_last_field(version: int) -> None:
    unknown = unknown_attributes(version)
    for seed in range(60):
        dice = random.Random(seed)
        contract, order = some_contract(dice), some_order(dice, unknown)
        client = Client(version)
        client.placeOrder(5, copy.deepcopy(contract), copy.deepcopy(order))
        assert client.sent, client.refusals
        values = read(client.sent[0], version)
        sender = collected({"orderId": 5, "contract": contract, "order": order}.items())
        assert astray(values, sender) == []
        assert len(values["conditions"]) == len(order.conditions)
