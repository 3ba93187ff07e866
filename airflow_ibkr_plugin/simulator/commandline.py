"""The command line of the simulator."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import ConfigError, IBKRPluginError
from airflow_ibkr_plugin.simulator.api.meter import RATE
from airflow_ibkr_plugin.simulator.link import MAX_SECONDS

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.gateway import Options

EXIT_CONFIG = 2
EXIT_FAILED = 1


#: Each option and how argparse is told of it; `airflow ibkr simulator` takes the same ones.
OPTIONS: dict[str, dict[str, Any]] = {
    "--host": {"default": "127.0.0.1", "help": "address of the API port (default %(default)s)"},
    "--port": {"type": int, "default": 4002, "help": "API port, 0 for a free one (default %(default)s)"},
    "--control-port": {"type": int, "help": "port for control commands, this machine only; 0 for a free one"},
    "--ibc-port": {"type": int, "help": "port of an IBC command server, this machine only; 0 for a free one"},
    "--seed": {"type": int, "default": 7, "help": "what synthetic prices are made from (default %(default)s)"},
    "--account": {"default": "DU1234567", "help": "account code, or several with commas (default %(default)s)"},
    "--cash": {
        "metavar": "LIST",
        "help": "what it starts with, e.g. USD=1000000,EUR=50000 (default: 1,000,000 of the base)",
    },
    "--base-currency": {"default": "USD", "help": "what totals and margins are stated in (default %(default)s)"},
    "--state": {"type": Path, "metavar": "FILE", "help": "keep orders, executions and clock in this file"},
    "--replay": {"type": Path, "metavar": "DIR", "help": "replay the recorded daily bars in this folder"},
    "--clock": {"metavar": "ISO", "help": "start the clock here, e.g. 2026-11-20T15:00:00+00:00"},
    "--clock-speed": {"type": float, "default": 1.0, "help": "simulated seconds in a real one (default %(default)g)"},
    "--restart-at": {"metavar": "HH:MM", "help": "restart each night at this New York time"},
    "--restart-seconds": {
        "type": float,
        "default": 0.0,
        "help": "real seconds for which the API port is closed during a restart (default %(default)g)",
    },
    "--tif-notice": {"action": "store_true", "help": "10349 for orders without a time in force"},
    "--ibc-verbose": {"action": "store_true", "help": "IBC writes a prompt and INFO lines"},
    "--message-rate": {
        "type": int,
        "default": RATE,
        "help": "messages a second that a client may send, 0: any number (default %(default)s)",
    },
    "--log-level": {"default": "INFO", "choices": ("DEBUG", "INFO", "WARNING", "ERROR"), "help": "what is logged"},
}


def build_parser(prog: str = "python -m airflow_ibkr_plugin.simulator") -> argparse.ArgumentParser:
    """The parser of the simulator's options."""
    parser = argparse.ArgumentParser(prog=prog, description="A simulated IB Gateway: no market, no money.")
    for flag, options in OPTIONS.items():
        parser.add_argument(flag, **options)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Parse the options, then :func:`run_parsed`."""
    return run_parsed(build_parser().parse_args(argv))


def run_parsed(args: argparse.Namespace) -> int:
    """Run a simulator until SIGTERM or SIGINT; returns the exit status.

    Prints `{"event": "listening", "port": .., "control_port": .., "ibc_port": ..}` when it is ready; logs to stderr.
    """
    logging.basicConfig(
        stream=sys.stderr, level=args.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        return asyncio.run(_serve(_options(args)))
    except IBKRPluginError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  (this is the command's output)
        return EXIT_CONFIG


def _options(args: argparse.Namespace) -> Options:
    from airflow_ibkr_plugin.simulator.account.funds import parse_cash
    from airflow_ibkr_plugin.simulator.clock import parse_instant
    from airflow_ibkr_plugin.simulator.gateway import Options

    return Options(
        host=args.host,
        port=args.port,
        control_port=args.control_port,
        ibc_port=args.ibc_port,
        seed=args.seed,
        account=args.account,
        cash=parse_cash(args.cash) if args.cash else None,
        base_currency=args.base_currency,
        state=args.state,
        replay=args.replay,
        clock=parse_instant(args.clock) if args.clock else None,
        clock_speed=args.clock_speed,
        message_rate=args.message_rate,
        restart_at=_time_of_day(args.restart_at) if args.restart_at else None,
        restart_seconds=_seconds(args.restart_seconds),
        ibc_verbose=args.ibc_verbose,
        tif_notice=args.tif_notice,
    )


def _time_of_day(text: str) -> datetime.time:
    try:
        return datetime.datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007  (a time of day has no zone here)
    except ValueError:
        raise ConfigError(f"--restart-at {text!r} is no time of day.", remedy="Write it like 23:45.") from None


def _seconds(number: float) -> float:
    if not 0 <= number <= MAX_SECONDS:
        raise ConfigError(f"--restart-seconds {number:g} cannot be.", remedy=f"Use 0 to {MAX_SECONDS:g}.")
    return number


async def _serve(options: Options) -> int:
    from airflow_ibkr_plugin.simulator.server import Simulator

    simulator = Simulator(options)
    loop = asyncio.get_running_loop()
    wanted = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, wanted.set)
    await simulator.start()
    listening = {
        "event": "listening",
        "port": simulator.port,
        "control_port": simulator.control_port,
        "ibc_port": simulator.ibc_port,
    }
    print(json.dumps(listening), flush=True)  # noqa: T201  (this is the command's output)
    ends = [asyncio.create_task(event.wait()) for event in (wanted, simulator.stopped)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    if not simulator.stopped.is_set():
        await simulator.stop()
    if simulator.failure is not None:
        print(f"error: {simulator.failure}", file=sys.stderr)  # noqa: T201  (this is the command's output)
        return EXIT_FAILED
    return 0
