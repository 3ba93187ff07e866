"""Taking turns, and the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(
    rounds: int, candidates: Mapping[str, Callable[[], Mapping[str, float]]]
) -> dict[str, dict[str, list[float]]]:
    """Call each candidate once a round, A B A B, after one warm-up each; collect seconds by step."""
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in candidates}
    for turn in range(rounds + 1):
        for name, candidate in candidates.items():
            for step, seconds in candidate().items():
                if turn:
                    taken[name].setdefault(step, []).append(seconds)
    return taken


def show_ratio(taken: Mapping[str, Mapping[str, list[float]]], ours: str, yardstick: str, aim: str) -> None:
    """Print medians in ms and the ratio of the medians, a line a step."""
    print(f"{'step':24} {ours + ' ms':>12} {yardstick + ' ms':>16} {'ratio':>7}   aim {aim}")
    for step in taken[ours]:
        a = statistics.median(taken[ours][step]) * 1000
        b = statistics.median(taken[yardstick][step]) * 1000
        print(f"{step:24} {a:12.1f} {b:16.1f} {a / b:7.2f}")


class Stopwatch:
    """Seconds by step."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """Close the step that began with the last lap."""
        now = time.perf_counter()
        self.steps[step] = now - self._last
        self._last = now
