"""Trading once more for a task of a run whose order was decided already: only by a person's leave, stored as such."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError, IntentBusy
from airflow_ibkr_plugin.store.generations import Generations
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, TERMINAL, BracketState, IntentState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.again import GenerationRow
    from airflow_ibkr_plugin.store.models.orders import OrderIntent


def raise_generation(
    database: Database, dag_id: str, run_id: str, task_id: str, *, symbol: str = "", by: str, reason: str
) -> GenerationRow:
    """Let the next try of a task trade again, under a new orderRef; of several people at once, one does.

    All orders of the generation before must have ended, legs of a bracket included, and no worker may be at work on
    any order of the run.

    :param symbol: which of the task's instruments; needed where it has more than one, as a mapped task has.
    :param by: who lets it, for the record.
    :raises ConfigError: there is no such order, it has not ended, or the last raise is not used yet.
    :raises IntentBusy: a worker is at work on an order of the run.
    """
    if not reason.strip():
        raise ConfigError("To trade again needs a reason.", remedy="Say why: --reason TEXT.")
    at = datetime.now(UTC)
    with database.write(serialize=f"generation:{dag_id}:{run_id}:{task_id}") as transaction:
        of_run = Intents(transaction).for_run(dag_id, run_id)
        rows = _of_one_instrument([row for row in of_run if row.task_id == task_id], symbol, f"{task_id} of {run_id}")
        _refuse_at_work(of_run, at)
        generations, con_id = Generations(transaction), rows[0].con_id
        latest = generations.latest(dag_id, run_id, task_id, con_id)
        current = latest.generation if latest is not None else 0
        last = [row for row in rows if row.generation == current]
        if latest is not None and not last:
            raise ConfigError(
                f"{latest.raised_by} raised {latest.symbol} of {task_id} to generation {current} at"
                f" {latest.at:%Y-%m-%d %H:%M:%S} UTC, and the task has not run since.",
                remedy="Clear the task in Airflow: its next try trades.",
            )
        for row in last:
            _refuse_unfinished(row)
        return generations.add(
            dag_id,
            run_id,
            task_id,
            con_id,
            symbol=rows[0].symbol,
            generation=current + 1,
            by=by,
            reason=reason,
            at=at,
        )


def _of_one_instrument(rows: Sequence[OrderIntent], symbol: str, whose: str) -> list[OrderIntent]:
    found = [row for row in rows if symbol in ("", row.symbol)]
    if not found:
        known = ", ".join(sorted({row.symbol for row in rows}))
        raise ConfigError(
            f"No order{f' in {symbol}' if symbol else ''} of task {whose} is on record"
            f"{f', only in {known}' if known else ''}.",
            remedy="See `airflow ibkr orders list`. What was never decided needs no leave: clear the task.",
        )
    if len({row.con_id for row in found}) > 1:
        raise ConfigError(
            f"Task {whose} has orders in {', '.join(sorted({row.symbol for row in found}))}.",
            remedy="Name one of them: --symbol SYMBOL.",
        )
    return found


def _refuse_at_work(rows: Sequence[OrderIntent], now: datetime) -> None:
    for row in rows:
        if row.lease_until is not None and row.lease_until > now:
            raise IntentBusy(
                f"Order {row.order_ref} ({row.symbol}) of this run is being worked on by {row.lease_owner}.",
                remedy="Wait until that has ended, and try again.",
                retry_after=(row.lease_until - now).total_seconds(),
            )


def _refuse_unfinished(row: OrderIntent) -> None:
    name = f"Order {row.order_ref} ({row.side} {row.quantity:f} {row.symbol}, {row.leg})"
    if row.bracket is BracketState.OPEN:
        raise ConfigError(
            f"The bracket of {name} is open: what it brought is held, and a stop for it works or is made anew.",
            remedy=f"Close it first: airflow ibkr close --strategy {row.strategy} --symbol {row.symbol}.",
        )
    if row.state in TERMINAL:
        return
    if row.state is IntentState.AMBIGUOUS:
        raise ConfigError(
            f"{name} is ambiguous: the broker may have it, and another would be the second.",
            remedy="Clear the task, which asks the broker again; or look in TWS, and see `airflow ibkr orders settle`.",
        )
    if row.state in MAYBE_AT_BROKER:
        raise ConfigError(
            f"{name} is {row.state}: it may still be at the broker, and another would be the second.",
            remedy="Wait for its end, or cancel it in TWS; the service, or a clear of the task, books that.",
        )
    raise ConfigError(
        f"{name} is {row.state}: nothing was sent.", remedy="Clear the task in Airflow: that goes on with it."
    )
