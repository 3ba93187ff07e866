"""The cases: what is ordered, what goes wrong at the gateway, where the worker dies. All of it from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from boundaries import COMMIT, OTHER, PLACED, RECEIVE, SEND, Trigger
from faults import FAULTS, NO_FAULT, Fault

from airflow_ibkr_plugin.trading.brackets import ENTRY_LEG, STOP_LEG, TARGET_LEG


@dataclass(frozen=True)
class Scenario:
    """An order, as the operator's arguments. `partial` offers more than a second of the market takes."""

    name: str
    symbol: str
    operator: dict[str, Any]

    @property
    def bracket(self) -> bool:
        """Whether exits go out with it."""
        return "bracket" in self.operator


_LIMIT = {"sizing": {"quantity": 3}, "order_type": "LMT", "limit_offset": -0.3, "wait_seconds": 0.3}
# Exits that the market does not reach.
_BRACKET = {"stop": {"offset": 0.3}, "target": {"offset": 0.9}}
SCENARIOS = (
    Scenario("market", "SPY", {"sizing": {"quantity": 3}, "wait_seconds": 5.0}),
    Scenario("limit", "AAPL", _LIMIT),
    Scenario("partial", "KO", {"sizing": {"quantity": 12_000}, "wait_seconds": 0.3}),
    Scenario("bracket", "MSFT", {"sizing": {"quantity": 3}, "bracket": _BRACKET, "wait_seconds": 5.0}),
    Scenario("bracket limit", "AAPL", {**_LIMIT, "bracket": _BRACKET}),
    Scenario("bracket partial", "KO", {"sizing": {"quantity": 12_000}, "bracket": _BRACKET, "wait_seconds": 0.3}),
)

INSTANT = "instant"
#: Strategy and DAG of the cases.
CRASH = "crash"


@dataclass(frozen=True)
class Clean:
    """What a try of a scenario passes when nothing goes wrong."""

    passed: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Kill:
    """SIGKILL to a try.

    :param boundary: where; `instant`: at any moment; '': it lives.
    :param share: of all such boundaries of a clean try, or of its time, those that it passes first; from 0.
    """

    boundary: str = ""
    share: float = 0.0
    after: bool = False

    def trigger(self, clean: Clean) -> Trigger | None:
        """The boundary, where it is at one."""
        if self.boundary in ("", INSTANT):
            return None
        return Trigger(self.boundary, 1 + int(self.share * clean.passed[self.boundary]), self.after)

    def seconds(self, clean: Clean) -> float | None:
        """How long after its beginning, where it is at an instant."""
        return self.share * clean.seconds if self.boundary == INSTANT else None

    def __str__(self) -> str:
        if not self.boundary:
            return "-"
        return f"{'after' if self.after else 'before'} {self.boundary} at {self.share:.1%}"


LIVES = Kill()


@dataclass(frozen=True)
class Case:
    """:param kills: of the first tries, one each; later ones live. :param twice: the first try runs twice at once, as
    when Celery delivers a task again. :param leg: of a bracket, the order that the fault is for.
    """

    number: int
    scenario: Scenario
    fault: Fault = NO_FAULT
    kills: tuple[Kill, ...] = ()
    twice: bool = False
    strategy: str = CRASH
    leg: str = ENTRY_LEG

    @property
    def run_id(self) -> str:
        return f"case-{self.number}"

    @property
    def row(self) -> str:
        """The table's row that it counts in."""
        return "redelivered" if self.twice else self.fault.name

    def __str__(self) -> str:
        of = "" if self.leg == ENTRY_LEG else f" of the {self.leg}"
        what = f"{self.scenario.name}, {self.fault.name}{of}{', twice at once' if self.twice else ''}"
        return f"case {self.number}: {what}, killed {', '.join(map(str, self.kills))}"


_Parts = tuple[Scenario, Fault, tuple[Kill, ...], bool, str]


def make_cases(clean: dict[str, Clean], number: int, seed: int) -> list[Case]:
    """Random kills under random faults; every commit under every fault; every boundary of every scenario.

    Messages that are not about orders, prices and account values above all, are left to chance. Of the last two of the
    three as many as there is room for. A fifth of the cases are random where there is not room for all; the
    first random ones are the same for every number of cases.
    """
    chance = random.Random(seed)
    everywhere = [(each, NO_FAULT, (kill,), False, ENTRY_LEG) for each in SCENARIOS for kill in _each(clean[each.name])]
    under_faults = list(_under_faults(clean, random.Random(seed)))
    count = max(number - len(everywhere) - len(under_faults), number // 5)
    cases = [_random(n, chance) for n in range(count)]
    left = number - count
    if left < len(everywhere) + len(under_faults):
        few = min(left // 2, len(under_faults))
        under_faults = chance.sample(under_faults, few)
        everywhere = chance.sample(everywhere, left - few)
    return [_numbered(n, *parts) for n, parts in enumerate([*cases, *under_faults, *everywhere], 1)]


def _numbered(number: int, scenario: Scenario, *parts: Any) -> Case:
    """A bracket's strategy is its own, and is closed when it was judged."""
    *others, leg = parts
    return Case(number, scenario, *others, strategy=f"{CRASH}-{number}" if scenario.bracket else CRASH, leg=leg)


def _each(clean: Clean) -> Iterator[Kill]:
    for boundary in (COMMIT, SEND, RECEIVE):
        for at in range(clean.passed[boundary]):
            for after in (False, True) if boundary != RECEIVE else (False,):
                yield Kill(boundary, (at + 0.5) / clean.passed[boundary], after)


def _under_faults(clean: dict[str, Clean], chance: random.Random) -> Iterator[_Parts]:
    for number, fault in enumerate(FAULTS[1:]):
        scenario = SCENARIOS[number % len(SCENARIOS)]
        leg = _leg(scenario, chance)
        commits = clean[scenario.name].passed[COMMIT]
        for at in range(commits):
            yield scenario, fault, (Kill(COMMIT, (at + 0.5) / commits, chance.random() < 0.5),), False, leg
        for after in (False, True):
            yield scenario, fault, (Kill(PLACED, 0.0, after),), False, leg


def _random(number: int, chance: random.Random) -> _Parts:
    kills = tuple(_kill(chance) for _ in range(chance.choice((1, 2))))
    scenario = chance.choice(SCENARIOS)
    return scenario, FAULTS[number % len(FAULTS)], kills, chance.random() < 0.1, _leg(scenario, chance)


def _leg(scenario: Scenario, chance: random.Random) -> str:
    return chance.choice((ENTRY_LEG, STOP_LEG, TARGET_LEG)) if scenario.bracket else ENTRY_LEG


def _kill(chance: random.Random) -> Kill:
    if chance.random() < 0.5:
        return Kill(INSTANT, 1.3 * chance.random())
    boundary = chance.choice((COMMIT, SEND, RECEIVE, OTHER, PLACED))
    return Kill(boundary, chance.random(), after=chance.random() < 0.5)
