"""Booking from a Flex statement what our books lack: each execution once, and the ends that it proves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import ConfigError, IntentBusy
from airflow_ibkr_plugin.execution.flex_ends import day_is_over
from airflow_ibkr_plugin.execution.flex_fills import Imported, OrderFills
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.orders import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.sources import gateway_kind, same_kind
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, IntentState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.flex import FlexTrade, Period, Statement
    from airflow_ibkr_plugin.store.database import Database


class _DryRun(Exception):
    """Rolls back."""


def import_statement(database: Database, statement: Statement, *, conn_id: str = "", dry_run: bool = False) -> Imported:
    """Book the statement in one transaction: all of it, or nothing. Importing it again changes nothing.

    :param conn_id: only for accounts by this connection, where gateways of several kinds have the same account.
    :param dry_run: find out all, and store nothing.
    :raises ConfigError: an account that we never traded, or a trade that contradicts our order; names the line.
    :raises IntentBusy: a worker is at work on an order of it. :raises StoreError: the trading database failed.
    """
    found = Imported(skipped=list(statement.skipped))
    try:
        with database.write(serialize="flex") as transaction:
            for account in dict.fromkeys(period.account for period in statement.periods):
                _Import(transaction, statement, account, conn_id, found).run()
            if dry_run:
                raise _DryRun
    except _DryRun:
        pass
    return found


class _Import:
    """One account of a statement."""

    def __init__(self, transaction: Session, statement: Statement, account: str, conn_id: str, found: Imported) -> None:
        self._session = transaction
        self._statement = statement
        self._account = account
        self._found = found
        self._at = datetime.now(UTC)
        self._source = self._source_of(conn_id)
        self._last = max(period.last for period in self._periods())
        self._trades = [trade for trade in statement.trades if trade.execution.account == account]

    def run(self) -> None:
        """Book executions, then ends."""
        intents = self._intents()
        by_ref, by_perm_id = {row.order_ref: row for row in intents}, self._by_perm_id(intents)
        groups: defaultdict[int, list[FlexTrade]] = defaultdict(list)
        for trade in self._trades:
            row = by_ref.get(trade.execution.order_ref) or by_perm_id.get(trade.execution.perm_id)
            if row is None:
                self._store_foreign(trade)
                continue
            self._check(trade, row)
            groups[row.id].append(trade)
        for intent_id, trades in groups.items():
            row = self._session.get_one(OrderIntent, intent_id)
            OrderFills(
                session=self._session,
                row=row,
                trades=trades,
                found=self._found,
                name=self._statement.name,
                last=self._last,
                at=self._at,
            ).book()
        for row in self._alive():
            self._end(row)

    # --- what belongs to what -----------------------------------------------------------------------------

    def _source_of(self, conn_id: str) -> str:
        query = select(OrderIntent.source).where(OrderIntent.account == self._account).distinct()
        known = sorted(self._session.scalars(query))
        sources = [source for source in known if conn_id in ("", source.partition(":")[2])]
        name = self._statement.name
        if not sources:
            raise ConfigError(
                f"{name}: this trading database has no order of account {self._account}"
                + (f" by connection {conn_id!r}." if conn_id else "."),
                remedy="Import the statement of an account that is traded here.",
            )
        if len({gateway_kind(source) for source in sources}) > 1:
            raise ConfigError(
                f"{name}: account {self._account} was traded at {', '.join(sources)}.",
                remedy="Say which is meant: --connection NAME.",
            )
        return sources[0]

    def _intents(self) -> list[OrderIntent]:
        refs = {trade.execution.order_ref for trade in self._trades} - {""}
        perm_ids = {trade.execution.perm_id for trade in self._trades} - {0}
        query = select(OrderIntent).where(
            same_kind(OrderIntent.source, self._source), OrderIntent.account == self._account
        )
        found: dict[int, OrderIntent] = {}
        for column, values in ((OrderIntent.order_ref, sorted(refs)), (OrderIntent.perm_id, sorted(perm_ids))):
            for start in range(0, len(values), 1000):
                chunk = query.where(column.in_(values[start : start + 1000]))
                found |= {row.id: row for row in self._session.scalars(chunk)}
        return list(found.values())

    def _by_perm_id(self, intents: Sequence[OrderIntent]) -> dict[int, OrderIntent]:
        """Orders by permId: a row that takes a trade back has no reference, and we may have never heard the permId."""
        by_ref = {row.order_ref: row for row in intents}
        found = {row.perm_id: row for row in intents if row.perm_id}
        for trade in self._trades:
            if (row := by_ref.get(trade.execution.order_ref)) and trade.execution.perm_id:
                found.setdefault(trade.execution.perm_id, row)
        unknown = {trade.execution.perm_id for trade in self._trades if trade.cancelled} - found.keys() - {0}
        query = select(ExecutionRow.perm_id, OrderIntent).join(OrderIntent, OrderIntent.id == ExecutionRow.intent_id)
        query = query.where(same_kind(ExecutionRow.source, self._source), ExecutionRow.account == self._account)
        for perm_id, row in self._session.execute(query.where(ExecutionRow.perm_id.in_(unknown))):
            found[perm_id] = row
        return found

    def _check(self, trade: FlexTrade, row: OrderIntent) -> None:
        fill = trade.execution
        if (fill.con_id, fill.side) != (row.con_id, row.side):
            self._refuse(
                trade,
                f"{fill.side} of conId {fill.con_id}, and order {row.order_ref} is {row.side} of conId {row.con_id}",
                "Look the order up in TWS; the statement may be of another installation.",
            )
        if worker := self._worker(row):
            raise IntentBusy(
                f"Order {row.order_ref} is being worked on by {worker}.", remedy="Import again in a minute."
            )

    def _worker(self, row: OrderIntent) -> str:
        """Who is at work on it, an exit of a bracket with its entry; '' where nobody is."""
        head = self._session.get_one(OrderIntent, row.parent_id or row.id)
        held = head.lease_until is not None and head.lease_until > self._at
        return head.lease_owner or "" if held else ""

    def _refuse(self, trade: FlexTrade, what: str, remedy: str) -> None:
        raise ConfigError(f"{self._statement.name}:{trade.line}: {what}; nothing is stored.", remedy=remedy)

    # --- executions ---------------------------------------------------------------------------------------

    def _store_foreign(self, trade: FlexTrade) -> None:
        if trade.cancelled:
            self._found.foreign_back += 1
            return
        query = select(ExecutionRow.exec_id).where(
            same_kind(ExecutionRow.source, self._source), ExecutionRow.exec_id == trade.execution.exec_id
        )
        if self._session.scalar(query) is None:
            Executions(self._session).record(self._source, trade.execution, None, self._at)
            self._found.foreign += 1
        else:
            self._found.foreign_known += 1

    # --- ends ---------------------------------------------------------------------------------------------

    def _alive(self) -> list[OrderIntent]:
        query = select(OrderIntent).where(
            same_kind(OrderIntent.source, self._source),
            OrderIntent.account == self._account,
            OrderIntent.state.in_(MAYBE_AT_BROKER),
        )
        return list(self._session.scalars(query.order_by(OrderIntent.id)))

    def _end(self, row: OrderIntent) -> None:
        filled = sum((fill.quantity for fill in Executions(self._session).for_intent(row.id)), Decimal(0))
        if filled >= row.quantity:
            state, why = IntentState.FILLED, f"filled {filled:f}"
        elif any(day_is_over(row, period) for period in self._periods()):
            unseen = not filled and row.perm_id is None and row.state is IntentState.AMBIGUOUS
            state = IntentState.ABANDONED if unseen else IntentState.CANCELLED
            why = f"filled {filled:f} of {row.quantity:f} by the end of its day"
        else:
            return
        if self._worker(row):
            return  # whoever works on it asks by itself
        reason = f"Flex statement {self._statement.name}: {why}"
        Intents(self._session).transition(row, state, at=self._at, reason=reason)
        self._found.ended.append(f"{row.strategy} {row.order_ref} ({row.symbol}): {state}, {why}")

    def _periods(self) -> list[Period]:
        return [period for period in self._statement.periods if period.account == self._account]
