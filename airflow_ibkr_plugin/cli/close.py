"""`airflow ibkr close`: a strategy's position is closed by a command that may be repeated. Exit status as of a halt."""

from __future__ import annotations

import argparse
import sys
import uuid
from decimal import Decimal, InvalidOperation

from airflow_ibkr_plugin.errors import IBKRPluginError


def close(args: argparse.Namespace) -> None:
    """Cancel what works for the strategy in the instrument, then close what it holds, or withdraw such a command."""
    from airflow_ibkr_plugin.cli.at_broker import at_broker, not_verified
    from airflow_ibkr_plugin.cli.person import who
    from airflow_ibkr_plugin.execution.close import begin_close, withdraw_close
    from airflow_ibkr_plugin.store.database import open_database

    command_id = args.command_id or uuid.uuid4().hex[:12]
    try:
        database = open_database()
        if args.withdraw:
            withdraw_close(database, command_id)
            print(f"Command {command_id} is not carried on.")
            return
        begin_close(
            database,
            command_id,
            args.strategy,
            symbol=args.symbol,
            quantity=_quantity(args.quantity),
            by=who(),
            reason=args.reason,
        )
    except IBKRPluginError as error:
        sys.exit(str(error))
    print(f"Command {command_id}: repeat it with --command-id {command_id}", flush=True)
    try:
        at_broker(database, command_id, flatten=True)
    except IBKRPluginError as error:
        not_verified([str(error)], "closed")


def _quantity(text: str) -> Decimal | None:
    if not text:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        sys.exit(f"--quantity {text} is no number.")
