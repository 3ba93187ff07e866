"""`airflow ibkr ...`: declares the commands; each imports what it needs when it runs."""

from __future__ import annotations

from typing import Any

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

_COMMANDS = "airflow_ibkr_plugin.cli.commands."
_HALT = "airflow_ibkr_plugin.cli.halt."

_STRATEGY = Arg(("--strategy",), default="", help="One strategy; left out: the installation as a whole")
_REASON = Arg(("--reason",), default="", help="Why, for the record")
_AT_BROKER = (
    Arg(("--cancel-working",), action="store_true", help="Cancel all working orders of it, and confirm that"),
    Arg(("--flatten",), action="store_true", help="Then close all positions of it at the market, and confirm that"),
    Arg(("--command-id",), default="", help="Take up an earlier command again, as it was; it sends nothing twice"),
)


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
                    func=lazy_load_command(_COMMANDS + "setup"),
                    args=(),
                ),
                GroupCommand(
                    name="db",
                    help="The trading database",
                    subcommands=(
                        ActionCommand(
                            name="migrate",
                            help="Bring the trading database up to this version",
                            func=lazy_load_command(_COMMANDS + "db_migrate"),
                            args=(),
                        ),
                    ),
                ),
                ActionCommand(
                    name="service",
                    help="Book, deliver and look after things while no task runs; of several, one leads",
                    func=lazy_load_command(_COMMANDS + "service"),
                    args=(),
                ),
                ActionCommand(
                    name="packages",
                    help="List the strategy packages, and why one is off",
                    func=lazy_load_command(_COMMANDS + "packages"),
                    args=(),
                ),
                ActionCommand(
                    name="validate",
                    help="Check workflow files; exit status 1 and file:line:column for every fault",
                    func=lazy_load_command(_COMMANDS + "validate"),
                    args=(Arg(("paths",), nargs="+", help="YAML files or folders"),),
                ),
                ActionCommand(
                    name="halt",
                    help="Send nothing more; exit status 3 if what works could not be confirmed as cancelled",
                    func=lazy_load_command(_HALT + "halt"),
                    args=(_STRATEGY, _REASON, *_AT_BROKER),
                ),
                ActionCommand(
                    name="reduce",
                    help="Send only what brings positions closer to zero",
                    func=lazy_load_command(_HALT + "reduce"),
                    args=(_STRATEGY, _REASON, *_AT_BROKER),
                ),
                ActionCommand(
                    name="resume",
                    help="Send whatever risk lets pass again; needs a reason",
                    func=lazy_load_command(_HALT + "resume"),
                    args=(_STRATEGY, _REASON),
                ),
                ActionCommand(
                    name="simulator",
                    help="Run a simulated IB Gateway in the foreground",
                    func=lazy_load_command(_COMMANDS + "simulator"),
                    args=_simulator_arguments(),
                ),
            ),
        )
    ]


def _simulator_arguments() -> tuple[Any, ...]:
    from airflow_ibkr_plugin.simulator.commandline import OPTIONS

    return tuple(Arg((flag,), **options) for flag, options in OPTIONS.items())
