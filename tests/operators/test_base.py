"""What the operators and sensors share: a try is on record however it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from airflow_ibkr_plugin.operators.base import IBKROperator, TaskRun
from airflow_ibkr_plugin.sensors.market_open import MarketOpenSensor
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.failures import Failures
from airflow_ibkr_plugin.store.tracking_outbox import TrackingOutbox


class Endless(IBKROperator):
    """Works on and on."""

    def run_task(self, context: Any, run: TaskRun) -> None:
        assert threading.Event().wait(60)


class EndlessSensor(MarketOpenSensor):
    """A look that takes for ever."""

    def poke(self, context: Any) -> bool:
        return threading.Event().wait(60)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Endless(task_id="slow", strategy="slow"),
        lambda: EndlessSensor(task_id="slow", strategy="slow", symbols=["AAPL"]),
    ],
    ids=["operator", "sensor"],
)
def test_a_task_time_out_is_on_record(trading_database: Database, make: Callable[[], Any]) -> None:
    ti = SimpleNamespace(
        dag_id="slow", run_id="r1", task_id="slow", map_index=-1, try_number=1, log_url="", start_date=None
    )
    # Airflow's own alarm, as its task runner sets it for `execution_timeout`.
    with pytest.raises(AirflowTaskTimeout), timeout(0.05):
        make().execute({"ti": ti})
    with trading_database.read() as session:
        (failure,) = Failures(session).for_run("slow", "r1")
        (row,) = TrackingOutbox(session).pending(None, "slow", "r1", limit=10)
    assert (failure.task_id, failure.error_type, failure.family) == ("slow", "AirflowTaskTimeout", "")
    assert "AirflowTaskTimeout" in failure.traceback
    assert row.payload["values"].keys() == {"task/slow/duration_s", "task/slow/tries"}
