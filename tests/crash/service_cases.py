"""Cases against the service: killed while it books fills of orders that tasks left, and while it halts and closes.

Orders are left at the broker on a clock that stands still, partly filled. It goes on when the services run; the fills
come then. Two services stand by turns, and who watches over them starts another when none is left.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from boundaries import COMMIT, PLACED, RECEIVE, SEND, Trigger
from cases import LIVES, SCENARIOS, Case, Kill, Scenario
from faults import Commands
from floor import Floor, close_all
from forks import Child
from sqlalchemy import select
from verdict import LOST, UNFINISHED, Result, compare_books, judge

from airflow_ibkr_plugin.cli.halt import resume
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.service import visit
from airflow_ibkr_plugin.store.models import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.models.trading_state import TradingCommand
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.orders import TERMINAL, IntentState
from airflow_ibkr_plugin.trading.trading_state import TradingState

STRATEGY = "crash_service"
FILLS, HALT = "fills", "halt"
_ENOUGH_SECONDS = 240.0
_LEFT = {"on_timeout": "leave", "tif": "GTC", "wait_seconds": 0.3, "allow_short": True}
# More than the market takes while the clock stands still, and than it takes within a second.
_SCENARIOS = (
    Scenario("left", "KO", {"sizing": {"quantity": 12_000}, **_LEFT}),
    Scenario("left too", "AAPL", {**SCENARIOS[1].operator, **_LEFT}),
)
_FAULTS: tuple[tuple[str, Commands, Commands], ...] = (
    ("none", (), ()),
    ("cut", ({"cmd": "drop"},), ()),
    ("restart", ({"cmd": "restart", "seconds": 0.5},), ()),
    ("link lost", ({"cmd": "connectivity", "state": "lost"},), ({"cmd": "connectivity", "state": "restored"},)),
    ("ids kept", ({"cmd": "keep_client_id", "seconds": 1.0, "count": 2},), ()),
    ("fills unnamed", ({"cmd": "unnamed_fill", "count": 3},), ()),
    (
        "fills late",
        ({"cmd": "delay", "messages": ["execDetails", "commissionReport"], "seconds": 0.5, "count": 8},),
        (),
    ),
)


@dataclass(frozen=True)
class ServiceCase:
    """:param kills: of the services, in the order in which they are started: a trigger, or seconds after the clock
    goes on. :param two: are started at once. :param leave: how the tasks end that leave the orders. :param halted: how
    `airflow ibkr halt` ends, where it is given.
    """

    number: int
    kind: str
    fault: tuple[str, Commands, Commands]
    kills: tuple[Trigger | float | None, ...]
    two: bool
    leave: tuple[Kill, ...]
    halted: Trigger | None

    @property
    def row(self) -> str:
        """The table's row that it counts in."""
        return f"service, {self.kind}"

    def __str__(self) -> str:
        kills = ", ".join(f"after {kill:.2f} s" if isinstance(kill, float) else str(kill) for kill in self.kills)
        return (
            f"service's case {self.number}: {self.kind}, {self.fault[0]}, {'two' if self.two else 'one'}, killed"
            f" {kills}; tasks killed {', '.join(map(str, self.leave))}; halt killed {self.halted}"
        )


def make_service_cases(number: int, seed: int) -> list[ServiceCase]:
    """Two of three are about fills, one about a halt."""
    chance = random.Random(f"service {seed}")
    return [_case(n, chance) for n in range(number)]


def _case(number: int, chance: random.Random) -> ServiceCase:
    kind = HALT if number % 3 == 2 else FILLS
    return ServiceCase(
        number=number + 1,
        kind=kind,
        fault=_FAULTS[number % len(_FAULTS)],
        kills=tuple(_service_kill(chance) for _ in range(chance.choice((1, 2)))),
        two=chance.random() < 0.5,
        leave=tuple(chance.choice((LIVES, Kill(PLACED, 0.0, after=True))) for _ in _SCENARIOS),
        halted=chance.choice((None, Trigger(COMMIT, chance.randint(1, 12), after=chance.random() < 0.5))),
    )


def _service_kill(chance: random.Random) -> Trigger | float:
    if chance.random() < 0.4:
        return 3.0 * chance.random()
    boundary, most = chance.choice(((COMMIT, 25), (SEND, 20), (RECEIVE, 40)))
    return Trigger(boundary, chance.randint(1, most), after=chance.random() < 0.5)


def run_services(floor: Floor, cases: list[ServiceCase]) -> Iterator[Result]:
    """Run the cases, each on a day of its own."""
    for case in cases:
        killed, wrong = _Watch(floor, case).run()
        text = f"{wrong[0]}: {case}\n  " + "\n  ".join(wrong[1:]) if wrong else ""
        yield Result(case.row, killed, True, wrong[0] if wrong else None, text)


def service_days(cases: list[ServiceCase]) -> list[tuple[Any, list[Any]]]:
    """Batches that end with a halt, which leaves nothing working."""
    return [(run_services, cases[first : first + 6]) for first in range(0, len(cases), 6)]


@dataclass
class _Watch:
    """One case: who leaves the orders, who watches over the services, and the verdict."""

    floor: Floor
    case: ServiceCase
    services: list[Child] = field(default_factory=list)
    killed: int = 0

    def run(self) -> tuple[int, list[str]]:
        """How many processes were killed, and what is wrong: the column, and the facts."""
        floor, case, control = self.floor, self.case, self.floor.gateway.control
        began = datetime.now(UTC)
        floor.next_day()
        control(cmd="clock", freeze=True)
        for scenario, kill in zip(_SCENARIOS, case.leave, strict=True):
            self._leave(scenario, kill)
        for _ in range(2 if case.two else 1):
            self._start()
        for command in case.fault[1]:
            control(**command)
        control(cmd="clock", freeze=False)
        going_on = time.monotonic()
        halted = self._halt(case.halted) if case.kind == HALT else None
        mended = False
        while not (done := self._settled(began)) and time.monotonic() < going_on + _ENOUGH_SECONDS:
            self._kill_due(time.monotonic() - going_on)
            self._replace_dead()
            if not mended and time.monotonic() > going_on + 1.0:
                mended = True
                for command in case.fault[2]:
                    control(**command)
            if halted is not None and halted.ended():
                halted = self._halt_again(halted)
            time.sleep(0.05)
        control(cmd="disarm")
        if halted is not None:
            self._killed(halted)
        self._stop()
        wrong = self._wrong(began) if done else [UNFINISHED, *self._facts(began)]
        floor.do(_resume)
        return self.killed, wrong

    def _leave(self, scenario: Scenario, kill: Kill) -> None:
        """An order task that leaves its order, or dies over it."""
        number = 10 * self.case.number + _SCENARIOS.index(scenario)
        end = self.floor.attempt(Case(number, scenario, strategy=STRATEGY), 1, kill).finish()
        assert "done" in end or "killed" in end, end
        if "killed" in end:
            self.killed += 1
            self.floor.let_leases_run_out()

    def _start(self) -> None:
        number = len(self.services)
        kill = self.case.kills[number] if number < len(self.case.kills) else None
        triggers = (kill,) if isinstance(kill, Trigger) else ()
        self.services.append(self.floor.child(_serve, triggers))

    def _kill_due(self, seconds: float) -> None:
        for child, kill in zip(self.services, self.case.kills, strict=False):
            if isinstance(kill, float) and seconds >= kill and not child.ended():
                child.kill()

    def _replace_dead(self) -> None:
        for child in self.services:
            if child.ended() and not child.finished:
                self._killed(child)
                self.floor.let_leases_run_out(of=f"%/{child.pid}/%")
        if all(child.finished for child in self.services):
            self._start()

    def _killed(self, child: Child) -> None:
        told = child.finish()
        assert "killed" in told or "done" in told, told
        self.killed += "killed" in told

    def _halt(self, kill: Trigger | None) -> Child:
        return self.floor.child(partial(close_all, STRATEGY), () if kill is None else (kill,))

    def _halt_again(self, child: Child) -> Child | None:
        """A person gives the command again if it was not stored; else the service carries it on."""
        self._killed(child)
        return None if self._command() else self._halt(None)

    def _command(self) -> TradingCommand | None:
        with self.floor.database.read() as transaction:
            query = select(TradingCommand).where(TradingCommand.strategy == STRATEGY, TradingCommand.ended_at.is_(None))
            return transaction.scalars(query).first()

    def _settled(self, since: datetime) -> bool:
        if self.case.kind == HALT and ((command := self._command()) is None or command.flat_at is None):
            return False
        rows = self._intents(since)
        if self.case.kind == FILLS and any(row.state is not IntentState.FILLED for row in rows if row.symbol == "KO"):
            return False
        with self.floor.database.read() as transaction:
            unpaid = select(ExecutionRow.exec_id).where(ExecutionRow.commission.is_(None))
            if transaction.scalars(unpaid).first() is not None:
                return False
        waiting = [row for row in rows if row.state not in TERMINAL]
        return all(row.symbol == "AAPL" and row.state is IntentState.WORKING for row in waiting)

    def _intents(self, since: datetime) -> list[OrderIntent]:
        """Those of this case; a halt is about the earlier ones too."""
        if self.case.kind == HALT:
            since = datetime(2026, 1, 1, tzinfo=UTC)
        with self.floor.database.read() as transaction:
            query = select(OrderIntent).where(OrderIntent.strategy == STRATEGY, OrderIntent.created_at >= since)
            return list(transaction.scalars(query))

    def _stop(self) -> None:
        for child in self.services:
            if not child.finished:
                child.ask_to_end()
                self._killed(child)

    def _facts(self, since: datetime) -> list[str]:
        told = [judge(self.floor.database, self.floor.gateway, row.order_ref) for row in self._intents(since)]
        command = self._command()
        return [facts for _, facts in told] + ([f"command: flat {command.flat_at}"] if command else [])

    def _wrong(self, since: datetime) -> list[str]:
        floor = self.floor
        for row in self._intents(since):
            found, facts = judge(floor.database, floor.gateway, row.order_ref)
            # The limit order that nobody halted works on.
            if found and not (found == UNFINISHED and row.state is IntentState.WORKING and row.symbol == "AAPL"):
                return [found, facts]
        if differences := compare_books(floor.database, floor.told_by_broker(), floor.day):
            return [LOST, *differences]
        with floor.database.read() as transaction:
            effective = TradingStates(transaction).effective(STRATEGY)
        if self.case.kind == FILLS and effective.state is not TradingState.ACTIVE:
            return [UNFINISHED, f"trading was stopped: {effective}"]
        return []


def _serve() -> int:
    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.service.main import main

    recover.SETTLE_SECONDS = 0.3
    visit.LEFT_TO_TASK *= 0  # no task comes back here
    return main(gateway_of)


def _resume() -> None:
    resume(argparse.Namespace(strategy=STRATEGY, reason="the case is over"))
