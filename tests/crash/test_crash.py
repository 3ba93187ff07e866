"""A short selection of the crash suite, and that it sees what it is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SUITE = Path(__file__).parent

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


def suite(*options: str, worse: str = "") -> tuple[int, str]:
    """Exit status and output. Only orders that are taken and not acknowledged, where something is made worse."""
    program = f"import runpy, sys; sys.path.insert(0, {str(SUITE)!r}); sys.argv[1:] = {list(options)}\n{worse}"
    if worse:
        program += "\nimport cases; cases.FAULTS = [f for f in cases.FAULTS if f.name == 'drop_after_accept']"
    program += f"\nrunpy.run_path({str(SUITE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout + done.stderr


def total(output: str) -> dict[str, int]:
    lines = [line.split() for line in output.splitlines()]
    names = next(line for line in lines if line[:2] == ["fault", "cases"])
    numbers = next(line for line in lines if line[:1] == ["all"])
    return dict(zip(names[1:], map(int, numbers[1:]), strict=True))


def test_killed_anywhere_and_tried_again_every_order_is_placed_once_and_booked() -> None:
    status, output = suite("--cases", "20", "--seed", "7")
    assert status == 0, output
    counts = total(output)
    assert counts.pop("cases") == 20
    assert counts.pop("killed") > 10
    assert set(counts.values()) == {0}


def test_a_worker_that_does_not_ask_the_broker_is_seen_to_place_twice() -> None:
    status, output = suite("--cases", "8", worse=ASKS_NOBODY)
    assert status == 1, output
    assert total(output)["duplicates"] > 0


def test_books_that_differ_from_the_brokers_are_seen() -> None:
    status, output = suite("--cases", "4", worse=BOOKS_NO_POSITION)
    assert status == 1, output
    assert "position " in output
