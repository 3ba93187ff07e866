"""`airflow ibkr orders ...`: what became of orders, and what only a person may decide about them.

Exit status: 0 done; 1 refused, or not there: nothing was changed.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import IBKRPluginError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database

_SECTIONS = ("transitions", "notes", "risk_decisions", "broker_orders", "fills", "generation_raised")


def show_list(args: argparse.Namespace) -> None:
    """Orders, the newest first."""
    from airflow_ibkr_plugin.execution.order_record import order_line
    from airflow_ibkr_plugin.store.intents import Intents
    from airflow_ibkr_plugin.trading.orders import TERMINAL, IntentState

    states = {IntentState.AMBIGUOUS} if args.ambiguous else set(IntentState) - TERMINAL if args.open else None
    try:
        with _database().read() as session:
            rows = Intents(session).newest(
                most=args.limit, states=states, strategy=args.strategy, run_id=args.run, symbol=args.symbol
            )
            lines = [order_line(session, row) for row in rows]
    except IBKRPluginError as error:
        sys.exit(str(error))
    _print(lines, args.output)


def show(args: argparse.Namespace) -> None:
    """All that is stored of one order."""
    from airflow_ibkr_plugin.execution.order_record import order_record
    from airflow_ibkr_plugin.store.intents import Intents

    try:
        with _database().read() as session:
            row = Intents(session).by_order_ref(args.order_ref)
            record = order_record(session, row) if row is not None else None
    except IBKRPluginError as error:
        sys.exit(str(error))
    if record is None:
        sys.exit(f"There is no order {args.order_ref}. See: airflow ibkr orders list")
    if args.output in ("json", "yaml"):
        _print([record], args.output)
        return
    _print([{"": name, " ": value} for name, value in record.items() if name not in _SECTIONS], args.output)
    for section in _SECTIONS:
        if record[section]:
            print(f"\n{section.replace('_', ' ').capitalize()}")
            _print(record[section], args.output)


def again(args: argparse.Namespace) -> None:
    """Let the next try of a task trade once more."""
    from airflow_ibkr_plugin.cli.person import who
    from airflow_ibkr_plugin.execution.again import raise_generation

    try:
        row = raise_generation(
            _database(), args.dag_id, args.run_id, args.task_id, symbol=args.symbol, by=who(), reason=args.reason
        )
    except IBKRPluginError as error:
        sys.exit(str(error))
    print(
        f"{row.symbol} of task {row.task_id} in run {row.run_id}: generation {row.generation - 1} -> {row.generation},"
        f" by {row.raised_by}.\nClear the task in Airflow: its next try is sized anew, goes through risk, and trades."
    )


def settle(args: argparse.Namespace) -> None:
    """Say what became of an ambiguous order."""
    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.cli.person import who
    from airflow_ibkr_plugin.execution.declare import Declared, declare

    try:
        row = declare(
            _database(),
            args.order_ref,
            Declared(args.outcome),
            by=who(),
            reason=args.reason,
            gateway_of=gateway_of,
        )
    except IBKRPluginError as error:
        sys.exit(str(error))
    print(f"{row.order_ref}: {row.state}. {row.reason}")


def _database() -> Database:
    from airflow_ibkr_plugin.store.database import open_database

    return open_database()


def _print(rows: list[dict[str, Any]], output: str) -> None:
    from airflow.cli.simple_table import AirflowConsole

    # No markup: what a broker said may have brackets in it.
    AirflowConsole(markup=False, highlight=False).print_as([_plain(row) for row in rows], output)


def _plain(value: Any) -> Any:
    """Decimals without an exponent, times in UTC to the second, with their zone: ISO 8601."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if isinstance(value, datetime) else value
