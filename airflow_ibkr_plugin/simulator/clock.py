"""The gateway's clock: real UTC, or a simulated time that runs at real speed or stands still."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_ibkr_plugin.errors import ConfigError


def parse_instant(text: str) -> datetime:
    """An ISO 8601 instant with its offset (`2026-11-20T15:00:00+00:00`, or `Z`), as aware UTC.

    :raises ConfigError: no such instant, or one without an offset.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise ConfigError(
            f"{text!r} is no instant.", remedy="Write it like 2026-11-20T15:00:00+00:00, with the offset."
        )
    return instant.astimezone(UTC)


class Clock:
    """Time in seconds since the epoch.

    It is real until :meth:`set`, :meth:`advance` or :meth:`freeze` is called.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._frozen: float | None = None

    @property
    def simulated(self) -> bool:
        """Whether it differs from real time."""
        return self._frozen is not None or self._offset != 0.0

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self._frozen is not None

    def time(self) -> float:
        """Now, in seconds since the epoch."""
        return self._frozen if self._frozen is not None else time.time() + self._offset

    def now(self) -> datetime:
        """Now, as aware UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def set(self, instant: datetime) -> None:
        """Stand at that instant; from there on go on, or stand still if frozen."""
        if self._frozen is not None:
            self._frozen = instant.timestamp()
        else:
            self._offset = instant.timestamp() - time.time()

    def advance(self, seconds: float) -> None:
        """Move forward at once."""
        self.set(self.now() + timedelta(seconds=seconds))

    def freeze(self) -> None:
        """Stand still."""
        self._frozen = self.time()

    def resume(self) -> None:
        """Go on from where it stands, at real speed."""
        if self._frozen is not None:
            self._offset, self._frozen = self._frozen - time.time(), None

    def dump(self) -> dict[str, Any]:
        """What :meth:`load` takes."""
        return {"offset": self._offset, "frozen": self._frozen}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a dumped clock: a frozen one where it stood, a running one as if it had run meanwhile."""
        self._offset, self._frozen = state["offset"], state["frozen"]
