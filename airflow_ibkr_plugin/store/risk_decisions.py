"""What each risk rule said of each intent."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import bindparam, insert, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.orders import OrderIntent, RiskDecisionRow
from airflow_ibkr_plugin.trading.risk import RiskDecision


class RiskDecisions:
    """Decisions by intent, in the order the rules ran."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add_all(self, intent_id: int, decisions: Iterable[RiskDecision], at: datetime) -> None:
        """Store the decisions of one evaluation."""
        rows = [
            {
                "intent_id": intent_id,
                "rule": decision.rule,
                "outcome": decision.verdict.outcome,
                "reason": decision.verdict.reason,
                "limit_value": decision.verdict.limit,
                "observed": decision.verdict.observed,
                "quantity": decision.verdict.quantity,
                "created_at": at,
            }
            for decision in decisions
        ]
        if rows:
            self._session.execute(insert(RiskDecisionRow), rows)

    def for_intent(self, intent_id: int) -> list[RiskDecisionRow]:
        """The decisions on an intent."""
        return list(self._session.scalars(_FOR_INTENT, {"intent_id": intent_id}))

    def for_run(self, dag_id: str, run_id: str) -> list[RiskDecisionRow]:
        """The decisions on all intents of a run."""
        query = select(RiskDecisionRow).join(OrderIntent, OrderIntent.id == RiskDecisionRow.intent_id)
        query = query.where(OrderIntent.dag_id == dag_id, OrderIntent.run_id == run_id)
        return list(self._session.scalars(query.order_by(RiskDecisionRow.id)))


# Made once, as every order asks.
_FOR_INTENT = (
    select(RiskDecisionRow).where(RiskDecisionRow.intent_id == bindparam("intent_id")).order_by(RiskDecisionRow.id)
)
