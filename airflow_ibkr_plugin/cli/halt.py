"""`airflow ibkr halt|reduce|resume`: the trading state, and what is done at the broker with it.

Exit status: 0 all that was asked for is done and verified; 1 refused, or the trading database failed: nothing was
changed; 3 the state is stored, and what else was asked for is not (yet) verified: the text says what is left.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

from airflow_ibkr_plugin.errors import IBKRPluginError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.halt import Enforcement
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.trading_state import TradingState

NOT_VERIFIED = 3
# A worker that holds its order cancels it by itself within seconds; the lease of one that died ends after a minute.
PATIENCE_SECONDS = 90.0
_PAUSE_SECONDS = 1.0


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
    from airflow_ibkr_plugin.store.database import open_database

    cancels = args.cancel_working or args.flatten
    if args.command_id and not cancels:
        sys.exit("--command-id is of a command with --cancel-working or --flatten.")
    command_id = (args.command_id or uuid.uuid4().hex[:12]) if cancels else ""
    try:
        database = open_database()
        _set(database, args, state, command_id)
    except IBKRPluginError as error:
        sys.exit(str(error))
    if not cancels:
        return
    print(f"Command {command_id}: repeat it with --command-id {command_id}", flush=True)
    try:
        _at_broker(database, command_id, flatten=args.flatten)
    except IBKRPluginError as error:
        _not_verified([str(error)], "done")


def _at_broker(database: Database, command_id: str, *, flatten: bool) -> None:
    done = _cancel(database, command_id)
    if not done.verified:
        _not_verified([*done.left, *done.unreachable], "cancelled")
    print("The broker has confirmed that nothing of it is left working.", flush=True)
    if not flatten:
        return
    if left := _flatten(database, command_id):
        _not_verified(left, "closed")
    print("All positions of it are closed.")


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
        known = TradingStates(session).knows(args.strategy)
    name = scope_name(args.strategy)
    if change is not None:
        print(f"{name}: {change.old_state.upper()} -> {change.new_state.upper()}, by {by}", flush=True)
    else:
        since = f" since {row.changed_at:%Y-%m-%d %H:%M:%S} UTC, by {row.changed_by}" if row else ""
        print(f"{name}: {state.upper()} already{since}", flush=True)
    if effective.state is not state:
        print(f"It stays {effective}")
    if not known:
        print(f"Warning: no run and no order of {name} is on record. Check its name.", file=sys.stderr)


def _cancel(database: Database, command_id: str) -> Enforcement:
    """Rounds until it is verified, a gateway cannot be asked, or patience is at its end."""
    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.execution.halt import enforce

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        owner = f"command {command_id}/{uuid.uuid4().hex[:8]}"
        found = enforce(database, command_id, gateway_of=gateway_of, owner=owner)
        for line in found.cancelled:
            print(f"cancelled: {line}", flush=True)
        if found.verified or found.unreachable or time.monotonic() > deadline:
            return found
        time.sleep(_PAUSE_SECONDS)


def _flatten(database: Database, command_id: str) -> tuple[str, ...]:
    """Close the positions; returns what is left."""
    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.execution.flatten import flatten

    found = flatten(database, command_id, gateway_of=gateway_of, owner=f"command {command_id}/{uuid.uuid4().hex[:8]}")
    for line in found.closed:
        print(f"closing: {line}", flush=True)
    return found.left


def _not_verified(left: Iterable[str], what: str) -> NoReturn:
    for line in left:
        print(f"left: {line}", file=sys.stderr)
    print(f"NOT VERIFIED: the state is stored, and not all is {what}. Repeat the command by its id.", file=sys.stderr)
    sys.exit(NOT_VERIFIED)
