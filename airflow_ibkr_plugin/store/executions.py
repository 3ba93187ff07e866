"""Fills, each kept once however often the broker reports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, bindparam, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.bookings import Bookings
from airflow_ibkr_plugin.store.models.orders import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.sources import like_kind, of_kind
from airflow_ibkr_plugin.store.sql import insert_if_absent
from airflow_ibkr_plugin.trading.executions import in_force
from airflow_ibkr_plugin.trading.orders import Execution


class Executions:
    """Executions by source and execId."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def record(
        self, source: str, execution: Execution, intent: OrderIntent | None, at: datetime
    ) -> tuple[ExecutionRow, bool]:
        """Store a fill once; a commission that was not known the first time is filled in.

        :param intent: whose fill it is; None for an order that is not ours. An intent found later is filled in too.
        :returns: the row, and whether the fill was new. Call :meth:`Positions.apply` in either case. A fill that was
            taken back stays so.
        """
        values = asdict(execution) | {
            "source": source,
            "intent_id": intent.id if intent else None,
            "strategy": intent.strategy if intent else "",
            "booked_at": at,
        }
        bookings = Bookings(self._session, source, execution.account)
        bookings.hold()
        is_new = insert_if_absent(self._session, ExecutionRow, ("source", "exec_id"), values)
        row = self._session.scalars(_HELD, {"source": source, "exec_id": execution.exec_id}).one()
        if is_new:
            row.booking = bookings.next()
        if row.commission is None and execution.commission is not None:
            row.commission = execution.commission
            row.commission_currency = execution.commission_currency
            row.realized_pnl = execution.realized_pnl
        if row.intent_id is None and intent is not None:
            row.intent_id, row.strategy = intent.id, intent.strategy
        self._session.flush()
        return row, is_new

    def results(self, source: str, account: str, strategy: str, *, since: datetime, most: int) -> Sequence[Any]:
        """`exec_id`, `time`, `commission`, `realized_pnl` and `commission_currency` of a strategy's fills.

        The youngest first; what the broker has corrected since is left out, unless there are `most`.

        :param source: fills by every connection to the account (see `same_kind`). :param most: no more than so many.
        """
        place = {"kind": like_kind(source), "account": account, "strategy": strategy}
        found = self._session.execute(_RESULTS, place | {"since": since, "most": most}).all()
        return found if len(found) == most else in_force(found)

    def for_intent(self, intent_id: int) -> list[ExecutionRow]:
        """The fills of an intent by time; what the broker has corrected or taken back since is left out."""
        return in_force(self.of_all_versions(intent_id))

    def of_all_versions(self, intent_id: int) -> list[ExecutionRow]:
        """All that was ever booked of an intent, by time: also what counts no more."""
        return list(self._session.scalars(_FOR_INTENT, {"intent_id": intent_id}))

    def for_run(self, dag_id: str, run_id: str) -> list[ExecutionRow]:
        """The same of a run's intents."""
        query = select(ExecutionRow).join(OrderIntent, OrderIntent.id == ExecutionRow.intent_id)
        query = query.where(OrderIntent.dag_id == dag_id, OrderIntent.run_id == run_id)
        return in_force(self._session.scalars(query.order_by(ExecutionRow.time, ExecutionRow.exec_id)))


# Made once, as orders ask.
_HELD = (
    select(ExecutionRow)
    .where(ExecutionRow.source == bindparam("source"), ExecutionRow.exec_id == bindparam("exec_id"))
    .with_for_update()
    .execution_options(populate_existing=True)
)
_FOR_INTENT = (
    select(ExecutionRow)
    .where(ExecutionRow.intent_id == bindparam("intent_id"))
    .order_by(ExecutionRow.time, ExecutionRow.exec_id)
)
_RESULTS = (
    select(
        ExecutionRow.exec_id,
        ExecutionRow.time,
        ExecutionRow.commission,
        ExecutionRow.realized_pnl,
        ExecutionRow.commission_currency,
        ExecutionRow.taken_back_on,
    )
    .where(
        of_kind(ExecutionRow.source),
        ExecutionRow.account == bindparam("account"),
        ExecutionRow.strategy == bindparam("strategy"),
        ExecutionRow.time >= bindparam("since"),
    )
    .order_by(ExecutionRow.time.desc())
    .limit(bindparam("most", type_=Integer))
)
