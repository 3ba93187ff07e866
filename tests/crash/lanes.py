"""Several floors at work at once, each in a process with a gateway and a trading database of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cases import Case, Clean
from floor import CLOCK, Floor
from gateway import ACCOUNT, Gateway
from verdict import UNFINISHED, Result, compare_books, judge, judge_exits, refused

#: The results of cases, and where the books differ from the broker's after them.
Outcome = tuple[list[Result], list[str]]
#: Cases of a kind, for one day of one lane.
Batch = tuple[Callable[[Floor, Any], Iterable[Result]], list[Any]]

#: Cases of one day at the broker: all that it is asked about, it answers with the whole day.
DAY_CASES = 25


def connect(port: int) -> None:
    """Let this process's connection lead to a gateway."""
    extra = {"account": ACCOUNT, "client_ids": "10-25", "timeout": 1.0}
    connection = {"conn_type": "ibkr", "host": "127.0.0.1", "port": port, "extra": extra}
    os.environ["AIRFLOW_CONN_IBKR_DEFAULT"] = json.dumps(connection)


class Lanes:
    """The floors. Work is handed to whichever is free."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def measure(self) -> dict[str, Clean]:
        """What each scenario passes when nothing goes wrong."""
        return self._pool.submit(_measure).result()

    def run(self, batches: list[Batch]) -> Iterator[Outcome]:
        """Run the batches, as soon as a lane is free for one."""
        futures = [self._pool.submit(_run, *batch) for batch in batches]
        for future in as_completed(futures):
            yield future.result()


def days(cases: list[Case]) -> list[Batch]:
    """Cases of the order task, a day's at a time."""
    return [(orders, cases[first : first + DAY_CASES]) for first in range(0, len(cases), DAY_CASES)]


@contextmanager
def open_lanes(urls: list[str], log: Path) -> Iterator[Lanes]:
    """One lane for each trading database."""
    context = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        gateways = []
        free: Any = context.SimpleQueue()
        for number in range(len(urls)):
            gateways.append(Gateway(CLOCK))
            stack.callback(gateways[number].stop)
            free.put(number)
        pool = ProcessPoolExecutor(len(urls), context, initializer=_take_seat, initargs=(free, gateways, urls, log))
        stack.callback(pool.shutdown, cancel_futures=True)
        try:
            yield Lanes(pool)
        except BaseException:  # what is under way is of no interest any more
            for lane in multiprocessing.active_children():
                lane.terminate()
            raise


_floor: Floor  # of this lane


def _take_seat(free: Any, gateways: list[Gateway], urls: list[str], log: Path) -> None:
    global _floor
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    number = free.get()
    os.environ["AIRFLOW__IBKR__SQL_ALCHEMY_CONN"] = urls[number]
    connect(gateways[number].port)
    _floor = Floor(gateways[number], log)


def _measure() -> dict[str, Clean]:
    _floor.begin_day()
    return _floor.passed


def _run(kind: Callable[[Floor, Any], Iterable[Result]], cases: list[Any]) -> Outcome:
    _floor.begin_day()
    results = list(kind(_floor, cases))
    return results, compare_books(_floor.database, _floor.told_by_broker(), _floor.day)


def orders(floor: Floor, cases: list[Case]) -> Iterator[Result]:
    """Cases of the order task, forked from here."""
    for case in cases:
        killed, told = floor.run(case)
        order_ref = floor.order_ref(case)
        found, facts = judge(floor.database, floor.gateway, order_ref)
        if found and case.fault.refuses and refused(floor.database, floor.gateway, order_ref, told):
            found = None
        elif not found and case.scenario.bracket:
            found, facts = judge_exits(floor.database, floor.gateway, order_ref)
            said = floor.close(case.strategy)
            if not found and said != "0":
                found, facts = UNFINISHED, f"it could not be closed: {said}"
        text = f"{found}: {case}\n  {facts}\n  last try: {told.get('error', told)}" if found else ""
        yield Result(case.row, killed, bool(floor.gateway.orders(order_ref)), found, text)
