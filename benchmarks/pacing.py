"""Eight processes ask for history as fast as they can: does the gateway refuse any, and is what it allows used?

`python -m benchmarks.pacing [--seconds 630] [--database URL]`. Each process is what a worker is: a broker session of
its own, the trading database shared. The gateway is a simulated one in a process of its own, which counts IBKR's rules
in real time. The time is longer than the ten minutes of IBKR's longest rule, so that the budget is spent twice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import random
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from queue import Queue
from threading import Barrier
from typing import Any, NamedTuple

from airflow_ibkr_plugin.broker.pacing import Pacing
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import PacingViolation
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.migrate import migrate
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.pacing import IN_ALL, WINDOW, HistoryRequest
from benchmarks.gateway import gateway

PROCESSES = 8
LEAST_USED = 0.9
START_SECONDS = 120.0
SYMBOLS = ("SPY", "QQQ", "AAPL", "MSFT")
#: Few enough that identical requests meet; BID_ASK counts twice.
KINDS = list(itertools.product(("TRADES", "MIDPOINT", "BID_ASK"), range(60, 660, 60)))


class Result(NamedTuple):
    """What came of it.

    :ivar made: requests by process. :ivar counted: what the gateway counted, BID_ASK twice.
    :ivar refused: violations, by the gateway's count. :ivar allowed: what its rules allow in that time.
    """

    made: list[int]
    counted: int
    refused: int
    allowed: int

    @property
    def used(self) -> float:
        """Share of what is allowed."""
        return self.counted / self.allowed


def main() -> int:
    """Print what came of it; 1 on a violation, or where less than 90 % was used or a process got nothing.

    Within one window a process may get nothing: the others can use it up while its request waits for an identical one.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=630.0, help="real seconds (default 630)")
    parser.add_argument("--database", default="", help="URL of an empty trading database (default: SQLite, temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(options.database or f"sqlite:///{folder}/trading.db", options.seconds)
    print(f"{PROCESSES} processes, {options.seconds:g} s: {sum(result.made)} requests made ({result.made} each)")
    print(f"counted {result.counted} (BID_ASK twice) of {result.allowed} allowed: {result.used:.1%} used")
    print(f"violations: {result.refused}")
    starved = options.seconds > WINDOW.total_seconds() and not all(result.made)
    return int(result.refused > 0 or result.used < LEAST_USED or starved)


def run(url: str, seconds: float) -> Result:
    """Let the processes ask for so long."""
    migrate(url)
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack, gateway() as running:
        start, made = context.Barrier(PROCESSES + 1), context.Queue()
        workers = [
            context.Process(target=work, args=(number, running.port, url, seconds, start, made), daemon=True)
            for number in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
            stack.callback(worker.join)
            stack.callback(worker.terminate)
        start.wait(START_SECONDS)
        counts = dict(made.get(timeout=seconds + START_SECONDS) for _ in workers)
        told = control(running.control_port, {"cmd": "pacing_rules"})
    windows = math.floor(seconds / WINDOW.total_seconds()) + 1
    return Result([counts[n] for n in range(PROCESSES)], told["counted"], told["refused"], IN_ALL * windows)


def work(number: int, port: int, url: str, seconds: float, start: Barrier, made: Queue[tuple[int, int]]) -> None:
    """One process: ask until the time is over."""
    spec = GatewaySpec(conn_id="pacing", host="127.0.0.1", port=port, client_ids=range(10, 20), account="")
    chance, count = random.Random(number), 0
    database = Database(url)
    with BrokerSession.open(spec, client_id=10 + number) as session:
        instruments = [session.resolve(InstrumentSpec.parse(symbol)) for symbol in SYMBOLS]
        start.wait(START_SECONDS)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            instrument, (what, length) = chance.choice(instruments), chance.choice(KINDS)
            request = HistoryRequest(
                con_id=instrument.con_id,
                what=what,
                bar_size="5 secs",
                duration=f"{length} S",
                end=None,
                use_rth=True,
            )
            try:
                Pacing(database, spec.address, most_wait=left).history(session, instrument, request)
            except PacingViolation:
                break  # no room before the time is over
            count += 1
    made.put((number, count))


def control(port: int, command: dict[str, Any]) -> dict[str, Any]:
    """What the gateway answers to a control command."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile("rw") as lines:
        lines.write(json.dumps(command) + "\n")
        lines.flush()
        answer: dict[str, Any] = json.loads(lines.readline())
    return answer


if __name__ == "__main__":
    sys.exit(main())
