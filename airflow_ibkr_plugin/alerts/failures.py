"""A failure: stored with all that is known of it, then told to people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.alerts.messages import Cause
from airflow_ibkr_plugin.alerts.messages import run_failed as run_failed_message
from airflow_ibkr_plugin.alerts.outbox import enqueue, run_failed_key
from airflow_ibkr_plugin.alerts.sender import DeliveryResult, deliver_due
from airflow_ibkr_plugin.errors import Family, IBKRPluginError
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, IntentState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.settings import Settings
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent
    from airflow_ibkr_plugin.store.models.runs import Failure

# States in which an order exists at the broker, or existed, or may.
_SENT = frozenset(
    {*MAYBE_AT_BROKER, IntentState.FILLED, IntentState.CANCELLED, IntentState.REJECTED},
)


def record_failure(
    session: Session,
    *,
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: int,
    try_number: int,
    at: datetime,
    error: BaseException | None = None,
    error_type: str = "",
    message: str = "",
    traceback: str = "",
    log_url: str = "",
) -> Failure:
    """Store a failed try in the caller's transaction; once for each try, however often it is called.

    :param task_id: '' for the run as a whole.
    :param map_index: -1 where the task is not mapped.
    :param error: the exception; where there is none, say what is known in `error_type` and `message`.
    """
    from airflow_ibkr_plugin.store.failures import Failures

    if error is not None:
        error_type, message = type(error).__name__, str(error)
    return Failures(session).add(
        dag_id=dag_id,
        run_id=run_id,
        task_id=task_id,
        map_index=map_index,
        try_number=try_number,
        family=error.family if isinstance(error, IBKRPluginError) else "",
        error_type=error_type,
        message=message,
        traceback=traceback,
        log_url=log_url,
        created_at=at,
    )


def run_failed(
    database: Database,
    settings: Settings,
    *,
    dag_id: str,
    run_id: str,
    strategy: str,
    reason: str,
    failed_tasks: Sequence[str],
    log_tail: str,
    airflow_url: str,
    mlflow_url: str,
    at: datetime,
) -> DeliveryResult:
    """Store that a run has failed after its last retry, store the alert, and try to deliver what is due.

    May be called twice for the same failure, as Airflow's callbacks are: the alert goes out once. A run that was
    cleared and failed again alerts again.

    :param failed_tasks: task ids, with the map index where mapped (`order[2]`); may be empty after a kill.
    :raises StoreError: the trading database fails. A target that fails is in the result.
    """
    from airflow_ibkr_plugin.store.failures import Failures
    from airflow_ibkr_plugin.store.intents import Intents

    with database.write() as session:
        failures = [row for row in Failures(session).for_run(dag_id, run_id) if row.task_id]
        last = failures[-1] if failures else None
        # Not a try that failed and was made good by the next one: only what the caller says has failed.
        causes = [cause for row in failures if (cause := _cause(row)).task in failed_tasks]
        message = run_failed_message(
            strategy=strategy,
            dag_id=dag_id,
            run_id=run_id,
            reason=reason,
            failed_tasks=failed_tasks,
            cause=causes[-1] if causes else None,
            orders=[_order_line(row) for row in Intents(session).for_run(dag_id, run_id) if row.state in _SENT],
            log_tail=log_tail,
            airflow_url=airflow_url,
            mlflow_url=mlflow_url,
        )
        record_failure(
            session,
            dag_id=dag_id,
            run_id=run_id,
            task_id="",
            map_index=-1,
            try_number=last.id if last else 0,  # a run has no tries; this tells its failures apart
            error_type=reason,
            message=message.summary,
            log_url=airflow_url,
            at=at,
        )
        # A later failure of a task is a new occasion; where none could be recorded, another day is.
        occasion = str(last.id) if last else f"{at:%Y-%m-%d}"
        enqueue(
            session,
            message,
            dedupe_key=run_failed_key(dag_id, run_id, occasion),
            strategy=strategy,
            dag_id=dag_id,
            run_id=run_id,
            at=at,
        )
    return deliver_due(database, settings.alert_urls, now=at)


def _cause(row: Failure) -> Cause:
    return Cause(
        task=f"{row.task_id}[{row.map_index}]" if row.map_index >= 0 else row.task_id,
        error_type=row.error_type,
        message=row.message,
        family=Family(row.family) if row.family else None,
    )


def _order_line(intent: OrderIntent) -> str:
    price = f" at {intent.limit_price}" if intent.limit_price is not None else ""
    known = f"permId {intent.perm_id}, " if intent.perm_id else ""
    doubt = " - not known whether the broker has it" if intent.state == IntentState.AMBIGUOUS else ""
    return (
        f"Order {intent.side} {intent.quantity.normalize():f} {intent.symbol} {intent.order_type}{price}: "
        f"{intent.state}{doubt} ({known}ref {intent.order_ref})."
    )
