"""What a workflow may name, and what is kept of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec, SecType

EURUSD = InstrumentSpec(symbol="EUR", currency="USD", sec_type=SecType.FOREX, exchange="IDEALPRO")


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        ("SPY", InstrumentSpec(symbol="SPY")),
        ("BRK B", InstrumentSpec(symbol="BRK B")),
        ("BF.B", InstrumentSpec(symbol="BF.B")),  # a class of shares, not a pair of currencies
        ("EUR.USD", EURUSD),
        ({"symbol": "EUR", "sec_type": "CASH"}, EURUSD),
        (
            {"symbol": "SHOP", "currency": "CAD", "primary_exchange": "TSE"},
            InstrumentSpec(symbol="SHOP", currency="CAD", primary_exchange="TSE"),
        ),
    ],
)
def test_an_instrument_is_read(value: str | dict[str, Any], spec: InstrumentSpec) -> None:
    assert InstrumentSpec.parse(value) == spec


@pytest.mark.parametrize("value", ["", "spy", " SPY", "SPY\n", "EUR/USD", "ABCDEFGHIJKLM"])
def test_a_text_that_is_no_symbol_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="is not a symbol"):
        InstrumentSpec.parse(value)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"currency": "USD"}, "no symbol"),
        ({"symbol": "SPY", "exch": "X"}, "exch"),
        ({"symbol": "X", "sec_type": "FUT"}, "FUT"),
    ],
)
def test_a_mapping_that_cannot_be_used_names_its_fault(value: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        InstrumentSpec.parse(value)


def test_a_spec_is_remembered_by_all_that_tells_contracts_apart() -> None:
    specs = [
        InstrumentSpec(symbol="SHOP"),
        InstrumentSpec(symbol="SHOP", currency="CAD"),
        InstrumentSpec(symbol="SHOP", primary_exchange="TSE"),
        InstrumentSpec(symbol="SHOP", exchange="TSE"),
        InstrumentSpec(symbol="SHOP", sec_type=SecType.FOREX),
    ]
    assert len({spec.key for spec in specs}) == len(specs)


def test_an_instrument_survives_serialisation() -> None:
    pinned = Instrument(
        symbol="EUR",
        sec_type=SecType.FOREX,
        exchange="IDEALPRO",
        con_id=12087792,
        min_tick=Decimal("0.00005"),
        min_size=Decimal(20_000),
        size_increment=Decimal("0.01"),
        liquid_hours="20261120:CLOSED",
    )
    assert Instrument.from_dict(pinned.to_dict()) == pinned
    assert pinned.name == "EUR.USD"
