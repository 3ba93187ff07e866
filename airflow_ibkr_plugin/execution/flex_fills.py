"""Booking what a Flex statement tells of one order's fills: each once, and what IBKR has taken back no more."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.execution.summary import masked
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intent_notes import IntentNotes
from airflow_ibkr_plugin.store.models.again import NoteKind
from airflow_ibkr_plugin.store.models.orders import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.positions import ACCOUNT, Positions
from airflow_ibkr_plugin.trading.cancellations import Booked, Row, Settled, same_trade, settle
from airflow_ibkr_plugin.trading.executions import fill_of
from airflow_ibkr_plugin.trading.orders import Execution

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.flex import FlexTrade

log = logging.getLogger(__name__)

_CENT = Decimal("0.01")


@dataclass
class Imported:
    """What an import did, or would do.

    :ivar booked: fills of ours that the books lacked. :ivar known: how many they had.
    :ivar taken_back: fills of ours that count no more. :ivar back_before: how many did not already.
    :ivar foreign: fills of orders that are not ours, stored beside. :ivar foreign_known: how many were.
    :ivar unmatched: trades of our orders that IBKR took back, and that the books do not have.
    :ivar foreign_back: how many of other orders it took back. :ivar ended: orders that the statement proves to be over.
    :ivar differing: figures that the statement and the books have otherwise; the books keep theirs.
    """

    booked: list[str] = field(default_factory=list)
    known: int = 0
    taken_back: list[str] = field(default_factory=list)
    back_before: int = 0
    foreign: int = 0
    foreign_known: int = 0
    unmatched: list[str] = field(default_factory=list)
    foreign_back: int = 0
    ended: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from (f"booked: {line}" for line in self.booked)
        yield from (f"taken back: {line}" for line in self.taken_back)
        yield from (f"not in the books, which IBKR took back: {line}" for line in self.unmatched)
        yield from (f"ended: {line}" for line in self.ended)
        yield from (f"differs: {line}" for line in self.differing)
        yield from (f"skipped, not traded by this package: {line}" for line in self.skipped)
        yield f"Fills of our orders: {len(self.booked)} booked, {self.known} were in the books already."
        if self.taken_back or self.back_before or self.unmatched or self.foreign_back:
            yield (
                f"Trades that IBKR took back: {len(self.taken_back)} count no more, {self.back_before} did not already,"
                f" {len(self.unmatched)} are not in the books, {self.foreign_back} are of other orders."
            )
        yield f"Fills of other orders: {self.foreign} stored beside, {self.foreign_known} were already."
        yield f"Orders ended: {len(self.ended)}."


@dataclass(frozen=True, kw_only=True)
class OrderFills:
    """What a statement tells of one order's fills.

    :param trades: rows of the statement about the order, as IBKR ordered them. :param name: of the statement.
    :param last: the last day that it tells of: what a later one said of a trade goes before what it says.
    """

    session: Session
    row: OrderIntent
    trades: Sequence[FlexTrade]
    found: Imported
    name: str
    last: date
    at: datetime

    @property
    def _executions(self) -> Executions:
        return Executions(self.session)

    def book(self) -> None:
        """Bring the order's executions and its strategy's position to what the books and the rows say together."""
        counted = {one.exec_id for one in self._executions.for_intent(self.row.id)}
        have = {one.exec_id: one for one in self._executions.of_all_versions(self.row.id)}
        settled, where = self._settle(list(have.values()))
        for exec_id, fill in settled.stated.items():
            have[exec_id] = self._record(fill, where[exec_id], settled)
        new = [have[exec_id] for exec_id in settled.taken_back if self._take_back(have[exec_id], where, settled)]
        gone = [one for one in new if one.exec_id in counted]
        self.found.unmatched += [self._unmatched(self.trades[number]) for number in settled.unmatched]
        if not have:
            return
        fills = self._executions.for_intent(self.row.id)
        Orders(self.session).keep_up(self.row.id, fills, self.at, taken_back=bool(gone))
        held = self._held()
        if self.row.strategy != ACCOUNT:
            Positions(self.session).apply(
                next(iter(have.values())),
                self.row.strategy,
                at=self.at,
                currency=self.trades[0].currency,
                sec_type=self.trades[0].sec_type.value,
            )
        for one in gone:
            self._tell(one, held)

    def _settle(self, have: Sequence[ExecutionRow]) -> tuple[Settled, dict[str, str]]:
        """What the rows say, and where in the file each execution stands last."""
        told = [trade.execution for trade in self.trades if not trade.cancelled]
        named = _same_fills(have, told)
        rows = [Row(self._ours(trade.execution, named), trade.cancelled) for trade in self.trades]
        booked = [Booked(_execution(one), one.taken_back_on is not None) for one in have]
        where = {
            row.fill.exec_id: f"{self.name}:{trade.line}: execution {row.fill.exec_id}"
            for row, trade in zip(rows, self.trades, strict=True)
            if not row.cancels
        }
        return settle(booked, rows), where

    def _ours(self, fill: Execution, named: dict[str, str]) -> Execution:
        row = self.row
        return replace(
            fill,
            exec_id=named.get(fill.exec_id, fill.exec_id),
            order_ref=row.order_ref,
            order_id=row.order_id or 0,
            client_id=row.client_id if row.client_id is not None else -1,
            symbol=row.symbol,
        )

    def _record(self, fill: Execution, where: str, settled: Settled) -> ExecutionRow:
        stored, is_new = self._executions.record(self.row.source, fill, self.row, self.at)
        stands = fill.exec_id not in settled.taken_back
        what = f"{_text(stored)}, {self.row.strategy} {self.row.order_ref}"
        if is_new:
            if stands:
                self.found.booked.append(what)
            return stored
        self.found.known += 1
        if stands and stored.taken_back_on is not None and stored.taken_back_on <= self.last:
            if fill.exec_id in settled.rebooked:
                stored.taken_back_on = None
                self.found.booked.append(f"{what}: IBKR had taken it back, and has booked it anew")
                self._note(f"IBKR has booked {_text(stored)} anew: execution {fill.exec_id}, {self.name}")
            else:
                self.found.differing.append(f"{where} stands; by the books IBKR has taken it back")
        if stands:
            self._compare(where, stored, fill)
        return stored

    def _compare(self, where: str, stored: ExecutionRow, fill: Execution) -> None:
        if (stored.side, stored.quantity, stored.price) != (fill.side, fill.quantity, fill.price):
            self.found.differing.append(
                f"{where}: {fill.side} {fill.quantity:f} at {fill.price:f}, in the books"
                f" {stored.side} {stored.quantity:f} at {stored.price:f}"
            )
        paid, booked = fill.commission, stored.commission
        if paid is not None and booked is not None and abs(booked - paid) >= _CENT:
            self.found.differing.append(f"{where}: commission {paid:f}, in the books {booked:f}")

    def _take_back(self, one: ExecutionRow, where: dict[str, str], settled: Settled) -> bool:
        """Let it count no more; whether it did."""
        if one.taken_back_on is not None:
            self.found.back_before += 1
            return False
        one.taken_back_on = self.last
        self.found.taken_back.append(f"{_text(one)}, {self.row.strategy} {self.row.order_ref}")
        kept = settled.taken_back[one.exec_id]
        if kept is not None and abs(kept) >= _CENT:
            place = where.get(one.exec_id, f"{self.name}: execution {one.exec_id}")
            self.found.differing.append(
                f"{place}: IBKR took it back, and keeps {kept:f} {one.commission_currency} of its commission, which the"
                " books count no more"
            )
        return True

    def _unmatched(self, trade: FlexTrade) -> str:
        fill = trade.execution
        return (
            f"{self.name}:{trade.line}: {fill.side} {fill.quantity:f} {fill.symbol} at {fill.price:f},"
            f" {fill.time:%Y-%m-%d %H:%M:%S} UTC, order {self.row.order_ref}. If a statement of its day is imported"
            " later, import this one again behind it."
        )

    def _held(self) -> Decimal:
        row = self.row
        position = Positions(self.session).get(row.source, row.account, row.strategy, row.con_id)
        return position.quantity if position is not None else Decimal(0)

    def _note(self, text: str) -> None:
        IntentNotes(self.session).add(self.row.id, NoteKind.TAKEN_BACK, text, at=self.at)

    def _tell(self, one: ExecutionRow, before: Decimal) -> None:
        row, what = self.row, f"IBKR took back {_text(one)}: execution {one.exec_id}, {self.name}"
        self._note(what)
        log.warning("%s: %s", row.order_ref, what)
        done = [f"Order {row.order_ref} counts as not filled by it."]
        if row.strategy != ACCOUNT:
            done.append(f"{row.strategy} holds {self._held():f} {row.symbol} by the books; it was {before:f}.")
        message = AlertMessage(
            severity=Severity.CRITICAL,
            title=f"[IBKR] {row.strategy or 'an account'}: a fill of {row.symbol} was taken back",
            summary=f"{what} (account {masked(row.account)}).",
            done=done,
            next_step="Look at the position and its orders in TWS: what is held again has no stop, and an exit may be"
            " for more than is held. Then `airflow ibkr reconcile`.",
        )
        enqueue(
            self.session,
            message,
            dedupe_key=f"taken-back:{one.source}:{one.exec_id}:{self.at.isoformat()}",
            strategy=row.strategy,
            dag_id=row.dag_id,
            run_id=row.run_id,
            at=self.at,
        )


def _text(one: ExecutionRow) -> str:
    when = f"{one.time:%Y-%m-%d %H:%M:%S} UTC"
    return f"{one.side} {one.quantity:f} {one.symbol} at {one.price:f}, {when}"


def _execution(row: ExecutionRow) -> Execution:
    return Execution(**{name: getattr(row, name) for name in Execution.__dataclass_fields__})


def _same_fills(have: Sequence[ExecutionRow], told: Sequence[Execution]) -> dict[str, str]:
    """execIds of the statement -> execIds under which the same fills are booked, where the two are written otherwise.

    Equal execIds are the same fill, and so are versions of one. Of the others, one booked and one told fill of the same
    side, quantity and price within the same second are taken for one; each only once.
    """
    booked = {fill_of(row.exec_id)[0] for row in have}
    named = {fill_of(fill.exec_id)[0] for fill in told}
    left = [row for row in have if fill_of(row.exec_id)[0] not in named]
    found: dict[str, str] = {}
    for fill in told:
        if fill_of(fill.exec_id)[0] in booked or fill.exec_id in found:
            continue
        same = next((row for row in left if same_trade(_execution(row), fill)), None)
        if same is not None:
            left.remove(same)
            found[fill.exec_id] = same.exec_id
    return found
