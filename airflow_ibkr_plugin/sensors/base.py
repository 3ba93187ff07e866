"""What both sensors share: poke once in the worker, wait in the triggerer, record how long it took."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator

from airflow_ibkr_plugin.operators.base import TaskRun
from airflow_ibkr_plugin.triggers.poll import raise_from_event

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.spec import GatewaySpec
    from airflow_ibkr_plugin.triggers.poll import PollTrigger


class BrokerSensor(BaseSensorOperator):
    """A sensor that asks the gateway.

    :param strategy: name of the strategy that waits.
    :param ibkr_conn_id: Airflow connection of type `ibkr`.
    :param poke_interval: seconds between two looks.
    :param timeout: seconds after which the wait is given up and the task fails.
    """

    template_fields: Sequence[str] = ()

    def __init__(
        self,
        *,
        strategy: str,
        ibkr_conn_id: str = "ibkr_default",
        poke_interval: float = 60.0,
        timeout: float = 4 * 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, timeout=timeout, mode="reschedule", **kwargs)
        self.strategy = strategy
        self.ibkr_conn_id = ibkr_conn_id

    def gateway(self) -> GatewaySpec:
        """The gateway of the connection."""
        from airflow_ibkr_plugin.hooks.ibkr import IBKRHook

        return IBKRHook(self.ibkr_conn_id).get_conn()

    @abstractmethod
    def poke(self, context: Any) -> bool:
        """Look once."""

    @abstractmethod
    def trigger(self, owner: str) -> PollTrigger:
        """What looks again while this task is deferred."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Look once; where that is not enough, give the slot back and wait in the triggerer."""
        if not self.poke(context):
            self.defer(
                trigger=self.trigger(TaskRun.from_context(context).owner),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.timeout),
            )
        return self._record(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """The triggerer has seen what was waited for, or an error that ends the wait."""
        raise_from_event(event)
        self.log.info("%s", event["detail"])
        return self._record(context)

    def _record(self, context: Any) -> dict[str, Any]:
        """Store how long the wait was, from the start of the try's first look."""
        from airflow_ibkr_plugin.store.database import open_database
        from airflow_ibkr_plugin.tracking.records import log_metrics

        run = TaskRun.from_context(context)
        now = datetime.now(UTC)
        started = context["ti"].start_date or now
        waited = (now - started).total_seconds()
        with open_database().write() as session:
            log_metrics(session, (run.dag_id, run.run_id), {f"{run.metric_prefix}/duration_s": waited}, now)
        return {"waited_s": round(waited, 3)}
