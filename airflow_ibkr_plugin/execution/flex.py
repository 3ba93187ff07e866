"""Booking from a Flex statement what our books lack: each execution once, and the ends that it proves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import ConfigError, IntentBusy
from airflow_ibkr_plugin.execution.flex_ends import day_is_over
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.orders import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.positions import ACCOUNT, Positions
from airflow_ibkr_plugin.store.sources import gateway_kind, same_kind
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, Execution, IntentState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.flex import FlexTrade, Period, Statement
    from airflow_ibkr_plugin.store.database import Database

_CENT = Decimal("0.01")


@dataclass
class Imported:
    """What an import did, or would do.

    :ivar booked: fills of ours that the books lacked. :ivar known: how many they had. :ivar foreign: fills of orders
        that are not ours, stored beside. :ivar ended: orders that the statement proves to be over.
    :ivar differing: figures that the statement and the books have otherwise; the books keep theirs.
    """

    booked: list[str] = field(default_factory=list)
    known: int = 0
    foreign: int = 0
    ended: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from (f"booked: {line}" for line in self.booked)
        yield from (f"ended: {line}" for line in self.ended)
        yield from (f"differs: {line}" for line in self.differing)
        yield from (f"skipped, not traded by this package: {line}" for line in self.skipped)
        yield (
            f"{len(self.booked)} fills booked, {self.known} were booked already, {self.foreign} of orders that are not"
            f" ours, {len(self.ended)} orders ended."
        )


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
        self._trades = [trade for trade in statement.trades if trade.execution.account == account]

    def run(self) -> None:
        """Book executions, then ends."""
        intents = self._intents()
        groups: defaultdict[int, list[FlexTrade]] = defaultdict(list)
        for trade in self._trades:
            row = self._owner(trade, intents)
            if row is None:
                self._store_foreign(trade)
                continue
            if trade.cancelled:
                self._refuse(trade, "IBKR has taken back this trade of our order", "Tell TWS's figures by hand first.")
            self._check(trade, row)
            groups[row.id].append(trade)
        rows = {row.id: row for row in intents}
        for intent_id, trades in groups.items():
            self._book(rows[intent_id], trades)
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

    @staticmethod
    def _owner(trade: FlexTrade, intents: Sequence[OrderIntent]) -> OrderIntent | None:
        by_ref = next((row for row in intents if row.order_ref == trade.execution.order_ref), None)
        perm_id = trade.execution.perm_id
        return by_ref or next((row for row in intents if perm_id and row.perm_id == perm_id), None)

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
        query = select(ExecutionRow.exec_id).where(
            same_kind(ExecutionRow.source, self._source), ExecutionRow.exec_id == trade.execution.exec_id
        )
        if not trade.cancelled and self._session.scalar(query) is None:
            Executions(self._session).record(self._source, trade.execution, None, self._at)
            self._found.foreign += 1

    def _book(self, row: OrderIntent, trades: list[FlexTrade]) -> None:
        have = Executions(self._session).for_intent(row.id)
        named = _same_fills(have, [trade.execution for trade in trades])
        last = None
        for trade in trades:
            fill = replace(
                trade.execution,
                exec_id=named.get(trade.execution.exec_id, trade.execution.exec_id),
                order_ref=row.order_ref,
                order_id=row.order_id or 0,
                client_id=row.client_id if row.client_id is not None else -1,
                symbol=row.symbol,
            )
            last, is_new = Executions(self._session).record(row.source, fill, row, self._at)
            if is_new:
                what = f"{fill.side} {fill.quantity:f} {fill.symbol} at {fill.price:f}"
                self._found.booked.append(f"{what}, {fill.time:%Y-%m-%d %H:%M:%S} UTC, {row.strategy} {row.order_ref}")
            else:
                self._found.known += 1
                self._compare(trade, last, fill)
        if last is not None and row.strategy != ACCOUNT:
            Positions(self._session).apply(
                last, row.strategy, at=self._at, currency=trades[0].currency, sec_type=trades[0].sec_type.value
            )

    def _compare(self, trade: FlexTrade, row: ExecutionRow, fill: Execution) -> None:
        where = f"{self._statement.name}:{trade.line}: execution {fill.exec_id}"
        if (row.side, row.quantity, row.price) != (fill.side, fill.quantity, fill.price):
            self._found.differing.append(
                f"{where}: {fill.side} {fill.quantity:f} at {fill.price:f}, in the books"
                f" {row.side} {row.quantity:f} at {row.price:f}"
            )
        paid = fill.commission or Decimal(0)
        if row.commission is not None and abs(row.commission - paid) >= _CENT:
            self._found.differing.append(f"{where}: commission {paid:f}, in the books {row.commission:f}")

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


def _same_fills(have: Sequence[ExecutionRow], told: Sequence[Execution]) -> dict[str, str]:
    """execIds of the statement -> execIds under which the same fills are booked, where the two are written otherwise.

    Equal execIds are the same fill. Of the others, one booked and one told fill of the same side, quantity and price
    within the same second are taken for one; each only once.
    """
    booked, named = {row.exec_id for row in have}, {fill.exec_id for fill in told}
    left = [row for row in have if row.exec_id not in named]
    found: dict[str, str] = {}
    for fill in told:
        if fill.exec_id in booked:
            continue
        same = next(
            (
                row
                for row in left
                if (row.side, row.quantity, row.price) == (fill.side, fill.quantity, fill.price)
                and row.time.replace(microsecond=0) == fill.time
            ),
            None,
        )
        if same is not None:
            left.remove(same)
            found[fill.exec_id] = same.exec_id
    return found
