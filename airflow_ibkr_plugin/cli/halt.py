"""`airflow ibkr halt|reduce|resume`: the trading state, and what is done at the broker with it.

Exit status: 0 all that was asked for is done and verified; 1 refused, or the trading database failed: nothing was
changed; 3 the state is stored, and what else was asked for is not (yet) verified: the text says what is left.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Collection
from difflib import get_close_matches
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError, IBKRPluginError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.trading_state import TradingState


def halt(args: argparse.Namespace) -> None:
    """Nothing more is sent, but closing orders of this very kind of command."""
    from airflow_ibkr_plugin.trading.trading_state import TradingState

    _run(args, TradingState.HALTED)


def reduce(args: argparse.Namespace) -> None:
    """Only what brings positions closer to zero is sent."""
    from airflow_ibkr_plugin.trading.trading_state import TradingState

    _run(args, TradingState.REDUCING)


def resume(args: argparse.Namespace) -> None:
    """Whatever risk lets pass is sent again."""
    from airflow_ibkr_plugin.trading.trading_state import TradingState

    args.cancel_working, args.flatten, args.command_id = False, False, ""
    _run(args, TradingState.ACTIVE)


def _run(args: argparse.Namespace, state: TradingState) -> None:
    from airflow_ibkr_plugin.cli.at_broker import at_broker, not_verified
    from airflow_ibkr_plugin.store.database import open_database

    cancels = args.cancel_working or args.flatten
    if args.command_id and not cancels:
        sys.exit("--command-id is of a command with --cancel-working or --flatten.")
    command_id = (args.command_id or uuid.uuid4().hex[:12]) if cancels else ""
    try:
        database = open_database()
        _check_known(database, args.strategy)
        _set(database, args, state, command_id)
    except IBKRPluginError as error:
        sys.exit(str(error))
    if not cancels:
        return
    print(f"Command {command_id}: repeat it with --command-id {command_id}", flush=True)
    try:
        at_broker(database, command_id, flatten=args.flatten)
    except IBKRPluginError as error:
        not_verified([str(error)], "done")


def _set(database: Database, args: argparse.Namespace, state: TradingState, command_id: str) -> None:
    from airflow_ibkr_plugin.cli.person import who
    from airflow_ibkr_plugin.execution.halt import set_state
    from airflow_ibkr_plugin.store.trading_states import TradingStates
    from airflow_ibkr_plugin.trading.trading_state import scope_name

    by = who()
    change = set_state(
        database, args.strategy, state, by=by, reason=args.reason, command_id=command_id, flatten=args.flatten
    )
    with database.read() as session:
        row, effective = TradingStates(session).get(args.strategy), TradingStates(session).effective(args.strategy)
    name = scope_name(args.strategy)
    if change is not None:
        print(f"{name}: {change.old_state.upper()} -> {change.new_state.upper()}, by {by}", flush=True)
    else:
        since = f" since {row.changed_at:%Y-%m-%d %H:%M:%S} UTC, by {row.changed_by}" if row else ""
        print(f"{name}: {state.upper()} already{since}", flush=True)
    if effective.state is not state:
        print(f"It stays {effective}")


def _check_known(database: Database, strategy: str) -> None:
    """A halt of a name that nothing has would halt nothing, and be believed.

    The trading database is asked first: a strategy whose workflow file is broken, or away, must be halted too.

    :raises ConfigError: nothing has that name.
    """
    from airflow_ibkr_plugin import settings
    from airflow_ibkr_plugin.registry import get_registry
    from airflow_ibkr_plugin.store.positions import Positions
    from airflow_ibkr_plugin.store.trading_states import TradingStates
    from airflow_ibkr_plugin.workflows.checks import Checker
    from airflow_ibkr_plugin.workflows.loader import load_folder

    with database.read() as session:
        states = TradingStates(session)
        if states.knows(strategy) or states.get(strategy) is not None or Positions(session).list(strategy=strategy):
            return
    folder = settings.load().workflows_folder
    try:
        named = {loaded.strategy for loaded in load_folder(folder, Checker(get_registry()))}
    except ConfigError as error:
        named, where = set[str](), f"and {error}"
    else:
        where = f"and no workflow in {folder}"
    if strategy not in named:
        raise ConfigError(
            f"There is no strategy {strategy!r}: no order, run, position or trading state in the trading database,"
            f" {where.rstrip('.')}. Nothing was changed.",
            remedy=f"Check its name{_near(strategy, named)}. Without --strategy the command is for the installation.",
        )


def _near(strategy: str, named: Collection[str]) -> str:
    near = get_close_matches(strategy, sorted(filter(None, named)), n=3)
    return f": is it {' or '.join(near)}?" if near else ""
