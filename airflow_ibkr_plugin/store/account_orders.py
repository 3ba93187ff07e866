"""The orders of an account, by whichever connection: what is open, and what was ordered lately."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Integer, bindparam, func, or_, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.intents import NO_INTENT, counted_on_day
from airflow_ibkr_plugin.store.models.orders import RESERVING, ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.sources import like_kind, of_kind
from airflow_ibkr_plugin.store.splits import Splits
from airflow_ibkr_plugin.trading.executions import in_force
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import IntentState
from airflow_ibkr_plugin.trading.risk_facts import OpenOrder, OrderHistory, PastOrder


class AccountOrders:
    """The intents of one account; those of every connection to it count, where the kind of gateway is the source's.

    Of a bracket's exits no more can fill than its entry has, and one instead of the other: so much counts, once.

    :param excluding: id of an intent that is not counted, with its exits.
    """

    def __init__(self, session: Session, source: str, account: str, *, excluding: int | None = None) -> None:
        self._session = session
        self._place = {"kind": like_kind(source), "account": account, "excluding": excluding or NO_INTENT}

    def open(self) -> tuple[OpenOrder, ...]:
        """What is reserved or may be at the broker, less what is filled already; oldest first."""
        rows = self._session.execute(_OPEN, self._place).all()
        filled = self._filled([row.id for row in rows])
        remaining = {row.id: max(row.quantity - filled.get(row.id, Decimal(0)), Decimal(0)) for row in rows}
        exits: dict[int, list[int]] = {}
        for row in rows:
            if row.parent_id is not None:
                exits.setdefault(row.parent_id, []).append(row.id)
        for entry_id, ids in exits.items():
            largest = min(max(remaining[one] for one in ids), self._held(entry_id))
            remaining |= dict.fromkeys(ids, Decimal(0)) | {ids[0]: largest}
        return tuple(_open_order(row, remaining[row.id]) for row in rows)

    def _held(self, entry_id: int) -> Decimal:
        """What a bracket's entry has filled, less what its exits have, in shares of today."""
        columns = (OrderIntent.source, OrderIntent.account, OrderIntent.strategy, OrderIntent.con_id)
        family = select(OrderIntent.id, *columns)
        family = family.where(or_(OrderIntent.id == entry_id, OrderIntent.parent_id == entry_id))
        rows = {row.id: row for row in self._session.execute(family)}
        entry = rows[entry_id]
        splits = Splits(self._session, (entry.source, entry.account, entry.strategy, entry.con_id))
        held = Decimal(0)
        for fill in self._fills(rows):
            shares = fill.quantity * splits.shares_since(fill.time)
            held += shares if fill.intent_id == entry_id else -shares
        return max(held, Decimal(0))

    def _filled(self, intent_ids: Collection[int]) -> dict[int, Decimal]:
        """What each has filled, in the shares that it was sent for: a split cancels it."""
        totals: dict[int, Decimal] = {}
        for fill in self._fills(intent_ids):
            totals[fill.intent_id] = totals.get(fill.intent_id, Decimal(0)) + fill.quantity
        return totals

    def _fills(self, intent_ids: Collection[int]) -> list[Any]:
        return in_force(self._session.execute(_FILLS, {"intent_ids": list(intent_ids)})) if intent_ids else []

    def count_on_day(self, broker_day: date) -> int:
        """How many are reserved, or were sent, on the broker's day; as `Intents.count_on_day`, for all strategies."""
        return self._session.scalars(_ON_DAY, self._place | {"broker_day": broker_day}).one()

    def history(self, *, now: datetime, seconds: float, most: int) -> OrderHistory:
        """What was sent in the last seconds, or is reserved; of more than `most` orders the youngest.

        :param now: UTC now, the clock of `sent_at`.
        """
        reserved = self._session.execute(_RESERVED, self._place).all()
        latest = {"since": now - timedelta(seconds=seconds), "most": most}
        sent = self._session.execute(_SENT, self._place | latest).all()
        orders = tuple(_past_order(row, now) for row in (*reserved, *sent))
        return OrderHistory(orders=orders, seconds=seconds if len(sent) < most else orders[-1].age)


# What every order asks is made once: to make such a statement takes longer than to run it.
_HERE: tuple[ColumnElement[bool], ...] = (
    of_kind(OrderIntent.source),
    OrderIntent.account == bindparam("account"),
    OrderIntent.id != bindparam("excluding"),
    func.coalesce(OrderIntent.parent_id, 0) != bindparam("excluding"),
)
_OPEN = (
    select(
        OrderIntent.id,
        OrderIntent.parent_id,
        OrderIntent.strategy,
        OrderIntent.instrument,
        OrderIntent.side,
        OrderIntent.quantity,
        OrderIntent.reference_price,
        OrderIntent.limit_price,
        OrderIntent.stop_price,
    )
    .where(*_HERE, OrderIntent.state.in_(RESERVING))
    .order_by(OrderIntent.id)
)
_FILLS = select(
    ExecutionRow.exec_id,
    ExecutionRow.intent_id,
    ExecutionRow.quantity,
    ExecutionRow.time,
    ExecutionRow.taken_back_on,
).where(ExecutionRow.intent_id.in_(bindparam("intent_ids", expanding=True)))
_ON_DAY = counted_on_day(*_HERE)
_PAST = select(
    OrderIntent.strategy,
    OrderIntent.con_id,
    OrderIntent.side,
    OrderIntent.requested_quantity,
    OrderIntent.limit_price,
    OrderIntent.stop_price,
    OrderIntent.sent_at,
).where(*_HERE, OrderIntent.parent_id.is_(None))
_RESERVED = _PAST.where(OrderIntent.state == IntentState.RESERVED)
_SENT = (
    _PAST.where(OrderIntent.sent_at >= bindparam("since"))
    .order_by(OrderIntent.sent_at.desc())
    .limit(bindparam("most", type_=Integer))
)


def _open_order(row: Any, remaining: Decimal) -> OpenOrder:
    prices = (row.reference_price, row.limit_price, row.stop_price)
    return OpenOrder(
        strategy=row.strategy,
        instrument=Instrument.from_dict(row.instrument),
        side=row.side,
        remaining=remaining,
        price=max((price for price in prices if price is not None), default=None),
    )


def _past_order(row: Any, now: datetime) -> PastOrder:
    return PastOrder(
        strategy=row.strategy,
        con_id=row.con_id,
        side=row.side,
        quantity=row.requested_quantity,
        limit_price=row.limit_price,
        stop_price=row.stop_price,
        age=max((now - row.sent_at).total_seconds(), 0.0) if row.sent_at else 0.0,
    )
