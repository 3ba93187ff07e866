"""What the control port has armed. Nothing here happens by itself.

:class:`Faults` knows what is armed; what a fault does is in `incoming` (requests), `order_news` (what happens to
orders) and `outgoing` (messages).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Armed:
    """A fault that waits for what it is for.

    :ivar count: how often it will still happen. :ivar client: only to this client id. :ivar order_ref: only to orders
        with this orderRef. :ivar details: what else it was armed with.
    """

    name: str
    count: int
    client: int | None = None
    order_ref: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def fits(self, client: int | None, order_ref: str | None) -> bool:
        """Whether it is for that client and order."""
        return self.client in (None, client) and self.order_ref in (None, order_ref)

    def state(self) -> dict[str, Any]:
        """As `status` lists it."""
        where = {"client": self.client, "order_ref": self.order_ref}
        known = {name: value for name, value in (where | self.details).items() if value is not None}
        return {"fault": self.name, "count": self.count} | known


class Faults:
    """Everything armed, oldest first, and what earlier faults have left behind.

    :ivar muted: names of End messages that are not sent.
    :ivar perm_ids: the second permId of an order, by its first. :ivar unnamed: executions that go out without orderRef.
    :ivar silent: permIds of orders whose news is not pushed.
    """

    def __init__(self) -> None:
        self.armed: list[Armed] = []
        self.muted: set[str] = set()
        self.perm_ids: dict[int, int] = {}
        self.unnamed: set[str] = set()
        self.silent: set[int] = set()

    def arm(self, fault: Armed) -> None:
        """Arm a fault, in place of one that differs from it by its count alone; count 0 only takes that one away."""
        self.armed = [
            known
            for known in self.armed
            if (known.name, known.client, known.order_ref, known.details)
            != (fault.name, fault.client, fault.order_ref, fault.details)
        ]
        if fault.count:
            self.armed.append(fault)

    def disarm(self, name: str | None = None) -> int:
        """Take faults away, all or those of one name; returns how many. What has happened to orders stays."""
        left = [fault for fault in self.armed if name not in (None, fault.name)]
        gone, self.armed = len(self.armed) - len(left), left
        if name in (None, "mute"):
            gone += len(self.muted)
            self.muted = set()
        return gone

    def take(
        self,
        name: str,
        *,
        client: int | None = None,
        order_ref: str | None = None,
        when: Callable[[dict[str, Any]], bool] = lambda details: True,
    ) -> Armed | None:
        """The armed fault of that name for that client and order, used up by one; None if there is none."""
        for fault in self.armed:
            if fault.name == name and fault.fits(client, order_ref) and when(fault.details):
                fault.count -= 1
                if not fault.count:
                    self.armed.remove(fault)
                return fault
        return None
