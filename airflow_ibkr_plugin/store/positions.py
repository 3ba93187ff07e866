"""Positions: a strategy's own, derived from its executions, and the account's as the broker reports it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.database import lock
from airflow_ibkr_plugin.store.holdings import Holding
from airflow_ibkr_plugin.store.models.orders import ExecutionRow
from airflow_ibkr_plugin.store.models.portfolio import PositionRow
from airflow_ibkr_plugin.store.sources import same_kind
from airflow_ibkr_plugin.store.sql import upsert
from airflow_ibkr_plugin.trading.portfolio import Position

ACCOUNT = ""  # in place of a strategy: the account as a whole
_KEYS = ("source", "account", "strategy", "con_id")


class Positions:
    """Positions by source, account, strategy and con_id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def apply(
        self, execution: ExecutionRow, strategy: str, *, at: datetime, currency: str = "USD", sec_type: str = "STK"
    ) -> PositionRow:
        """Bring a strategy's position up to date with an execution, in the transaction that records it.

        The position is added up anew from all executions of the strategy in the instrument, by their time. So a
        second report changes nothing, and a commission or a fill that comes late ends up where it belongs.

        :param execution: the row that :meth:`Executions.record` returned, in this session.
        :param currency: the instrument's. A commission in another one stays on its execution and out of the cost.
        :raises ValueError: the execution is not the strategy's.
        """
        if strategy == ACCOUNT or execution.strategy != strategy:
            raise ValueError(f"execution {execution.exec_id} belongs to {execution.strategy!r}, not to {strategy!r}")
        key = {
            "source": execution.source,
            "account": execution.account,
            "strategy": strategy,
            "con_id": execution.con_id,
        }
        # Two fills at once must not each add up without the other.
        lock(self._session, "position:" + ":".join(str(part) for part in key.values()))
        holding = self._add_up(execution, currency)
        row = key | {
            "symbol": execution.symbol,
            "sec_type": sec_type,
            "currency": currency,
            "quantity": holding.quantity,
            "average_cost": holding.average_cost,
            "realized_pnl": holding.realized_pnl,
            "updated_at": at,
        }
        upsert(self._session, PositionRow, _KEYS, [row])
        return self._session.get_one(PositionRow, tuple(key.values()))

    def _add_up(self, execution: ExecutionRow, currency: str) -> Holding:
        self._session.flush()
        query = (
            select(
                ExecutionRow.side,
                ExecutionRow.quantity,
                ExecutionRow.price,
                ExecutionRow.commission,
                ExecutionRow.commission_currency,
            )
            .where(
                ExecutionRow.source == execution.source,
                ExecutionRow.account == execution.account,
                ExecutionRow.strategy == execution.strategy,
                ExecutionRow.con_id == execution.con_id,
            )
            .order_by(ExecutionRow.time, ExecutionRow.exec_id)
        )
        holding = Holding()
        for side, quantity, price, commission, paid_in in self._session.execute(query):
            cost = commission if commission is not None and paid_in in ("", currency) else Decimal(0)
            holding = holding.after(side.sign * quantity, price, cost)
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
        query = select(PositionRow).where(
            same_kind(PositionRow.source, source), PositionRow.account == account, PositionRow.strategy != ACCOUNT
        )
        if con_id is not None:
            query = query.where(PositionRow.con_id == con_id)
        return self._session.scalars(query.order_by(PositionRow.con_id, PositionRow.source, PositionRow.strategy)).all()

    def list(self, source: str | None = None, strategy: str | None = None) -> list[PositionRow]:
        """Positions, flat ones included, by symbol."""
        query = select(PositionRow)
        if source is not None:
            query = query.where(PositionRow.source == source)
        if strategy is not None:
            query = query.where(PositionRow.strategy == strategy)
        return [*self._session.scalars(query.order_by(PositionRow.symbol, PositionRow.con_id, PositionRow.account))]
