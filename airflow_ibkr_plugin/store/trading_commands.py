"""Commands to cancel what works and to close what is held, until they are carried out."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.models.orders import RESERVING, OrderIntent
from airflow_ibkr_plugin.store.models.trading_state import TradingCommand
from airflow_ibkr_plugin.store.sql import insert_if_absent
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER
from airflow_ibkr_plugin.trading.trading_state import FLATTEN_LEG, INSTALLATION, CommandKind, command_run_id


class TradingCommands:
    """Commands by their id."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, command_id: str) -> TradingCommand | None:
        """The command of that id, as it is now."""
        return self._session.get(TradingCommand, command_id, populate_existing=True)

    def get_or_create(self, command_id: str, **fields: Any) -> TradingCommand:
        """The command of that id, made if there is none. It is about every intent that is stored by now.

        :param fields: strategy, state, flatten, requested_by, requested_at, reason; of a closing its kind, symbol and
            quantity besides.
        """
        last = self._session.scalar(select(func.max(OrderIntent.id))) or 0
        values = {"id": command_id, "last_intent_id": last, "last_error": "", **fields}
        insert_if_absent(self._session, TradingCommand, ("id",), values)
        return self._session.get_one(TradingCommand, command_id, populate_existing=True)

    def uncancelled(self) -> list[TradingCommand]:
        """Those of which the broker has not confirmed yet that nothing works, oldest first."""
        query = select(TradingCommand).where(TradingCommand.cancelled_at.is_(None), TradingCommand.ended_at.is_(None))
        return list(self._session.scalars(query.order_by(TradingCommand.requested_at, TradingCommand.id)))

    def unflattened(self) -> list[TradingCommand]:
        """Those that close positions, of which not all are closed yet; nothing of them works any more. Oldest first."""
        query = select(TradingCommand).where(
            TradingCommand.flatten,
            TradingCommand.cancelled_at.is_not(None),
            TradingCommand.flat_at.is_(None),
            TradingCommand.ended_at.is_(None),
        )
        return list(self._session.scalars(query.order_by(TradingCommand.requested_at, TradingCommand.id)))

    def wants_cancelled(self, intent_id: int) -> TradingCommand | None:
        """A command that this intent's order is to be cancelled by."""
        for command in self.uncancelled():
            query = select(OrderIntent.id).where(*_target(command), OrderIntent.id == intent_id)
            if self._session.scalar(query) is not None:
                return command
        return None

    def flattening(self, intent: OrderIntent, *, verified: bool = False) -> bool:
        """Whether a command is at work, or will be, on closing what this intent's order brought.

        :param verified: only one of which the broker has confirmed that nothing works any more.
        """
        at_work = _closes(intent).where(TradingCommand.flat_at.is_(None), TradingCommand.ended_at.is_(None))
        if verified:
            at_work = at_work.where(TradingCommand.cancelled_at.is_not(None))
        return self._session.scalar(at_work.limit(1)) is not None

    def flattened(self, intent: OrderIntent) -> bool:
        """Whether a command that closes positions cancels this intent's order, or has, or would have."""
        return self._session.scalar(_closes(intent).limit(1)) is not None

    def end(self, strategy: str, at: datetime) -> None:
        """The state of this scope was loosened: the commands that tightened it are not carried on."""
        self._session.execute(
            update(TradingCommand)
            .where(
                TradingCommand.kind == CommandKind.STATE,
                TradingCommand.strategy == strategy,
                TradingCommand.ended_at.is_(None),
            )
            .values(ended_at=at)
        )

    def left_to_close(self, command_id: str, *, may_fill: bool = False, excluding: int | None = None) -> Decimal | None:
        """How many units a closing has still to close; None where it has no such bound.

        :param may_fill: count its orders that may fill as filled: what one more may trade.
        :param excluding: id of an intent that is not counted.
        """
        command = self.get(command_id)
        if command is None or command.quantity is None:
            return None
        query = select(OrderIntent).where(
            OrderIntent.leg == FLATTEN_LEG, OrderIntent.run_id == command_run_id(command_id)
        )
        left = command.quantity
        for row in self._session.scalars(query):
            if row.id != excluding:
                fills = Executions(self._session).for_intent(row.id)
                filled = sum((fill.quantity for fill in fills), Decimal(0))
                left -= max(row.quantity, filled) if may_fill and row.state in RESERVING else filled
        return max(left, Decimal(0))

    def sources(self, command: TradingCommand) -> dict[str, bool]:
        """Where orders of the command's intents went to, and whether any of them may be there still."""
        query = select(OrderIntent.source, OrderIntent.state.in_(MAYBE_AT_BROKER)).distinct()
        query = query.where(*_target(command), OrderIntent.sent_at.is_not(None))
        found: dict[str, bool] = {}
        for source, alive in self._session.execute(query.order_by(OrderIntent.source)):
            found[source] = found.get(source, False) or bool(alive)
        return found

    def maybe_at_broker(self, command: TradingCommand, source: str) -> list[OrderIntent]:
        """The command's intents whose orders may be at the broker, by our books."""
        query = select(OrderIntent).where(*_target(command), OrderIntent.source == source)
        query = query.where(OrderIntent.state.in_(MAYBE_AT_BROKER)).order_by(OrderIntent.id)
        return list(self._session.scalars(query))

    def unfinished_closing(self, run_id: str, source: str) -> list[OrderIntent]:
        """Closing orders of a command that may be at the broker, by our books.

        :param run_id: that stands for the command in their keys.
        """
        query = select(OrderIntent).where(OrderIntent.leg == FLATTEN_LEG, OrderIntent.run_id == run_id)
        query = query.where(OrderIntent.source == source, OrderIntent.state.in_(MAYBE_AT_BROKER))
        return list(self._session.scalars(query.order_by(OrderIntent.id)))

    def is_about(self, command: TradingCommand, order_ref: str) -> bool:
        """Whether the order with this orderRef is one of the command's."""
        query = select(OrderIntent.id).where(*_target(command), OrderIntent.order_ref == order_ref)
        return bool(order_ref) and self._session.scalar(query) is not None


def _closes(intent: OrderIntent) -> Select[str]:
    return select(TradingCommand.id).where(
        TradingCommand.flatten,
        TradingCommand.strategy.in_((INSTALLATION, intent.strategy)),
        TradingCommand.symbol.in_(("", intent.symbol)),
        TradingCommand.last_intent_id >= intent.id,
    )


def _target(command: TradingCommand) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [OrderIntent.id <= command.last_intent_id]
    if command.strategy != INSTALLATION:
        conditions.append(OrderIntent.strategy == command.strategy)
    if command.symbol:
        conditions.append(OrderIntent.symbol == command.symbol)
    if not command.flatten:
        # What is held keeps its stop. The exits of an entry that has not filled end with it.
        conditions.append(OrderIntent.parent_id.is_(None))
    return conditions
