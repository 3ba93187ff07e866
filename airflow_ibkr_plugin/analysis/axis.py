"""What a chart's axes carry: readable dates on an index axis, and the decimals of prices and levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime


def _every_hours(n: int) -> Callable[[datetime], object]:
    return lambda t: (t.date(), t.hour // n)


def _every_minutes(n: int) -> Callable[[datetime], object]:
    return lambda t: (t.date(), t.hour, t.minute // n)


# From fine to coarse: where this key changes from one bar to the next, a tick may stand; and how it is labelled.
_Step = tuple[Callable[[datetime], object], str]
_STEPS: tuple[_Step, ...] = (
    (lambda t: t, "%H:%M:%S"),
    (_every_minutes(1), "%H:%M"),
    (_every_minutes(5), "%H:%M"),
    (_every_minutes(15), "%H:%M"),
    (_every_minutes(30), "%H:%M"),
    (_every_hours(1), "%H:%M"),
    (_every_hours(2), "%H:%M"),
    (_every_hours(4), "%H:%M"),
    (_every_hours(12), "%H:%M"),
    (lambda t: t.date(), "%d %b"),
    (lambda t: t.isocalendar()[:2], "%d %b"),
    (lambda t: (t.year, t.month), "%b"),
    (lambda t: (t.year, (t.month - 1) // 3), "%b"),
    (lambda t: (t.year, (t.month - 1) // 6), "%b"),
    (lambda t: t.year, "%Y"),
)
_FIRST_DAILY = 9  # the steps from here on are days and longer


def date_ticks(times: Sequence[datetime], *, intraday: bool, most: int = 8) -> list[tuple[int, str]]:
    """Choose up to `most` ticks (index of the bar, label), at changes of a round unit of time.

    The day (intraday) or year is added on a second line where it changes. Times are labelled as given, in UTC.

    :param times: starts of the bars, oldest first.
    """
    places, form = _places(times, _STEPS if intraday else _STEPS[_FIRST_DAILY:], most)
    ticks = []
    context = ""
    for place in places:
        time = times[place]
        wider = time.strftime("%d %b %Y" if "%H" in form else "%Y") if form != "%Y" else ""
        ticks.append((place, time.strftime(form) + (f"\n{wider}" if wider != context else "")))
        context = wider
    return ticks


def _places(times: Sequence[datetime], steps: Sequence[_Step], most: int) -> tuple[list[int], str]:
    """Changes of the finest step that has no more than fit; where these are few, some of the step before it."""
    places: list[int] = []
    form = ""
    for key, coarser_form in steps:
        keys = [key(t) for t in times]
        changes = [0] + [i for i in range(1, len(times)) if keys[i] != keys[i - 1]]
        # The first bar rarely stands on a round time: its label would crowd the next one's.
        if len(changes) > 2 and changes[1] < len(times) / most / 2:
            del changes[0]
        if len(changes) <= most:
            if not places or len(changes) >= most / 2:
                return changes, coarser_form
            break
        places, form = changes, coarser_form
    return places[:: math.ceil(len(places) / most)], form


def price_decimals(prices: Iterable[float]) -> int:
    """The fewest decimals that write all these prices, from 2 to 8.

    What a single-precision number cannot tell apart is no decimal: recorded prices often went through one, which made
    2488.830078 of 2488.83.
    """
    decimals = 2
    for price in prices:
        while decimals < 8 and abs(round(price, decimals) - price) > abs(price) * 2**-24:
            decimals += 1
    return decimals


def level_decimals(low: float, high: float) -> int:
    """Decimals that tell computed levels of this range of prices apart, from 2 to 6."""
    span = max(high - low, high * 1e-4)
    return min(6, max(2, 2 - math.floor(math.log10(span / 6))))


def compact(number: float) -> str:
    """A volume in few characters: 1,250,000 becomes `1.25M`."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        # What rounds to 1000 of the unit below is 1 of this one.
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
