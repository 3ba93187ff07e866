"""The trading state of the installation and of each strategy, and the audit of its changes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import bindparam, or_, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.database import lock
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.store.models.runs import Run
from airflow_ibkr_plugin.store.models.trading_state import TradingStateChange, TradingStateRow
from airflow_ibkr_plugin.trading.trading_state import INSTALLATION, EffectiveState, TradingState

_LOCK = "trading-state"


class TradingStates:
    """States by strategy; `INSTALLATION` stands for the installation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def hold(self) -> None:
        """No state changes until the end of this transaction: what it commits comes before the next change."""
        lock(self._session, _LOCK, shared=True)

    def hold_alone(self) -> None:
        """Nobody holds the states until the end of this transaction: what others commit comes before or after it."""
        lock(self._session, _LOCK)

    def effective(self, strategy: str) -> EffectiveState:
        """The stricter of the installation's state and the strategy's; the installation's where they are equal."""
        rows = self._rows(strategy)
        mark = tuple((row.strategy, row.version) for row in rows)
        effective = EffectiveState(state=TradingState.ACTIVE, mark=mark)
        for row in rows:
            if row.state.stricter_than(effective.state):
                effective = EffectiveState(state=row.state, scope=row.strategy, reason=row.reason, mark=mark)
        return effective

    def _rows(self, strategy: str) -> list[TradingStateRow]:
        return list(self._session.scalars(_ROWS, {"strategy": strategy}))

    def get(self, strategy: str) -> TradingStateRow | None:
        """The state that was set for this very scope; None where none ever was, which means ACTIVE."""
        return next((row for row in self._rows(strategy) if row.strategy == strategy), None)

    def change(
        self, strategy: str, new: TradingState, *, by: str, reason: str, at: datetime
    ) -> TradingStateChange | None:
        """Set the state and record who did it and why. None where it was that state already: nothing is written.

        Waits until every transaction that holds the states has ended.
        """
        self.hold_alone()
        row = self.get(strategy)
        old = row.state if row else TradingState.ACTIVE
        if old is new:
            return None
        if row is None:
            row = TradingStateRow(strategy=strategy, version=0)
            self._session.add(row)
        row.state, row.reason, row.changed_by, row.changed_at = new, reason, by, at
        row.version += 1
        change = TradingStateChange(
            strategy=strategy, old_state=old, new_state=new, changed_by=by, reason=reason, at=at
        )
        self._session.add(change)
        self._session.flush()
        return change

    def changes(self, strategy: str) -> list[TradingStateChange]:
        """Every change of this very scope, oldest first."""
        query = select(TradingStateChange).where(TradingStateChange.strategy == strategy)
        return list(self._session.scalars(query.order_by(TradingStateChange.id)))

    def knows(self, strategy: str) -> bool:
        """Whether any run or order of the strategy is on record; always of the installation."""
        found = (
            select(OrderIntent.id).where(OrderIntent.strategy == strategy),
            select(Run.id).where(Run.strategy == strategy),
        )
        return strategy == INSTALLATION or any(self._session.scalar(query.limit(1)) is not None for query in found)


# Made once, as every order asks. As it is now: the session may have read it before it waited for the lock.
_ROWS = (
    select(TradingStateRow)
    .where(or_(TradingStateRow.strategy == INSTALLATION, TradingStateRow.strategy == bindparam("strategy")))
    .order_by(TradingStateRow.strategy)
    .execution_options(populate_existing=True)
)
