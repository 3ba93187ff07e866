"""The order task on the simulated gateway, before the open."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.operators.base import TaskRun
from airflow_ibkr_plugin.operators.order import OrderOperator
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.signals import Action, Signal

BEFORE_OPEN = datetime(2026, 3, 2, 13, 0, tzinfo=UTC)  # a Monday, 8:00 in New York
RUN = TaskRun(dag_id="demo", run_id="r1", task_id="order", map_index=-1, try_number=1, log_url="")


@pytest.mark.parametrize(
    ("on_timeout", "state", "status"), [("cancel", "cancelled", "Cancelled"), ("leave", "working", "PreSubmitted")]
)
def test_at_the_time_out_what_has_not_filled_is_cancelled_or_left(
    trading_database: Database, monkeypatch: pytest.MonkeyPatch, on_timeout: Any, state: str, status: str
) -> None:
    with start_simulator(seed=7, clock=BEFORE_OPEN, account="DU1234567") as gateway:
        connection = {"conn_type": "ibkr", "host": "127.0.0.1", "port": gateway.port, "extra": {"timeout": 5}}
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", json.dumps(connection))
        spec = GatewaySpec(
            conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(9, 10), account=""
        )
        with BrokerSession.open(spec, client_id=9) as session:
            instrument = session.resolve(InstrumentSpec(symbol="SPY"))
        signal = Signal(symbol="SPY", action=Action.BUY, confidence=0.9, as_of=BEFORE_OPEN, analyst="rules:test")
        upstream = {
            "signal": signal.to_dict(),
            "signal_id": None,
            "market_data": {"instrument": instrument.to_dict()},
        }
        ti = SimpleNamespace(map_index=-1, xcom_pull=lambda **_: upstream)
        task = OrderOperator(
            task_id="order",
            strategy="demo",
            symbol="SPY",
            signal_task="signal",
            sizing={"quantity": 3},
            tif="GTC",
            wait_seconds=1.0,
            on_timeout=on_timeout,
        )
        outcome = task.run_task({"ti": ti}, RUN)
        assert (outcome["state"], Decimal(outcome["filled"])) == (state, 0)
        (order,) = gateway.control("orders", order_ref=outcome["order_ref"])["orders"]
        assert order["status"] == status
