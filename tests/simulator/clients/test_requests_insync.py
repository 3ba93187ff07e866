"""Orders of ib_insync and ib_async with any of their attributes set are read to the last field."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from driver_insync import library

from airflow_ibkr_plugin.simulator.wire.codec import decode
from airflow_ibkr_plugin.simulator.wire.tables_orders import PLACE_ORDER

#: 158 is never negotiated; see docs/simulator-protocol.md.
VERSIONS = [version for version in range(157, 177) if version != 158]
_CONDITIONS = ("PriceCondition", "TimeCondition", "MarginCondition", "ExecutionCondition", "VolumeCondition",
               "PercentChangeCondition")  # fmt: skip


def sent(version: int, contract: Any, order: Any) -> list[str]:
    """The fields of the library's placeOrder."""
    client = library.client.Client(library.IB().wrapper)
    client.connState = client.CONNECTED
    client._serverVersion = version
    messages: list[str] = []
    client.sendMsg = messages.append
    client.placeOrder(5, contract, order)
    [message] = messages
    return message.removesuffix("\0").split("\0")


def varied(thing: Any, dice: random.Random) -> Any:
    """The object with its plain attributes set at random."""
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        others = {
            bool: dice.random() < 0.5,
            int: dice.randrange(100),
            float: dice.randrange(100_000) / 100,
            str: f"{field.name[:8]}{dice.randrange(100)}",
        }
        if type(value) in others:
            setattr(thing, field.name, dice.choice([value, others[type(value)]]))
    return thing


def some_order(dice: random.Random) -> tuple[Any, Any]:
    contract = varied(library.Contract(), dice)
    contract.strike = dice.choice([0.0, 12.5])
    contract.secType, contract.exchange = dice.choice(["STK", "BAG"]), dice.choice(["SMART", "IBKRATS"])
    contract.comboLegs = [varied(library.ComboLeg(), dice) for _ in range(dice.randrange(3))]
    if dice.random() < 0.5:
        contract.deltaNeutralContract = varied(library.DeltaNeutralContract(), dice)
    order = varied(library.Order(), dice)
    order.totalQuantity = dice.randrange(1, 1000)
    order.orderType = dice.choice(["MKT", "LMT", "PEG BENCH", "PEG BEST", "PEG MID"])
    conditions = [getattr(library, dice.choice(_CONDITIONS))() for _ in range(dice.randrange(4))]
    # A condition's first attribute is its type.
    order.conditions = [dataclasses.replace(varied(one, dice), condType=one.__class__().condType) for one in conditions]
    order.algoParams = [library.TagValue("a", str(i)) for i in range(dice.randrange(3))]
    order.smartComboRoutingParams = [library.TagValue("s", str(i)) for i in range(dice.randrange(3))]
    order.orderComboLegs = [varied(library.OrderComboLeg(), dice) for _ in range(dice.randrange(3))]
    if dice.random() < 0.3:
        order.competeAgainstBestOffset = float("inf")
    return contract, order


@pytest.mark.parametrize("version", VERSIONS)
def test_an_order_with_anything_set_is_read_to_its_last_field(version: int) -> None:
    for seed in range(60):
        contract, order = some_order(random.Random(seed))
        values = decode(PLACE_ORDER, sent(version, contract, order), version)
        assert (values["orderId"], values["conId"], values["quantity"]) == (5, contract.conId, order.totalQuantity)
        assert values["discretionaryUpToLimitPrice"] == order.discretionaryUpToLimitPrice
        assert [condition["type"] for condition in values["conditions"]] == [
            str(condition.condType) for condition in order.conditions
        ]
        if version >= 169:
            assert values["manualOrderTime"] == order.manualOrderTime
