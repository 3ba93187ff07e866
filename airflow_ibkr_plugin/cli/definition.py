"""`airflow ibkr ...`: declares the commands; each imports what it needs when it runs."""

from __future__ import annotations

from typing import Any

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

_COMMANDS = "airflow_ibkr_plugin.cli.commands."


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
