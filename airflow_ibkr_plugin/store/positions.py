"""Positions: a strategy's own, derived from its executions and splits, and the account's as the broker reports it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.database import lock
from airflow_ibkr_plugin.store.holdings import Holding
from airflow_ibkr_plugin.store.models.orders import ExecutionRow
from airflow_ibkr_plugin.store.models.portfolio import PositionRow
from airflow_ibkr_plugin.store.models.reconciliations import PositionAdjustment
from airflow_ibkr_plugin.store.sources import like_kind, of_kind
from airflow_ibkr_plugin.store.sql import upsert
from airflow_ibkr_plugin.trading.executions import in_force
from airflow_ibkr_plugin.trading.portfolio import Position

ACCOUNT = ""  # in place of a strategy: the account as a whole
_KEYS = ("source", "account", "strategy", "con_id")
#: Source, account, strategy, con_id.
Place = tuple[str, str, str, int]


class Positions:
    """Positions by source, account, strategy and con_id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def apply(
        self, execution: ExecutionRow, strategy: str, *, at: datetime, currency: str = "USD", sec_type: str = "STK"
    ) -> PositionRow:
        """Bring a strategy's position up to date with an execution, in the transaction that records it.

        The position is added up anew from all executions of the strategy in the instrument, by their time. So a
        second report changes nothing, and a commission, a fill or a correction that comes late ends up where it
        belongs.

        :param execution: the row that :meth:`Executions.record` returned, in this session.
        :param currency: the instrument's. A commission in another one stays on its execution and out of the cost.
        :raises ValueError: the execution is not the strategy's.
        """
        if strategy == ACCOUNT or execution.strategy != strategy:
            raise ValueError(f"execution {execution.exec_id} belongs to {execution.strategy!r}, not to {strategy!r}")
        place = (execution.source, execution.account, strategy, execution.con_id)
        return self._store(place, symbol=execution.symbol, sec_type=sec_type, currency=currency, at=at)

    def add_up_again(self, row: PositionRow, *, at: datetime) -> PositionRow:
        """Bring a strategy's position up to date with what was stored besides, such as a split."""
        place = (row.source, row.account, row.strategy, row.con_id)
        return self._store(place, symbol=row.symbol, sec_type=row.sec_type, currency=row.currency, at=at)

    def _store(self, place: Place, *, symbol: str, sec_type: str, currency: str, at: datetime) -> PositionRow:
        # Two fills at once must not each add up without the other.
        lock(self._session, "position:" + ":".join(str(part) for part in place))
        holding = self.replay(place, currency)
        row = dict(zip(_KEYS, place, strict=True)) | {
            "symbol": symbol,
            "sec_type": sec_type,
            "currency": currency,
            "quantity": holding.quantity,
            "average_cost": holding.average_cost,
            "realized_pnl": holding.realized_pnl,
            "updated_at": at,
        }
        upsert(self._session, PositionRow, _KEYS, [row])
        return self._session.get_one(PositionRow, place)

    def replay(self, place: Place, currency: str) -> Holding:
        """What a strategy's executions and splits of an instrument add up to, whatever the stored position says.

        :param currency: the instrument's. A commission in another one is no part of the cost.
        """
        self._session.flush()
        at = dict(zip(_KEYS, place, strict=True))
        events: list[tuple[datetime, int, str, Any]] = [
            *((fill.time, 1, fill.exec_id, fill) for fill in in_force(self._session.execute(_FILLS, at))),
            *((split.at, 0, f"{split.id:020}", split) for split in self._session.scalars(_SPLITS, at)),
        ]
        holding = Holding()
        for _, is_fill, _, event in sorted(events, key=lambda one: one[:3]):
            if is_fill:
                paid_here = event.commission is not None and event.commission_currency in ("", currency)
                cost = event.commission if paid_here else Decimal(0)
                holding = holding.after(event.side.sign * event.quantity, event.price, cost)
            else:
                holding = holding.split(event.new_shares, event.old_shares, event.paid_out, event.price)
        return holding

    def replace_account(self, source: str, account: str, positions: Iterable[Position], at: datetime) -> None:
        """Store the account's positions as the broker reports them; what it no longer reports goes."""
        rows = [
            {
                "source": source,
                "account": account,
                "strategy": ACCOUNT,
                "con_id": position.con_id,
                "symbol": position.symbol,
                "sec_type": position.sec_type,
                "currency": position.currency,
                "quantity": position.quantity,
                "average_cost": position.average_cost,
                "realized_pnl": position.realized_pnl,
                "updated_at": at,
            }
            for position in positions
        ]
        lock(self._session, f"positions:{source}:{account}")
        gone = delete(PositionRow).where(
            PositionRow.source == source,
            PositionRow.account == account,
            PositionRow.strategy == ACCOUNT,
            PositionRow.con_id.not_in([row["con_id"] for row in rows]),
        )
        self._session.execute(gone)
        upsert(self._session, PositionRow, _KEYS, rows)

    def get(self, source: str, account: str, strategy: str, con_id: int) -> PositionRow | None:
        """One position; `strategy` '' for the account's."""
        return self._session.get(PositionRow, (source, account, strategy, con_id))

    def of_strategies(self, source: str, account: str, con_id: int | None = None) -> Sequence[PositionRow]:
        """What each strategy holds in an account, by every connection to it (see `same_kind`).

        :param con_id: of this instrument; None for all.
        """
        query = _OF_STRATEGIES if con_id is None else _OF_STRATEGIES_IN
        return self._session.scalars(query, {"kind": like_kind(source), "account": account, "con_id": con_id}).all()

    def list(self, source: str | None = None, strategy: str | None = None) -> list[PositionRow]:
        """Positions, flat ones included, by symbol."""
        query = select(PositionRow)
        if source is not None:
            query = query.where(PositionRow.source == source)
        if strategy is not None:
            query = query.where(PositionRow.strategy == strategy)
        return [*self._session.scalars(query.order_by(PositionRow.symbol, PositionRow.con_id, PositionRow.account))]


# Made once, as every order asks.
_OF_STRATEGIES = (
    select(PositionRow)
    .where(of_kind(PositionRow.source), PositionRow.account == bindparam("account"), PositionRow.strategy != ACCOUNT)
    .order_by(PositionRow.con_id, PositionRow.source, PositionRow.strategy)
)
_OF_STRATEGIES_IN = _OF_STRATEGIES.where(PositionRow.con_id == bindparam("con_id"))


def _at(model: type[ExecutionRow] | type[PositionAdjustment]) -> tuple[ColumnElement[bool], ...]:
    return tuple(getattr(model, name) == bindparam(name) for name in _KEYS)


_FILLS = select(
    ExecutionRow.time,
    ExecutionRow.exec_id,
    ExecutionRow.side,
    ExecutionRow.quantity,
    ExecutionRow.price,
    ExecutionRow.commission,
    ExecutionRow.commission_currency,
    ExecutionRow.taken_back_on,
).where(*_at(ExecutionRow))
_SPLITS = select(PositionAdjustment).where(*_at(PositionAdjustment))
