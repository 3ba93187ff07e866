"""A short selection of the crash suite, and that it sees what it is for."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airflow_ibkr_plugin.simulator.embedded import start_simulator

SUITE = Path(__file__).parent
ORDERS_ALONE = ("--airflow", "0", "--service", "0", "--lanes", "1")

# The product made worse before the first fork.
ASKS_NOBODY = """
from datetime import UTC, datetime
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.truth import BrokerTruth
nothing = lambda *_: BrokerTruth(orders=(), executions=(), asked_at=datetime.now(UTC))
BrokerSession.find_by_ref = BrokerSession.find_by_perm_id = nothing
"""
BOOKS_NO_POSITION = """
from airflow_ibkr_plugin.store.positions import Positions
Positions.apply = lambda *_, **__: None
"""

BOOKS_NO_ORDER = """
from airflow_ibkr_plugin.store.orders import Orders
Orders.record = lambda *_, **__: None
"""

PROTECTS_ONE_OF_TWO = """
from airflow_ibkr_plugin.execution import protect
protects = protect.protect
protect.protect = lambda job, *given: None if job.load().run_id == 'case-2' else protects(job, *given)
"""

# Only single orders that are taken and not acknowledged.
SINGLE_ORDERS = """
import cases
cases.FAULTS = [f for f in cases.FAULTS if f.name == 'drop_after_accept']
cases.SCENARIOS = [s for s in cases.SCENARIOS if not s.bracket]
"""
# Only brackets whose worker dies right after they were sent, and whose orders are cancelled in TWS before the next try.
STOPS_ARE_GONE = """
import cases
(fault,) = [f for f in cases.FAULTS if f.all_cancelled]
cases.SCENARIOS = [s for s in cases.SCENARIOS if s.name in ('limit', 'bracket')]
kills = (cases.Kill(cases.PLACED, 0.99, after=True),)
bracket = cases.SCENARIOS[1]
cases.make_cases = lambda *_: [cases.Case(n, bracket, fault, kills, strategy=f"crash-{n}") for n in (1, 2)]
"""


def suite(*options: str, only: str = "") -> tuple[int, str]:
    """Exit status and output.

    :param only: which cases, and how the product is made worse before the first fork, as a program.
    """
    program = f"import runpy, sys; sys.path.insert(0, {str(SUITE)!r}); sys.argv[1:] = {list(options)}\n{only}"
    program += f"\nrunpy.run_path({str(SUITE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=590, check=False)
    return done.returncode, done.stdout + done.stderr


def total(output: str) -> dict[str, int]:
    lines = [line.split() for line in output.splitlines()]
    names = next(line for line in lines if line[:2] == ["fault", "cases"])
    numbers = next(line for line in lines if line[:1] == ["all"])
    return dict(zip(names[1:], map(int, numbers[1:]), strict=True))


@pytest.mark.timeout(600)
def test_the_same_on_postgresql() -> None:
    status, output = suite(*ORDERS_ALONE, "--cases", "6", "--seed", "8", "--database", "postgresql")
    assert status == 0, output
    counts = total(output)
    assert counts.pop("cases") == counts.pop("placed") == 6
    assert counts.pop("killed") > 3
    assert set(counts.values()) == {0}


@pytest.mark.airflow
@pytest.mark.timeout(600)
def test_killed_anywhere_and_tried_again_every_order_is_placed_once_and_booked() -> None:
    status, output = suite("--cases", "20", "--airflow", "4", "--service", "3", "--lanes", "2", "--seed", "7")
    assert status == 0, output
    counts = total(output)
    assert counts.pop("cases") == counts.pop("placed") == 27
    assert counts.pop("killed") > 16
    assert set(counts.values()) == {0}
    in_airflow = re.findall(r"^Airflow, \w+ killed +(\d+) +(\d+) ", output, re.MULTILINE)
    assert sum(int(cases) for cases, _ in in_airflow) == 4
    assert sum(int(killed) for _, killed in in_airflow) > 0  # a task may end before its boundary, or its instant


def test_every_command_of_the_gateway_is_in_the_suite_or_cannot_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SUITE)
    faults = importlib.import_module("faults")
    with start_simulator(seed=7, clock=datetime(2026, 3, 2, 15, tzinfo=UTC)) as gateway:
        offered = {command["cmd"] for command in gateway.control("help")["commands"]}
    done = {command for fault in faults.FAULTS for command in fault.commands}
    assert done.isdisjoint(faults.NO_FAULTS)
    assert done | faults.NO_FAULTS.keys() == offered


def test_a_worker_that_does_not_ask_the_broker_is_seen_to_place_twice() -> None:
    status, output = suite("--cases", "8", *ORDERS_ALONE, only=ASKS_NOBODY + SINGLE_ORDERS)
    assert status == 1, output
    assert total(output)["duplicates"] > 0


def test_books_that_differ_from_the_brokers_are_seen() -> None:
    status, output = suite("--cases", "4", *ORDERS_ALONE, only=BOOKS_NO_POSITION + SINGLE_ORDERS)
    assert status == 1, output
    assert "position " in output


def test_an_order_that_is_not_in_the_books_is_seen() -> None:
    status, output = suite("--cases", "4", *ORDERS_ALONE, only=BOOKS_NO_ORDER + SINGLE_ORDERS)
    assert status == 1, output
    assert total(output)["lost"] > 0


def test_a_position_without_its_stop_is_seen() -> None:
    status, output = suite(*ORDERS_ALONE, only=STOPS_ARE_GONE + PROTECTS_ONE_OF_TWO)
    assert status == 1, output
    found = {name: number for name, number in total(output).items() if number}
    assert found == {"cases": 2, "killed": 2, "placed": 2, "bare": 1}
    assert "bare: case 2: bracket, cancelled in TWS, killed after placed" in output
    assert "The books are the broker's." in output
