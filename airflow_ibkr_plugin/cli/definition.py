"""`airflow ibkr ...`: declares the commands; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from airflow.cli.cli_config import ARG_OUTPUT, ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

_COMMANDS = "airflow_ibkr_plugin.cli.commands."
_HALT = "airflow_ibkr_plugin.cli.halt."
_ORDERS = "airflow_ibkr_plugin.cli.orders."
_LIMITS = "airflow_ibkr_plugin.cli.limits."
_BOOKS = "airflow_ibkr_plugin.cli.books."

_STRATEGY = Arg(("--strategy",), default="", help="One strategy; left out: the installation as a whole")
_REASON = Arg(("--reason",), default="", help="Why, for the record")
_AT_BROKER = (
    Arg(("--cancel-working",), action="store_true", help="Cancel all working orders of it, and confirm that"),
    Arg(("--flatten",), action="store_true", help="Then close all positions of it at the market, and confirm that"),
    Arg(("--command-id",), default="", help="Take up an earlier command again, as it was; it sends nothing twice"),
)


def _command(path: str) -> Callable[[argparse.Namespace], Any]:
    """The function at this path, with what it logs on standard error: standard output is the command's answer."""
    function = lazy_load_command(path)

    def command(args: argparse.Namespace) -> Any:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setStream(sys.stderr)
        return function(args)

    return command


def get_ibkr_cli_commands() -> list[CLICommand]:
    """The command group, as the provider metadata names it."""
    return [
        GroupCommand(
            name="ibkr",
            help="Interactive Brokers trading workflows",
            subcommands=(
                ActionCommand(
                    name="setup",
                    help="Migrate the trading database and make a pool for each gateway connection",
                    func=_command(_COMMANDS + "setup"),
                    args=(),
                ),
                GroupCommand(
                    name="db",
                    help="The trading database",
                    subcommands=(
                        ActionCommand(
                            name="migrate",
                            help="Bring the trading database up to this version",
                            func=_command(_COMMANDS + "db_migrate"),
                            args=(),
                        ),
                    ),
                ),
                ActionCommand(
                    name="service",
                    help="Book, deliver and look after things while no task runs; of several, one leads",
                    func=_command(_COMMANDS + "service"),
                    args=(),
                ),
                ActionCommand(
                    name="packages",
                    help="List the strategy packages, and why one is off",
                    func=_command(_COMMANDS + "packages"),
                    args=(),
                ),
                ActionCommand(
                    name="validate",
                    help="Check workflow files; exit status 1 and file:line:column for every fault",
                    func=_command(_COMMANDS + "validate"),
                    args=(Arg(("paths",), nargs="+", help="YAML files or folders"),),
                ),
                ActionCommand(
                    name="halt",
                    help="Send nothing more; exit status 3 if what works could not be confirmed as cancelled",
                    func=_command(_HALT + "halt"),
                    args=(_STRATEGY, _REASON, *_AT_BROKER),
                ),
                ActionCommand(
                    name="reduce",
                    help="Send only what brings positions closer to zero",
                    func=_command(_HALT + "reduce"),
                    args=(_STRATEGY, _REASON, *_AT_BROKER),
                ),
                ActionCommand(
                    name="resume",
                    help="Send whatever risk lets pass again; needs a reason",
                    func=_command(_HALT + "resume"),
                    args=(_STRATEGY, _REASON),
                ),
                ActionCommand(
                    name="close",
                    help="Close a strategy's position, what works in it cancelled first; exit status as of a halt",
                    func=_command("airflow_ibkr_plugin.cli.close.close"),
                    args=_close(),
                ),
                GroupCommand(
                    name="orders",
                    help="What became of orders, and what only a person may decide",
                    subcommands=_orders(),
                ),
                GroupCommand(
                    name="limits",
                    help="Risk rules that hold for accounts, whatever their workflows say",
                    subcommands=_limits(),
                ),
                ActionCommand(
                    name="reconcile",
                    help="Compare our books with the broker's; exit status 4 if they disagree, 3 if nobody can tell",
                    func=_command(_BOOKS + "reconcile"),
                    args=_reconcile(),
                ),
                ActionCommand(
                    name="import-flex",
                    help="Book what an IBKR Flex statement (XML) has and our books lack, such as fills of earlier days",
                    func=_command(_BOOKS + "import_flex"),
                    args=_import_flex(),
                ),
                ActionCommand(
                    name="simulator",
                    help="Run a simulated IB Gateway in the foreground",
                    func=_command(_COMMANDS + "simulator"),
                    args=_simulator_arguments(),
                ),
            ),
        )
    ]


def _limits() -> tuple[CLICommand, ...]:
    account = Arg(("--account",), help="Only of this account; left out: all that there is")
    whose = Arg(("--account",), default="", help="Number of the account; left out: every account")
    rule = Arg(("rule",), help="Name of a risk rule, such as order_notional")
    until = Arg(("--until",), default="", help="When it reverts to what was before, such as 2026-12-01T21:00Z")
    reason = Arg(("--reason",), required=True, help="Why, for the record")
    return (
        ActionCommand(
            name="list",
            help="What is in force",
            func=_command(_LIMITS + "show_list"),
            args=(account, ARG_OUTPUT),
        ),
        ActionCommand(
            name="set",
            help="Put a limit in force, in place of what it was before",
            func=_command(_LIMITS + "set_limit"),
            args=(
                rule,
                whose,
                Arg(("--parameters",), default="{}", help="Of the rule, as JSON, such as '{\"max\": 5000}'"),
                until,
                reason,
            ),
        ),
        ActionCommand(
            name="unset",
            help="Take a limit away",
            func=_command(_LIMITS + "unset_limit"),
            args=(rule, whose, until, reason),
        ),
        ActionCommand(
            name="history",
            help="Every change: who, when, from what to what, why",
            func=_command(_LIMITS + "show_history"),
            args=(account, Arg(("--rule",), help="Only of this rule"), ARG_OUTPUT),
        ),
    )


def _close() -> tuple[Any, ...]:
    return (
        Arg(("--strategy",), default="", help="Whose position"),
        Arg(("--symbol",), default="", help="Only in this instrument; left out: all that it holds"),
        Arg(("--quantity",), default="", help="Only so many units of it; left out: all"),
        _REASON,
        Arg(("--command-id",), default="", help="Take up an earlier command again, as it was; it sends nothing twice"),
        Arg(("--withdraw",), action="store_true", help="Carry the command of --command-id on no more"),
    )


def _orders() -> tuple[CLICommand, ...]:
    order_ref = Arg(("order_ref",), help="As the list shows it, and TWS in its column Order Ref.")
    return (
        ActionCommand(
            name="list",
            help="Orders, the newest first",
            func=_command(_ORDERS + "show_list"),
            args=(
                Arg(("--open",), action="store_true", help="Only those without a known end"),
                Arg(("--ambiguous",), action="store_true", help="Only those of which nobody knows what became of them"),
                Arg(("--run",), default="", help="Only of this run id"),
                Arg(("--strategy",), default="", help="Only of this strategy"),
                Arg(("--symbol",), default="", help="Only in this instrument"),
                Arg(("--limit",), type=int, default=50, help="No more than so many (50)"),
                ARG_OUTPUT,
            ),
        ),
        ActionCommand(
            name="show",
            help="All of one order: states, risk decisions, what the broker has, fills",
            func=_command(_ORDERS + "show"),
            args=(order_ref, ARG_OUTPUT),
        ),
        ActionCommand(
            name="again",
            help="Let a task whose order has ended trade once more in its run, when it is cleared",
            func=_command(_ORDERS + "again"),
            args=(
                Arg(("dag_id",), help="The DAG"),
                Arg(("run_id",), help="The run"),
                Arg(("task_id",), help="The order task, such as symbol.order"),
                Arg(("--symbol",), default="", help="Which instrument, where the task has several"),
                Arg(("--reason",), required=True, help="Why, for the record"),
            ),
        ),
        ActionCommand(
            name="settle",
            help="Say what became of an ambiguous order; refused where the broker knows it",
            func=_command(_ORDERS + "settle"),
            args=(
                order_ref,
                Arg(
                    ("--as",),
                    dest="outcome",
                    required=True,
                    choices=("never-sent", "ended"),
                    help="never-sent: it did not reach the broker; ended: over, and no more filled than is booked",
                ),
                Arg(("--reason",), required=True, help="How you know, for the record"),
            ),
        ),
    )


def _simulator_arguments() -> tuple[Any, ...]:
    from airflow_ibkr_plugin.simulator.commandline import OPTIONS

    return tuple(Arg((flag,), **options) for flag, options in OPTIONS.items())


def _reconcile() -> tuple[Any, ...]:
    return (
        Arg(("--connection",), default="", help="Only the account of this Airflow connection; left out: all traded"),
        Arg(("--strategy",), default="", help="Only what concerns this strategy is shown and counts"),
        Arg(("--format",), default="text", choices=("text", "json"), help="Of the output"),
        Arg(
            ("--accept",),
            type=int,
            metavar="RECONCILIATION",
            help="Take what it found as right, as the broker has it; refused where something else differs by now",
        ),
        Arg(("--split",), default="", help="A split that differences come from, such as AAPL=4:1 (new for old)"),
        Arg(("--replay",), action="store_true", help="Only compute all positions again from their executions"),
        _REASON,
    )


def _import_flex() -> tuple[Any, ...]:
    return (
        Arg(("file",), help="The statement, as IBKR's Flex Web Service or Client Portal gives it"),
        Arg(
            ("--connection",), default="", help="Whose account it is of, where several kinds of gateway have traded it"
        ),
        Arg(("--time-zone",), default="America/New_York", help="Of the statement's times, as set in Client Portal"),
        Arg(("--dry-run",), action="store_true", help="Say what would be booked, and store nothing"),
    )
