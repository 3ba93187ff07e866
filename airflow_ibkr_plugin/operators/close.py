"""Closing what a strategy holds, or a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.operators.base import BrokerOperator, TaskRun


class CloseOperator(BrokerOperator):
    """Closes what the strategy holds of an instrument by a market order, through the one order path, exactly once.

    The stops and targets of its brackets are cancelled first, confirmed; what is left of the position has its stop
    again afterwards. It never goes through zero, and works while trading is REDUCING.

    :param share: only this share of the position, above 0, at most 1. :param quantity: only so many units.
    :param mode: paper or live. :param wait_seconds: how long to wait for the fill before what is left is cancelled.
    :raises ConfigError: both a share and a quantity are given, or one that cannot be.
    """

    template_fields: Sequence[str] = ("symbol",)
    ui_color = "#f9d9d4"

    def __init__(
        self,
        *,
        symbol: str | Mapping[str, Any],
        share: float | None = None,
        quantity: float | None = None,
        mode: str = "paper",
        wait_seconds: float = 60.0,
        **kwargs: Any,
    ) -> None:
        from airflow_ibkr_plugin.execution.reduce import Reduction

        super().__init__(**kwargs)
        self.symbol = symbol
        self.share = share
        self.quantity = quantity
        self.mode = mode
        self.wait_seconds = wait_seconds
        Reduction(share=_decimal(share), quantity=_decimal(quantity))

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """See the class.

        :raises OrderRejected: the broker refused the order; confirmed with the broker.
        :raises AmbiguousOrder: whether the broker has the order could not be established.
        """
        from airflow_ibkr_plugin.broker.contracts import pin
        from airflow_ibkr_plugin.errors import OrderRejected
        from airflow_ibkr_plugin.execution.reduce import Closing, Reduction, close_position
        from airflow_ibkr_plugin.execution.summary import record_order
        from airflow_ibkr_plugin.store.database import installation_id
        from airflow_ibkr_plugin.store.generations import Generations
        from airflow_ibkr_plugin.trading.brackets import CLOSE_LEG
        from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
        from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState

        spec = InstrumentSpec.parse(self.symbol)
        with self.broker(run) as broker:
            instrument = pin(broker, self.database, spec)
            with self.database.write() as session:
                key = IntentKey(
                    installation=installation_id(session),
                    dag_id=run.dag_id,
                    run_id=run.run_id,
                    task_id=run.task_id,
                    con_id=instrument.con_id,
                    leg=CLOSE_LEG,
                    generation=Generations(session).current(run.dag_id, run.run_id, run.task_id, instrument.con_id),
                )
            closing = Closing(
                key=key,
                strategy=self.strategy,
                source=broker.source,
                account=broker.account,
                mode=self.mode,
                instrument=instrument,
                reduction=Reduction(share=_decimal(self.share), quantity=_decimal(self.quantity)),
                wait_seconds=self.wait_seconds,
            )
            try:
                outcome = close_position(broker, self.database, closing, owner=run.owner)
            finally:
                record_order(self.database, run.dag_id, run.run_id, key.order_ref)
        if outcome is None:
            self.log.info("%s: %s holds nothing", spec.name, self.strategy)
            return {"symbol": spec.name, "state": "flat"}
        self.log.info("%s: order %s is %s. %s", spec.name, outcome.order_ref, outcome.state, outcome.reason)
        if outcome.state is IntentState.REJECTED:
            raise OrderRejected(
                f"the broker refused order {outcome.order_ref} for {spec.name}: {outcome.reason}",
                remedy="Mend what the broker names; a new run closes anew.",
            )
        return outcome.to_dict()


def _decimal(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))
