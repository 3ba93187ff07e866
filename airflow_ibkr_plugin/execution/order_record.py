"""All that is stored of an order, from the decision to its fills, as plain values for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.generations import Generations
from airflow_ibkr_plugin.store.intent_notes import IntentNotes
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.store.models.base import Base
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

_ORDER = (
    "order_ref",
    "state",
    "reason",
    "strategy",
    "dag_id",
    "run_id",
    "task_id",
    "generation",
    "leg",
    "parent_id",
    "bracket",
    "source",
    "account",
    "mode",
    "symbol",
    "con_id",
    "side",
    "requested_quantity",
    "quantity",
    "order_type",
    "limit_price",
    "stop_price",
    "trail_amount",
    "trail_percent",
    "tif",
    "outside_rth",
    "perm_id",
    "client_id",
    "order_id",
    "broker_day",
    "created_at",
    "sent_at",
    "updated_at",
    "lease_owner",
    "lease_until",
)
_TRANSITION = ("at", "from_state", "to_state", "reason")
_NOTE = ("at", "kind", "text", "noted_by")
_DECISION = ("created_at", "rule", "outcome", "limit_value", "observed", "quantity", "reason")
_BROKER_ORDER = (
    "perm_id",
    "client_id",
    "order_id",
    "order_ref",
    "status",
    "side",
    "quantity",
    "filled",
    "average_price",
    "order_type",
    "limit_price",
    "stop_price",
    "tif",
    "reason",
    "first_seen_at",
    "updated_at",
)
_FILL = (
    "time",
    "exec_id",
    "side",
    "quantity",
    "price",
    "commission",
    "commission_currency",
    "realized_pnl",
    "perm_id",
    "order_ref",
    "exchange",
    "booked_at",
)
_RAISE = ("generation", "raised_by", "reason", "at")


def order_line(transaction: Session, row: OrderIntent) -> dict[str, Any]:
    """One order in a list."""
    fills = Executions(transaction).for_intent(row.id)
    line = _pick(row, ("created_at", "strategy", "run_id", "symbol", "leg", "side", "quantity"))
    line["filled"] = sum((fill.quantity for fill in fills), Decimal(0))
    return line | _pick(row, ("order_type", "limit_price", "stop_price", "tif", "state", "reason", "order_ref"))


def order_record(transaction: Session, row: OrderIntent) -> dict[str, Any]:
    """The order, and in lists: `transitions`, `notes`, `risk_decisions`, `broker_orders`, `fills`, `generation_raised`.

    `broker_orders` are as last reported; more than one means that it was placed twice. A second permId of one order,
    and a change by hand in TWS, are in `notes`.
    """
    raised = Generations(transaction).latest(row.dag_id, row.run_id, row.task_id, row.con_id)
    return {
        **_pick(row, _ORDER),
        "transitions": _rows(Intents(transaction).transitions(row.id), _TRANSITION),
        "notes": _rows(IntentNotes(transaction).for_intent(row.id), _NOTE),
        "risk_decisions": _rows(RiskDecisions(transaction).for_intent(row.id), _DECISION),
        "broker_orders": _rows(Orders(transaction).for_intent(row.id), _BROKER_ORDER),
        "fills": _rows(Executions(transaction).for_intent(row.id), _FILL),
        "generation_raised": _rows([raised] if raised is not None else [], _RAISE),
    }


def _rows(rows: Sequence[Base], names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [_pick(row, names) for row in rows]


def _pick(row: Base, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}
