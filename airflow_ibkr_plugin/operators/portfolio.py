"""Positions and account, stored together."""

from __future__ import annotations

from typing import Any

from airflow_ibkr_plugin.operators.base import BrokerOperator, TaskRun


class PortfolioOperator(BrokerOperator):
    """Stores the account's positions and values as one atomic snapshot. Returns its figures."""

    ui_color = "#e0f0e3"

    def run_task(self, context: Any, run: TaskRun) -> dict[str, Any]:
        """See the class."""
        from airflow_ibkr_plugin.execution.portfolio import snapshot

        with self.broker(run) as session:
            taken = snapshot(session, self.database, dag_id=run.dag_id, run_id=run.run_id, task_id=run.task_id)
        self.log.info(
            "account %s: net liquidation %s %s, %d positions",
            taken.account,
            taken.net_liquidation,
            taken.currency,
            len(taken.positions),
        )
        return {
            "account": taken.account,
            "at": taken.at.isoformat(),
            "currency": taken.currency,
            "net_liquidation": str(taken.net_liquidation),
            "cash": str(taken.cash),
            "simulated": taken.simulated,
            "positions": {position.symbol: str(position.quantity) for position in taken.positions},
        }
