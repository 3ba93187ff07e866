"""What a task asks of the order path, and what it gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.execution.intent import Job, ticket_of
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket
from airflow_ibkr_plugin.trading.plans import TicketPlan
from airflow_ibkr_plugin.trading.risk import RiskRule
from airflow_ibkr_plugin.trading.signals import Signal

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.models.orders import OrderIntent


@dataclass(frozen=True, kw_only=True)
class OrderRequest:
    """One order that a task wants to have placed exactly once.

    :param source, account: where it is traded, as the broker session says them.
    :param mode: `paper` or `live`: what the workflow says.
    :param ticket: the order, or a plan that is sized when the intent is first stored and never again.
    :param rules: risk rules with their parameters; those that are always on need not be among them.
    :param wait_seconds: how long to wait for the order to fill; what is left then is cancelled.
    :param leave_working: not cancelled but left at the broker, for the service to book what becomes of it.
    :param allow_short: whether a SELL may go beyond what the strategy holds.
    """

    key: IntentKey
    strategy: str
    source: str
    account: str
    mode: str
    instrument: Instrument
    ticket: OrderTicket | TicketPlan
    rules: tuple[tuple[RiskRule, Mapping[str, Any]], ...] = ()
    signal: Signal | None = None
    signal_id: int | None = None
    wait_seconds: float = 60.0
    leave_working: bool = False
    allow_short: bool = False


def request_of(row: OrderIntent, wait_seconds: float) -> OrderRequest:
    """The request as it can be read from the stored intent: to finish an order, never to decide on one."""
    return OrderRequest(
        key=IntentKey(
            installation=row.installation,
            dag_id=row.dag_id,
            run_id=row.run_id,
            task_id=row.task_id,
            con_id=row.con_id,
            leg=row.leg,
            generation=row.generation,
        ),
        strategy=row.strategy,
        source=row.source,
        account=row.account,
        mode=row.mode,
        instrument=Instrument.from_dict(row.instrument),
        ticket=ticket_of(row),
        signal_id=row.signal_id,
        wait_seconds=wait_seconds,
    )


def job_of(job: Job, row: OrderIntent, *, wait_seconds: float = 0.0) -> Job:
    """The same attempt, at an exit of the intent's bracket: it stands under the same lease.

    :param wait_seconds: see :class:`OrderRequest`; what has not filled by then is left working.
    """
    request = replace(request_of(row, wait_seconds), leave_working=True)
    return replace(job, intent_id=row.id, request=request)
