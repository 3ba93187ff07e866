"""Positions follow splits: found where prices show them, booked for all holders at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.broker.splits import split_factors
from airflow_ibkr_plugin.errors import BrokerError, StoreError
from airflow_ibkr_plugin.execution.account_book import Look
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.store.models.reconciliations import AdjustmentKind, PositionAdjustment, ReconciliationRow
from airflow_ibkr_plugin.store.positions import ACCOUNT, Positions
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.sources import same_kind
from airflow_ibkr_plugin.trading.instruments import Instrument, SecType
from airflow_ibkr_plugin.trading.portfolio import Position
from airflow_ibkr_plugin.trading.reconcile import Difference, DifferenceKind, Result
from airflow_ibkr_plugin.trading.splits import Holder, HolderFill, Ratio, SplitPlan, plan, ratio_of

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database

log = logging.getLogger(__name__)

_NOBODY: Holder = ("", ACCOUNT)


@dataclass(frozen=True, kw_only=True)
class FoundSplit:
    """A split of a contract that an account holds.

    :param held: each holder's part before it is booked. :param price: of a new share, as the broker told last.
    """

    con_id: int
    symbol: str
    currency: str
    held: Mapping[Holder, Decimal]
    plan: SplitPlan
    price: Decimal
    reason: str

    @property
    def beside(self) -> Decimal:
        """What the account holds of it beside the strategies' books, after the split."""
        return self.plan.after.get(_NOBODY, Decimal(0))

    def __str__(self) -> str:
        parts = (
            f"{strategy or 'beside the books'} {self.held.get((source, strategy), Decimal(0)):f} -> {quantity:f}"
            for (source, strategy), quantity in sorted(self.plan.after.items())
        )
        return f"{self.symbol} split {self.plan.ratio} ({self.reason}): {', '.join(parts)}"


def explained_by_splits(
    session: BrokerSession,
    database: Database,
    seen: Look,
    differences: Iterable[Difference],
    stated: Mapping[str, Ratio],
) -> tuple[FoundSplit, ...]:
    """The splits that explain differences of positions: by what a person states, or what prices show.

    Never by the quantities alone: a position that is four times as large may be a purchase.
    """
    found = []
    held_at_broker = {position.con_id: position for position in seen.broker.positions}
    for one in differences:
        position = held_at_broker.get(one.con_id)
        if one.kind is not DifferenceKind.POSITION or position is None or position.sec_type != SecType.STOCK:
            continue
        if split := _explained(session, database, seen, position, stated.get(one.symbol)):
            found.append(split)
    return tuple(found)


def _explained(
    session: BrokerSession, database: Database, seen: Look, position: Position, stated: Ratio | None
) -> FoundSplit | None:
    fills = [fill for fill in seen.broker.executions if fill.con_id == position.con_id]
    if any(fill.exec_id not in seen.book.executions for fill in fills):
        return None  # not all that was traded today is booked: quantities prove nothing yet
    held: dict[Holder, Decimal] = {
        (source, strategy): quantity
        for (source, strategy, con_id), quantity in seen.holdings.items()
        if con_id == position.con_id
    }
    if beside := seen.book.unexplained.get(position.con_id):
        held[_NOBODY] = beside
    changes = [
        HolderFill(
            holder=(seen.sources[fill.order_ref], seen.book.orders[fill.order_ref].strategy),
            change=fill.side.sign * fill.quantity,
            time=fill.time,
        )
        for fill in fills
    ]
    now = session.now()
    for ratio, reason in _ratios(session, database, position, stated):
        explained = plan(held, changes, position.quantity, ratio, now)
        if explained is None or (explained.paid_out and not position.market_price):
            continue
        return FoundSplit(
            con_id=position.con_id,
            symbol=position.symbol,
            currency=position.currency,
            held=held,
            plan=explained,
            price=position.market_price or Decimal(0),
            reason=reason,
        )
    return None


def _ratios(
    session: BrokerSession, database: Database, position: Position, stated: Ratio | None
) -> Sequence[tuple[Ratio, str]]:
    if stated is not None:
        return [(stated, "stated by a person")]
    with database.read() as transaction:
        instrument = _instrument(transaction, session, position.con_id)
        agreed = Reconciliations(transaction, session.source, session.account).last_made(Result.AGREE)
    if instrument is None:
        return []
    try:
        factors = split_factors(session, database, instrument, since=agreed.at if agreed else None)
    except BrokerError as error:
        log.warning("%s: whether it was split cannot be told from its prices: %s", position.symbol, error)
        return []
    return [(ratio, "its prices show it") for factor in factors if (ratio := ratio_of(factor)) is not None]


def _instrument(transaction: Session, session: BrokerSession, con_id: int) -> Instrument | None:
    """As it was traded last."""
    query = select(OrderIntent.instrument).where(
        same_kind(OrderIntent.source, session.source),
        OrderIntent.account == session.account,
        OrderIntent.con_id == con_id,
    )
    stored = transaction.scalar(query.order_by(OrderIntent.id.desc()).limit(1))
    return None if stored is None else Instrument.from_dict(stored)


def apply_splits(
    transaction: Session, source: str, account: str, found: Iterable[FoundSplit], row: ReconciliationRow
) -> None:
    """Book the splits with the reconciliation that found them; all holders' positions follow, or none.

    :raises StoreError: a position was changed since it was looked at; nothing is stored.
    """
    for split in found:
        for holder, quantity in split.plan.after.items():
            if holder == _NOBODY:
                Reconciliations(transaction, source, account).set_unexplained(
                    {split.con_id: (split.symbol, quantity)}, by=row.made_by, reason=str(split), at=row.at
                )
            else:
                _adjust(transaction, account, split, holder, quantity, row)
        _tell(transaction, split, row)


def _adjust(
    transaction: Session, account: str, split: FoundSplit, holder: Holder, quantity: Decimal, row: ReconciliationRow
) -> None:
    source, strategy = holder
    positions = Positions(transaction)
    position = positions.get(source, account, strategy, split.con_id)
    ratio = split.plan.ratio
    adjustment = PositionAdjustment(
        kind=AdjustmentKind.SPLIT,
        source=source,
        account=account,
        strategy=strategy,
        con_id=split.con_id,
        new_shares=Decimal(ratio.new),
        old_shares=Decimal(ratio.old),
        paid_out=split.plan.paid_out.get(holder, Decimal(0)),
        price=split.price,
        currency=split.currency,
        at=split.plan.at,
        made_by=row.made_by,
        reason=split.reason,
        reconciliation_id=row.id,
    )
    transaction.add(adjustment)
    if position is None or positions.add_up_again(position, at=row.at).quantity != quantity:
        raise StoreError(
            f"{split.symbol} of {strategy} was traded while its split was booked; nothing is stored.",
            remedy="Nothing is to be done: the next reconciliation books it.",
        )


def _tell(transaction: Session, split: FoundSplit, row: ReconciliationRow) -> None:
    message = AlertMessage(
        severity=Severity.WARNING,
        title=f"[IBKR] {split.symbol} was split {split.plan.ratio}",
        summary=str(split),
        done=["The positions of the books follow it."],
        next_step="Check prices of orders and limits in units: IBKR cancels working orders of a stock that is split.",
    )
    key = f"split:{row.gateway}:{row.account}:{split.con_id}:{row.id}"
    enqueue(transaction, message, dedupe_key=key, strategy="", dag_id="", run_id="", at=row.at)
