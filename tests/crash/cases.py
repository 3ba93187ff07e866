"""The cases: what is ordered, what goes wrong at the gateway, where the worker dies. All of it from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from boundaries import COMMIT, PLACED, RECEIVE, SEND, Trigger

Commands = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Scenario:
    """An order, as the operator's arguments. `partial` offers more than a second of the market takes."""

    name: str
    symbol: str
    operator: dict[str, Any]


SCENARIOS = (
    Scenario("market", "SPY", {"sizing": {"quantity": 3}, "wait_seconds": 5.0}),
    Scenario(
        "limit", "AAPL", {"sizing": {"quantity": 3}, "order_type": "LMT", "limit_offset": -0.3, "wait_seconds": 0.3}
    ),
    Scenario("partial", "KO", {"sizing": {"quantity": 12_000}, "wait_seconds": 0.3}),
)


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the gateway.

    :param armed: control commands before the first try. :param of_order: they are for the case's order alone.
    :param triggers: what happens at a boundary of the first try. :param mended: control commands after it.
    """

    name: str
    armed: Commands = ()
    of_order: bool = True
    triggers: tuple[Trigger, ...] = ()
    mended: Commands = ()


def _armed(name: str, cmd: str = "", *, of_order: bool = True, **arguments: Any) -> Fault:
    return Fault(name, ({"cmd": cmd or name, **arguments},), of_order)


def _placed(name: str, after: bool, cmd: str, mended: Commands = (), **arguments: Any) -> Fault:
    return Fault(name, triggers=(Trigger(PLACED, 1, after, {"cmd": cmd, **arguments}),), mended=mended)


NO_FAULT = Fault("none")
_RESTORED: Commands = ({"cmd": "connectivity", "state": "restored_data_lost"},)
_ORDERS, _FILLS = ["openOrder", "orderStatus"], ["execDetails", "commissionReport"]
FAULTS = (
    NO_FAULT,
    _armed("missing_acknowledgement"),
    _armed("lose_order"),
    _armed("drop_before_accept"),
    _armed("drop_after_accept"),
    _armed("duplicate_status", count=9),
    _armed("fill before status", "reorder", how="fill_before_status"),
    _armed("statuses backwards", "reorder", how="status_backwards"),
    _armed("commission before fill", "reorder", how="commission_before_execution"),
    _armed("second_perm_id"),
    _armed("unnamed_fill", count=3),
    _armed("roll_back_ids", of_order=False, by=20, count=3),
    _armed("late statuses", "delay", of_order=False, messages=_ORDERS, seconds=0.2, count=6),
    _armed("overtaken fills", "delay", of_order=False, messages=_FILLS, seconds=0.2, count=6, keep_order=False),
    _placed("message_rate", False, "message_rate"),
    _armed("keep_client_id", of_order=False, seconds=0.5),
    _placed("link lost before sending", False, "connectivity", _RESTORED, state="lost"),
    _placed("link lost after sending", True, "connectivity", _RESTORED, state="lost"),
    _placed("restart before sending", False, "restart", seconds=0.2),
    _placed("restart after sending", True, "restart", seconds=0.2),
    _placed("cut after sending", True, "drop"),
)


@dataclass(frozen=True)
class Kill:
    """SIGKILL to a try: at a boundary, or so many seconds after it began. Neither: it lives."""

    trigger: Trigger | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"after {self.seconds:.4f} s" if self.seconds is not None else str(self.trigger or "-")


@dataclass(frozen=True)
class Case:
    """:param kills: of the first tries, one each; later ones live."""

    number: int
    scenario: Scenario
    fault: Fault = NO_FAULT
    kills: tuple[Kill, ...] = field(default=())

    @property
    def run_id(self) -> str:
        return f"case-{self.number}"

    def __str__(self) -> str:
        return f"case {self.number}: {self.scenario.name}, {self.fault.name}, killed {', '.join(map(str, self.kills))}"


@dataclass(frozen=True)
class Clean:
    """What a try of a scenario passes when nothing goes wrong."""

    passed: dict[str, int]
    seconds: float


def make_cases(clean: dict[str, Clean], number: int, seed: int) -> list[Case]:
    """Random kills under random faults, then every boundary of every scenario without a fault, or a sample of them.

    Half of the cases at least are random; the first of them are the same for every number of cases.
    """
    everywhere = [(scenario, NO_FAULT, kills) for scenario in SCENARIOS for kills in _each(clean[scenario.name])]
    chance = random.Random(seed)
    cases = [_random(clean, chance) for _ in range(max(number - len(everywhere), number // 2))]
    cases += chance.sample(everywhere, number - len(cases))
    return [Case(n, *parts) for n, parts in enumerate(cases, 1)]


def _each(clean: Clean) -> Iterator[tuple[Kill, ...]]:
    for boundary in (COMMIT, SEND, RECEIVE):
        for at in range(1, clean.passed[boundary] + 1):
            for after in (False, True) if boundary != RECEIVE else (False,):
                yield (Kill(Trigger(boundary, at, after)),)


def _random(clean: dict[str, Clean], chance: random.Random) -> tuple[Scenario, Fault, tuple[Kill, ...]]:
    scenario = chance.choice(SCENARIOS)
    kills = tuple(_kill(clean[scenario.name], chance) for _ in range(chance.choice((1, 2))))
    return scenario, chance.choice(FAULTS), kills


def _kill(clean: Clean, chance: random.Random) -> Kill:
    if chance.random() < 0.5:
        return Kill(seconds=chance.random() * 1.3 * clean.seconds)
    boundary = chance.choice((COMMIT, SEND, RECEIVE, PLACED))
    at = 1 + int(chance.random() * clean.passed[boundary])
    return Kill(Trigger(boundary, at, after=chance.random() < 0.5))
