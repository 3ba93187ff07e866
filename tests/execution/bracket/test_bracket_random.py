"""Seeded sequences of what may happen to a bracket: after each look, what is held has its stop, and nobody is short."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.errors import BrokerError, IBKRPluginError
from airflow_ibkr_plugin.execution.reduce import Closing, Reduction, close_position
from airflow_ibkr_plugin.trading.brackets import CLOSE_LEG

EXITS = {"stop": {"offset": 0.01}, "target": {"offset": 0.01}}


class Sequence:
    """What has happened so far to brackets of one strategy."""

    def __init__(self, floor: Any, seed: int) -> None:
        self.floor = floor
        self.random = random.Random(seed)
        self.runs = 0

    def enter(self) -> None:
        """Another bracket, which may die with its connection at any of its messages, and is tried again."""
        self.runs += 1
        run_id = f"run-{self.runs}"
        with self.floor.session() as session:
            request = self.floor.request(session, run_id, bracket=EXITS)
            if self.random.random() < 0.5:
                leg = self.random.choice(["entry", "target", "stop"])
                fault = self.random.choice(["drop_before_accept", "drop_after_accept"])
                self.floor.gateway.control(fault, order_ref=replace(request.key, leg=leg).order_ref)
            with contextlib.suppress(BrokerError):
                self.floor.execute(session, request)

    def time_goes_by(self) -> None:
        self.floor.gateway.control("clock", advance=self.random.choice([60, 3600, 6 * 3600]))

    def somebody_cancels_an_exit(self) -> None:
        alive = [o for o in self.floor.orders() if o["status"] in ("Submitted", "PreSubmitted")]
        if alive:
            chosen = self.random.choice(alive)
            with self.floor.session(client_ids=range(chosen["client_id"], chosen["client_id"] + 1)) as owner:
                owner.cancel(self.floor.owner(owner, chosen["order_ref"]), seconds=10)

    def a_task_closes_some(self) -> None:
        share = Decimal(self.random.choice(["0.3", "0.5", "1"]))
        with self.floor.session() as session:
            request = self.floor.request(session, f"close-{self.random.random()}")
            closing = Closing(
                key=replace(request.key, leg=CLOSE_LEG),
                strategy=request.strategy,
                source=request.source,
                account=request.account,
                mode=request.mode,
                instrument=request.instrument,
                reduction=Reduction(share=share),
                wait_seconds=5.0,
            )
            close_position(session, self.floor.database, closing, owner="t")

    def look(self) -> None:
        """What the service does: every bracket is looked at, the oldest first."""
        for number in range(1, self.runs + 1):
            with self.floor.session() as session:
                request = self.floor.request(session, f"run-{number}", bracket=EXITS)
                self.floor.execute(session, request)

    def check(self) -> None:
        refs = [order["order_ref"] for order in self.floor.orders()]
        assert len(refs) == len(set(refs))  # one order a leg
        held = self.floor.held()
        with self.floor.session() as session:
            assert sum((p.quantity for p in session.positions()), Decimal(0)) == held >= 0
        alive = [o for o in self.floor.orders() if o["status"] in ("Submitted", "PreSubmitted")]
        stops = sum((Decimal(o["quantity"]) for o in alive if o["order_type"] == "STP"), Decimal(0))
        assert stops == held
        assert all(o["action"] == "SELL" for o in alive)


@pytest.mark.parametrize("seed", range(4))
def test_after_each_look_what_is_held_has_its_stop(floor: Any, seed: int) -> None:
    """At hours in which the market is open: a new stop is then never behind a market that cannot be met."""
    sequence = Sequence(floor, seed)
    sequence.enter()
    for _ in range(8):
        event = sequence.random.choice(
            [
                sequence.enter,
                sequence.time_goes_by,
                sequence.time_goes_by,
                sequence.somebody_cancels_an_exit,
                sequence.a_task_closes_some,
            ]
        )
        try:
            event()
        except IBKRPluginError as error:
            print(event.__name__, error)
        floor.gateway.control("clock", freeze=True)
        sequence.look()
        sequence.look()
        sequence.check()
        floor.gateway.control("clock", freeze=False)
