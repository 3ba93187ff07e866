"""Opens and closes of exchange calendars as plain arrays.

`exchange_calendars` brings pandas, which is most of what a simulator would hold in memory. So it is imported in a child
process that prints the tables, `python -m ...session_tables 2029 XNYS XTSE`; only where this process has it already
(tests, a task that reads calendars itself) is it used here.
"""

from __future__ import annotations

import bisect
import json
import os
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from exchange_calendars import ExchangeCalendar

_MODULE = "airflow_ibkr_plugin.simulator.market.session_tables"
_FIRST_DAY = date(1990, 1, 1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A child imports pandas and builds its calendars in about three seconds.
_CHILD_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class SessionTable:
    """All sessions of a calendar, in order: ordinals of their dates, and epoch seconds, each end exclusive.

    :param break_starts, break_ends: of the midday break, 0 where a session has none.
    """

    days: array[int]
    opens: array[int]
    closes: array[int]
    break_starts: array[int]
    break_ends: array[int]

    def find(self, day: date) -> tuple[int, int, tuple[int, int] | None] | None:
        """Open, close and break of a date's session; None if it has none."""
        ordinal = day.toordinal()
        at = bisect.bisect_left(self.days, ordinal)
        if at == len(self.days) or self.days[at] != ordinal:
            return None
        pause = (self.break_starts[at], self.break_ends[at]) if self.break_starts[at] else None
        return self.opens[at], self.closes[at], pause


_loaded: dict[tuple[str, int], SessionTable] = {}
_lock = threading.Lock()


def session_tables(calendars: Iterable[str], last_year: int) -> dict[str, SessionTable]:
    """The sessions from 1990, or from when the calendar begins, to the end of a year. Kept for the whole process.

    :param calendars: codes of `exchange_calendars`, such as `XNYS`.
    :raises ConfigError: there is no such calendar, or it cannot be read; says why.
    """
    wanted = list(dict.fromkeys(calendars))
    with _lock:
        missing = [name for name in wanted if (name, last_year) not in _loaded]
        if missing:
            build = _build if "exchange_calendars" in sys.modules else _build_in_child
            try:
                made = build(missing, last_year)
            except (ValueError, OSError, subprocess.TimeoutExpired) as error:
                raise ConfigError(
                    f"The exchange calendars {', '.join(missing)} cannot be used: {str(error).rstrip('.')}.",
                    remedy="Use calendar codes of exchange_calendars.",
                ) from error
            _loaded.update({(name, last_year): table for name, table in made.items()})
        return {name: _loaded[name, last_year] for name in wanted}


def _build(calendars: Sequence[str], last_year: int) -> dict[str, SessionTable]:
    return {name: _table(_columns(name, last_year)) for name in calendars}


def _build_in_child(calendars: Sequence[str], last_year: int) -> dict[str, SessionTable]:
    command = [sys.executable, "-m", _MODULE, str(last_year), *calendars]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.run(  # noqa: S603  (our own module; names of calendars are arguments, no shell)
        command, capture_output=True, text=True, timeout=_CHILD_SECONDS, env=os.environ | {"PYTHONPATH": path}
    )
    if child.returncode != 0:
        why = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise ValueError(why[-1])
    answers = (json.loads(line) for line in child.stdout.splitlines())
    return {name: _table(columns) for name, *columns in answers}


def _table(columns: Sequence[Sequence[int]]) -> SessionTable:
    return SessionTable(*(array("q", column) for column in columns))


def _columns(name: str, last_year: int) -> list[list[int]]:
    """The fields of a :class:`SessionTable`."""
    schedule = _calendar(name, last_year).schedule
    starts, ends = schedule["break_start"], schedule["break_end"]
    has_break = starts.notna() & (starts < ends)
    times = (schedule["open"], schedule["close"], starts.where(has_break, _EPOCH), ends.where(has_break, _EPOCH))
    days = schedule.index.to_numpy().astype("datetime64[D]").astype("int64") + date(1970, 1, 1).toordinal()
    seconds = (column.dt.tz_convert(None).to_numpy().astype("datetime64[s]").astype("int64") for column in times)
    return [column.tolist() for column in (days, *seconds)]


def _calendar(name: str, last_year: int) -> ExchangeCalendar:
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        return exchange_calendars.get_calendar(name, start=_FIRST_DAY.isoformat(), end=f"{last_year}-12-31")
    except InvalidCalendarName as error:
        raise ValueError(str(error)) from error
    except ValueError:
        # It begins later (XTKS in 1997), or ends earlier; a short one knows when, and is made quickly.
        kind = exchange_calendars.get_calendar(name, start="2020-01-01", end="2020-02-01")
    first, last = kind.bound_min(), kind.bound_max()
    start = max(_FIRST_DAY, first.date()) if first is not None else _FIRST_DAY
    end = min(date(last_year, 12, 31), last.date()) if last is not None else date(last_year, 12, 31)
    return exchange_calendars.get_calendar(name, start=start.isoformat(), end=end.isoformat())


def _main(arguments: Sequence[str]) -> int:
    last_year, *calendars = arguments
    for name in calendars:
        try:
            columns = _columns(name, int(last_year))
        except Exception as error:  # noqa: BLE001  (whatever it is, the parent names it)
            print(error, file=sys.stderr)  # noqa: T201  (this is the child's answer)
            return 2
        print(json.dumps([name, *columns], separators=(",", ":")))  # noqa: T201  (this is the child's answer)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
