"""The tables. Importing this package registers all of them on :class:`Base`.

A model whose domain value has the same name ends in `Row`.
"""

from airflow_ibkr_plugin.store.models.again import GenerationRow, IntentNote, NoteKind
from airflow_ibkr_plugin.store.models.base import Base, Meta
from airflow_ibkr_plugin.store.models.connections import ClientLease, LeaderRow, OrderIdRow
from airflow_ibkr_plugin.store.models.limits import AccountBookings, AccountPeak, LimitChange
from airflow_ibkr_plugin.store.models.market import BarRow, Chart, ContractPin, PacingEvent, PacingRequest, SignalRow
from airflow_ibkr_plugin.store.models.orders import (
    ExecutionRow,
    IntentTransition,
    OrderIntent,
    OrderRow,
    RiskDecisionRow,
)
from airflow_ibkr_plugin.store.models.outbox import AlertRow, TrackingRow
from airflow_ibkr_plugin.store.models.portfolio import AccountSnapshotRow, PositionRow
from airflow_ibkr_plugin.store.models.reconciliations import (
    AcceptedDifference,
    AdjustmentKind,
    NoticedSplit,
    PositionAdjustment,
    ReconciliationDifference,
    ReconciliationRow,
    UnexplainedPosition,
)
from airflow_ibkr_plugin.store.models.runs import Failure, Override, Run, RunState
from airflow_ibkr_plugin.store.models.trading_state import TradingCommand, TradingStateChange, TradingStateRow

__all__ = [
    "AcceptedDifference",
    "AccountBookings",
    "AccountPeak",
    "AccountSnapshotRow",
    "AdjustmentKind",
    "AlertRow",
    "BarRow",
    "Base",
    "Chart",
    "ClientLease",
    "ContractPin",
    "ExecutionRow",
    "Failure",
    "GenerationRow",
    "IntentNote",
    "IntentTransition",
    "LeaderRow",
    "LimitChange",
    "Meta",
    "NoteKind",
    "NoticedSplit",
    "OrderIdRow",
    "OrderIntent",
    "OrderRow",
    "Override",
    "PacingEvent",
    "PacingRequest",
    "PositionAdjustment",
    "PositionRow",
    "ReconciliationDifference",
    "ReconciliationRow",
    "RiskDecisionRow",
    "Run",
    "RunState",
    "SignalRow",
    "TrackingRow",
    "TradingCommand",
    "TradingStateChange",
    "TradingStateRow",
    "UnexplainedPosition",
]
