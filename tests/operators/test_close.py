"""The close task, and an order task with a bracket, on the simulated gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.operators.base import TaskRun
from airflow_ibkr_plugin.operators.close import CloseOperator
from airflow_ibkr_plugin.operators.order import OrderOperator
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.signals import Action, Signal

MORNING = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
pytestmark = pytest.mark.usefixtures("trading_database")


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatorHandle]:
    with start_simulator(seed=7, clock=MORNING, account="DU1234567") as simulator:
        connection = {"conn_type": "ibkr", "host": "127.0.0.1", "port": simulator.port, "extra": {"timeout": 5}}
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", json.dumps(connection))
        yield simulator


def task_run(task_id: str) -> TaskRun:
    return TaskRun(dag_id="demo", run_id="r1", task_id=task_id, map_index=-1, try_number=1, log_url="")


def test_a_bracket_is_bought_with_a_budget_and_closed_by_a_task(gateway: SimulatorHandle) -> None:
    spec = GatewaySpec(conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(9, 10), account="")
    with BrokerSession.open(spec, client_id=9) as session:
        instrument, worth = session.resolve(InstrumentSpec(symbol="KO")), session.account_snapshot().net_liquidation
    signal = Signal(symbol="KO", action=Action.BUY, confidence=0.9, as_of=MORNING, analyst="rules:test")
    upstream = {"signal": signal.to_dict(), "signal_id": None, "market_data": {"instrument": instrument.to_dict()}}
    order = OrderOperator(
        task_id="order",
        strategy="demo",
        symbol="KO",
        signal_task="signal",
        sizing={"risk_per_trade": 0.0005},
        bracket={"stop": {"offset": 0.1}, "target": {"offset": 0.2}},
    )
    bought = order.run_task({"ti": SimpleNamespace(map_index=-1, xcom_pull=lambda **_: upstream)}, task_run("order"))
    assert bought["state"] == "filled"
    quantity, price = Decimal(bought["quantity"]), Decimal(bought["average_price"])
    assert 0 < quantity * price * Decimal("0.0999") <= worth * Decimal("0.0005")
    assert [leg["leg"] for leg in bought["exits"]] == ["target", "stop"]
    assert {leg["state"] for leg in bought["exits"]} == {"working"}
    half = CloseOperator(task_id="half", strategy="demo", symbol="KO", quantity=1)
    assert half.run_task({}, task_run("half"))["filled"] == "1"
    rest = CloseOperator(task_id="rest", strategy="demo", symbol="KO")
    assert Decimal(rest.run_task({}, task_run("rest"))["filled"]) == quantity - 1
    again = CloseOperator(task_id="again", strategy="demo", symbol="KO")
    assert again.run_task({}, task_run("again")) == {"symbol": "KO", "state": "flat"}
    alive = [o for o in gateway.control("orders")["orders"] if o["status"] in ("Submitted", "PreSubmitted")]
    assert alive == []


def test_what_does_not_go_together_is_refused_when_the_dag_is_built() -> None:
    with pytest.raises(ConfigError, match="share"):
        CloseOperator(task_id="c", strategy="demo", symbol="KO", share=0.5, quantity=3)
    with pytest.raises(ConfigError, match="IOC does not wait"):
        OrderOperator(
            task_id="o",
            strategy="demo",
            symbol="KO",
            signal_task="s",
            sizing={"quantity": 1},
            order_type="STP",
            stop_offset=0.01,
            tif="IOC",
        )
