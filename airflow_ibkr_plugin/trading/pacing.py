"""IBKR's limits for requests of history: how long to wait, and how much slower to go once IBKR has complained.

Source of the limits: TWS API, "Historical Data Limitations". They count for bars of 30 seconds or less; for larger bars
IBKR has lifted all but the number of open requests. What is computed here depends on stored facts alone, so that all
workers come to the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from airflow_ibkr_plugin.trading.bars import BAR_SIZES

LIMITED = timedelta(seconds=30)  # bars up to this size are limited
IDENTICAL = timedelta(seconds=15)  # between two identical requests
PER_SERIES, SERIES_WINDOW = 5, timedelta(seconds=2)  # six of one contract, exchange and tick type are one too many
IN_ALL, WINDOW = 60, timedelta(minutes=10)
OPEN_AT_ONCE = 50  # of any bar size
#: The broker's clock may run that much faster than ours in ten minutes (500 ppm, the most that NTP slews).
MARGIN = timedelta(seconds=0.3)
#: Nobody knows when an open request will be answered; so long until one looks again.
LOOK_AGAIN = timedelta(seconds=1)

#: Each complaint halves the rate, at most that often; each WINDOW without one doubles it again.
MOST_HALVINGS = 3
#: Nothing is sent for so long after the first complaint: all but the long window is free by then. Doubled each time.
PAUSE = IDENTICAL + MARGIN


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRequest:
    """One request for history as IBKR counts it; `end` None means now."""

    con_id: int
    what: str
    bar_size: str
    duration: str
    end: datetime | None
    use_rth: bool

    @property
    def series(self) -> str:
        """What the limit per contract, exchange and tick type counts by; all exchanges of a contract are one."""
        return f"{self.con_id} {self.what}"

    @property
    def key(self) -> str:
        """Two requests with the same key are identical."""
        hours = "regular" if self.use_rth else "all"
        end = self.end.isoformat() if self.end else "now"
        return f"{self.series} {self.bar_size}, {self.duration} to {end}, {hours} hours"

    @property
    def weight(self) -> int:
        """How often it counts: a BID_ASK request twice, one for larger bars not at all."""
        if BAR_SIZES[self.bar_size] > LIMITED:
            return 0
        return 2 if self.what == "BID_ASK" else 1


class Place(Protocol):
    """A request in line, on its way, or answered.

    :ivar sent_at: None while it waits in line.
    :ivar until: since when the broker surely has it behind it: when it was answered. Before that the time at which
        whoever asks is taken for dead: it then neither sends any more nor has a request open.
    """

    @property
    def request(self) -> str: ...
    @property
    def series(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def sent_at(self) -> datetime | None: ...
    @property
    def until(self) -> datetime: ...


class Complaint(Protocol):
    """A rate-limit answer of the broker: when, and when the request was sent that it answers."""

    @property
    def sent_at(self) -> datetime: ...
    @property
    def at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to go: the limits are halved `halvings` times, and nothing is sent before `not_before`."""

    halvings: int = 0
    not_before: datetime | None = None

    def most(self, limit: int) -> int:
        """What is left of a limit."""
        return limit >> self.halvings


def pace_at(complaints: Iterable[Complaint], now: datetime) -> Pace:
    """The pace after those complaints, oldest first.

    What was sent before the rate was lowered was sent at the old rate: complaints about it lower nothing again, they
    only make the pause begin anew.
    """
    halvings, changed, lowered, paused = 0, now, None, None
    for complaint in complaints:
        halvings, changed = _recovered(halvings, changed, complaint.at)
        if lowered is None or complaint.sent_at >= lowered:
            halvings = min(halvings + 1, MOST_HALVINGS)
            changed = lowered = complaint.at
        paused = complaint.at + PAUSE * 2 ** max(halvings - 1, 0)
    return Pace(_recovered(halvings, changed, now)[0], paused)


def _recovered(halvings: int, changed: datetime, now: datetime) -> tuple[int, datetime]:
    steps = min(max((now - changed) // WINDOW, 0), halvings)
    return halvings - steps, changed + steps * WINDOW


def wait_for(request: HistoryRequest, ahead: Sequence[Place], pace: Pace, now: datetime) -> timedelta:
    """How long to wait before a request may be sent; zero: not at all.

    When a request reaches the broker is not known: at some time until it is answered. So what is not answered yet is
    taken to reach it now, which keeps the limits whatever is delayed on the way; and so is what waits in line before
    this request, so that nobody is overtaken.

    :param ahead: what was sent, and what waits in line before it; those of the last `WINDOW` + `MARGIN` matter.
    """
    free = [now, pace.not_before or now]
    if request.weight:
        # Who waited in line and died has sent nothing.
        counted = [place for place in ahead if place.weight and (place.sent_at is not None or place.until > now)]
        free += [_latest(place, now) + IDENTICAL + MARGIN for place in counted if place.request == request.key]
        of_series = [place for place in counted if place.series == request.series]
        for places, limit, span in ((of_series, PER_SERIES, SERIES_WINDOW), (counted, IN_ALL, WINDOW)):
            times = sorted(_latest(place, now) for place in places for _ in range(place.weight))
            # With the request itself, no more than the limit may lie in any window.
            over = len(times) + request.weight - max(pace.most(limit), request.weight)
            if over > 0:
                free.append(times[over - 1] + span + MARGIN)
    # In line for a place among the open requests are only those that no other limit holds back.
    holding = sum(place.until > now and (place.sent_at is not None or not place.weight) for place in ahead)
    if holding >= pace.most(OPEN_AT_ONCE):
        free.append(now + LOOK_AGAIN)
    return max(free) - now


def bounded(place: Place, now: datetime, *, open_for: timedelta, kept: timedelta) -> tuple[datetime | None, datetime]:
    """`sent_at` and `until` of a request where the clock may have been set back since they were noted.

    All that was noted was noted before now. So what was answered is counted from now at the latest, which is never too
    early, and what is open or in line is taken for dead no later than if it were noted now.

    :param open_for: from `sent_at` to `until` while there is no answer. :param kept: after its turn, in line.
    """
    if place.sent_at is None:
        return None, min(place.until, now + WINDOW + MARGIN + kept)
    answered = place.until - place.sent_at < open_for
    sent_at = min(place.sent_at, now)
    return sent_at, min(place.until, now if answered else sent_at + open_for)


def _latest(place: Place, now: datetime) -> datetime:
    """When it reached the broker at the latest, as far as is known now."""
    return min(place.until, now)
