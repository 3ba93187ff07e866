"""A worker killed with SIGKILL at the boundaries of sending a bracket, and tried again by another process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import ClientLease

WORKER = Path(__file__).with_name("worker.py")
CLOCK = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
BRACKET = {"stop": {"offset": 0.2}, "target": {"offset": 0.3}}


@pytest.fixture
def gateway() -> Iterator[SimulatorHandle]:
    with start_simulator(seed=7, clock=CLOCK, account="DU1234567") as simulator:
        yield simulator


# Messages of a first try: entry, target, stop.
KILLS = [
    ("placeOrder", 1, "before"),  # committed, nothing sent
    ("placeOrder", 1, "after"),  # the entry is kept by the gateway
    ("placeOrder", 2, "after"),
    ("placeOrder", 3, "before"),
    ("placeOrder", 3, "after"),  # all of it is on the wire, no answer read
    ("place_bracket", 1, "after"),  # acknowledged, not stored
    ("commit", 13, "after"),  # of the legs some are stored as acknowledged
    ("wait_terminal", 1, "after"),  # filled, not booked
]


def start(gateway: SimulatorHandle, database: Database, **given: Any) -> subprocess.Popen[str]:
    given = {"port": gateway.port, "url": str(database.url), "strategy": "demo", "bracket": BRACKET} | given
    return subprocess.Popen(
        [sys.executable, str(WORKER), json.dumps(given)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: "-".join(map(str, kill)))
def test_killed_and_tried_again_each_leg_has_one_order_and_the_position_its_stop(
    gateway: SimulatorHandle, database: Database, books: Any, kill: tuple[str, int, str]
) -> None:
    run_id = f"killed-{KILLS.index(kill)}"
    killed = start(gateway, database, run_id=run_id, kill=kill, owner="first")
    _, said = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, said
    books.let_leases_run_out(run_id=run_id)
    with database.write() as transaction:  # its client id is free again after a minute or two, too
        transaction.execute(delete(ClientLease))
    again = start(gateway, database, run_id=run_id, owner="again")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    outcome = json.loads(out.splitlines()[-1])
    assert (outcome["state"], outcome["filled"]) == ("filled", "10")
    with database.read() as transaction:
        legs = {row.leg: row for row in Intents(transaction).for_run("demo", run_id)}
    assert set(legs) == {"entry", "target", "stop"}
    orders = {leg: gateway.control("orders", order_ref=row.order_ref)["orders"] for leg, row in legs.items()}
    assert [len(found) for found in orders.values()] == [1, 1, 1]
    assert {leg: found[0]["status"] for leg, found in orders.items()} == {
        "entry": "Filled",
        "target": "Submitted",
        "stop": "PreSubmitted",
    }
    assert {str(row.state) for leg, row in legs.items() if leg != "entry"} == {"working"}
    assert books.position() == 10
