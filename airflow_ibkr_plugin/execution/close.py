"""Closing a strategy's position, or a part of it, by a person's command; carried out as the flatten of a halt is."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.trading_state import CommandKind

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.trading_state import TradingCommand


def begin_close(
    database: Database,
    command_id: str,
    strategy: str,
    *,
    symbol: str = "",
    quantity: Decimal | None = None,
    by: str,
    reason: str = "",
) -> TradingCommand:
    """Commit the command; from then on the service carries it out, too. The same id again is the same command.

    What works for the strategy in these instruments is cancelled first (`halt.enforce`), then the position is closed
    (`flatten.flatten`). The trading state stays as it is, and stops none of it.

    :param symbol: only of it; '' for all that the strategy holds.
    :param quantity: units to close of `symbol`, by all orders of the command together; None for all.
    :param by: who wants it, for the record.
    :raises ConfigError: nothing of the strategy is on record, a quantity that is none, or the id of another command or
        of one that was withdrawn.
    """
    if quantity is not None and not (symbol and quantity.is_finite() and quantity > 0):
        raise ConfigError(
            f"{quantity} {symbol or 'units'} cannot be closed.", remedy="Name a --symbol and a --quantity above zero."
        )
    wanted = {"kind": CommandKind.CLOSE, "strategy": strategy, "symbol": symbol, "quantity": quantity}
    with database.write() as transaction:
        states, commands = TradingStates(transaction), TradingCommands(transaction)
        if not strategy or not states.knows(strategy):
            raise ConfigError(
                f"No run and no order of strategy {strategy!r} is on record.", remedy="Check its name: --strategy NAME."
            )
        known = commands.get(command_id)
        if known is not None and (known.ended_at or any(getattr(known, name) != wanted[name] for name in wanted)):
            raise ConfigError(
                f"Command {command_id} was {'withdrawn' if known.ended_at else 'another one'}.",
                remedy="Repeat it as it was, or give a new command, without --command-id.",
            )
        return commands.get_or_create(
            command_id,
            **wanted,
            state=states.effective(strategy).state,
            flatten=True,
            requested_by=by,
            requested_at=datetime.now(UTC),
            reason=reason,
        )


def withdraw_close(database: Database, command_id: str) -> None:
    """Carry a closing on no more. An order of it that is out runs to its end.

    :raises ConfigError: there is no such closing.
    """
    with database.write() as transaction:
        command = TradingCommands(transaction).get(command_id)
        if command is None or command.kind is not CommandKind.CLOSE:
            raise ConfigError(f"There is no closing {command_id}.", remedy="A halt is ended by `airflow ibkr resume`.")
        if command.flat_at is None and command.ended_at is None:
            command.ended_at = datetime.now(UTC)
