"""Real processes, killed with SIGKILL or at work at once, over sockets on one simulated gateway and one SQLite file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.trading.reconcile import Result

WORKER = Path(__file__).with_name("worker.py")
CLOCK = "2026-03-02T15:00:00+00:00"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Any]:
    simulator = start_simulator(seed=7, clock=datetime.fromisoformat(CLOCK), account="DU1234567")
    yield simulator
    simulator.stop()


@pytest.fixture(autouse=True)
def reconciled(database: Database) -> None:
    """The gateway has traded for other tests, of which this one's books know nothing; and commits can be counted."""
    with database.write() as transaction:
        reconciliations = Reconciliations(transaction, "simulator:ibkr_default", "DU1234567")
        reconciliations.add(Result.AGREE, at=datetime.now(UTC), made_by="test")


def start(gateway: Any, database: Database, **given: Any) -> subprocess.Popen[str]:
    given = {"port": gateway.port, "url": str(database.url), "strategy": "demo", "owner": "worker"} | given
    return subprocess.Popen(
        [sys.executable, str(WORKER), json.dumps(given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(worker: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = worker.communicate(timeout=120)
    assert worker.returncode == 0, err
    outcome: dict[str, Any] = json.loads(out.splitlines()[-1])
    return outcome


def orders(gateway: Any, order_ref: str) -> list[Any]:
    found: list[Any] = gateway.control("orders", order_ref=order_ref)["orders"]
    return found


# Commits of a first try, in this order: intent, lease, reservation, order id, sending, working, fills. The client's
# message goes out between the fifth and the sixth.
KILLS = [
    ("commit", 3, "after"),  # reserved
    ("commit", 5, "before"),  # about to commit that it sends
    ("commit", 5, "after"),  # committed, not sent
    ("placeOrder", 1, "before"),
    ("placeOrder", 1, "after"),  # on the wire, no answer read
    ("place", 1, "after"),  # acknowledged, not stored
    ("commit", 6, "after"),  # stored as working
    ("wait_terminal", 1, "after"),  # filled, not booked
    ("commit", 7, "before"),
    ("commit", 7, "after"),  # booked, lease not released
]


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: "-".join(map(str, kill)))
def test_killed_and_tried_again_there_is_one_order_and_the_books_are_equal(
    gateway: Any, database: Database, books: Any, kill: tuple[str, int, str]
) -> None:
    run_id = f"killed-{KILLS.index(kill)}"
    killed = start(gateway, database, run_id=run_id, kill=kill)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    books.let_leases_run_out(run_id=run_id)
    outcome = finish(start(gateway, database, run_id=run_id, owner="again"))
    assert (outcome["state"], outcome["filled"]) == ("filled", "10")
    assert [order["status"] for order in orders(gateway, outcome["order_ref"])] == ["Filled"]
    assert books.position() == 10


def test_two_workers_at_once_on_one_intent_place_one_order(
    gateway: Any, database: Database, books: Any, tmp_path: Path
) -> None:
    workers = [
        start(gateway, database, run_id="twice", owner=f"w{number}", barrier=str(tmp_path)) for number in range(2)
    ]
    release(tmp_path, workers)
    first, second = (finish(worker) for worker in workers)
    assert first == second
    assert first["state"] == "filled"
    assert len(orders(gateway, first["order_ref"])) == 1
    assert books.position() == 10


def test_processes_racing_for_one_position_limit_never_pass_it(
    gateway: Any, database: Database, books: Any, tmp_path: Path
) -> None:
    workers = [
        start(
            gateway,
            database,
            run_id="race",
            strategy=f"strategy-{number}",
            owner=f"w{number}",
            symbol="QQQ",
            quantity=10,
            rules={"position_size": {"max_quantity": 25}},
            barrier=str(tmp_path),
        )
        for number in range(4)
    ]
    release(tmp_path, workers)
    outcomes = [finish(worker) for worker in workers]
    # A fill that the broker tells of already and nobody has booked yet counts twice: less may be let pass, never more.
    assert 10 <= sum(Decimal(outcome["filled"]) for outcome in outcomes) == books.position() <= 25
    assert {outcome["state"] for outcome in outcomes} <= {"denied", "filled"}


def release(barrier: Path, workers: list[subprocess.Popen[str]]) -> None:
    """Let all workers go once all of them are ready."""
    deadline = time.monotonic() + 90
    while len(list(barrier.glob("w*"))) < len(workers):
        assert all(worker.poll() is None for worker in workers), [w.communicate()[1] for w in workers if w.poll()]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (barrier / "go").touch()
