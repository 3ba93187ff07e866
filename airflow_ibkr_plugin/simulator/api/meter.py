"""IBKR's limit on a connection's messages."""

from __future__ import annotations

#: Messages a second and connection, all types together. Source: TWS API documentation, "Pacing limitations".
RATE = 50


class Meter:
    """A bucket of `rate` messages that fills at that rate; 0: no limit.

    A stall of this process hands over the messages of several seconds at once; what they would have been allowed is
    credited, so that only the client's own pace counts.
    """

    def __init__(self, now: float, rate: int) -> None:
        self._rate = rate
        self._left = float(rate)
        self._at = now

    def take(self, now: float, stalled: float) -> bool:
        """Count one message at monotonic time `now`; False if it is one too many.

        :param stalled: seconds for which the process had not read before.
        """
        room = self._rate * (1 + stalled)
        self._left = min(self._left + (now - self._at) * self._rate, room) - 1
        self._at = now
        return self._left >= 0 or self._rate == 0
