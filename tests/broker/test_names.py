from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_ibkr_plugin.broker.convert import name_of
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec


@pytest.mark.parametrize("name", ["SPY", "EUR.USD"])
def test_the_brokers_contract_has_the_name_that_the_workflow_gave_it(name: str) -> None:
    spec = InstrumentSpec.parse(name)
    contract = SimpleNamespace(symbol=spec.symbol, currency=spec.currency, secType=str(spec.sec_type))
    assert name_of(contract) == name
