"""What both sensors share: poke once in the worker, wait in the triggerer, record how long it took."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator

from airflow_ibkr_plugin.operators.base import TRY_FAILURES, TaskRun, record_try
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
        with self._recorded(context):
            if not self.poke(context):
                self.defer(
                    trigger=self.trigger(TaskRun.from_context(context).owner),
                    method_name="execute_complete",
                    timeout=timedelta(seconds=self.timeout),
                )
        return {"waited_s": self._waited(context)}

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """See the base class, which raises here when the wait took too long."""
        with self._recorded(context):
            return super().resume_execution(next_method, next_kwargs, context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """The triggerer has seen what was waited for, or an error that ends the wait."""
        raise_from_event(event)
        self.log.info("%s", event["detail"])
        return {"waited_s": self._waited(context)}

    @contextmanager
    def _recorded(self, context: Any) -> Iterator[None]:
        """Store how long the wait was, and its failure where it fails; not when it goes on in the triggerer."""
        run = TaskRun.from_context(context)
        try:
            yield
        except TRY_FAILURES as error:
            record_try(run, self._waited(context), error)
            raise
        record_try(run, self._waited(context), None)

    def _waited(self, context: Any) -> float:
        """Seconds since the try's first look."""
        now = datetime.now(UTC)
        return round((now - (context["ti"].start_date or now)).total_seconds(), 3)
