"""The gateway's clock: real UTC, or a simulated time that stands still, jumps, or runs faster or slower."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_ibkr_plugin.errors import ConfigError

#: Simulated seconds in a real one, at most: a day. Orders meet the market four times in a real second.
MAX_SPEED = 86_400.0


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
    """Time in seconds since the epoch: `simulated + (real now - real) * speed`.

    It is real until :meth:`set`, :meth:`advance`, :meth:`freeze` or :meth:`run_at` is called.

    :ivar speed: simulated seconds in a real one, also of a clock that stands still: it goes on at that speed.
    """

    def __init__(self) -> None:
        self._real = self._simulated = 0.0
        self._frozen = False
        self.speed = 1.0

    @property
    def simulated(self) -> bool:
        """Whether it differs from real time."""
        return self._frozen or self.speed != 1.0 or self._simulated != self._real

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self._frozen

    def time(self) -> float:
        """Now, in seconds since the epoch."""
        return self._simulated if self._frozen else self._simulated + (time.time() - self._real) * self.speed

    def now(self) -> datetime:
        """Now, as aware UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def set(self, instant: datetime) -> None:
        """Stand at that instant; from there on go on, or stand still if frozen."""
        self._real, self._simulated = time.time(), instant.timestamp()

    def advance(self, seconds: float) -> None:
        """Move forward at once."""
        self.set(self.now() + timedelta(seconds=seconds))

    def freeze(self) -> None:
        """Stand still."""
        self.set(self.now())
        self._frozen = True

    def resume(self) -> None:
        """Go on from where it stands, at its speed."""
        if self._frozen:
            self._real, self._frozen = time.time(), False

    def run_at(self, speed: float) -> None:
        """Let `speed` simulated seconds pass in a real one, from now on.

        :raises ConfigError: no such speed.
        """
        if not 0 < speed <= MAX_SPEED:
            raise ConfigError(
                f"A clock cannot run at speed {speed:g}.",
                remedy=f"Use more than 0 and at most {MAX_SPEED:g}; freeze makes it stand still.",
            )
        if speed != self.speed:
            self.set(self.now())
            self.speed = speed

    def dump(self) -> dict[str, Any]:
        """What :meth:`load` takes."""
        return {"real": self._real, "simulated": self._simulated, "speed": self.speed, "frozen": self._frozen}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a dumped clock: a frozen one where it stood, a running one as if it had run meanwhile.

        :raises ConfigError: it is no dumped clock.
        """
        try:
            self._real, self._simulated, self.speed = (float(state[name]) for name in ("real", "simulated", "speed"))
            self._frozen = bool(state["frozen"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"The state's clock cannot be read: {error!r}.", remedy="Use a new state file."
            ) from error
