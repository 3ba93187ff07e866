"""One claim for each gateway: only its holder sends IBC's commands. It is kept in the trading database, as a lease."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from airflow_ibkr_plugin.store.client_leases import ClientLeases

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.spec import GatewaySpec
    from airflow_ibkr_plugin.store.database import Database

# Who holds the claim while nobody but a person can log in.
_PERSON = "a person"
_ONE = range(1)  # there is one claim for each gateway


class IbcClaim:
    """The claim of one caller on the gateway at one address, whichever connection leads there.

    A caller that crashes loses it when its seconds have run out. Every method may raise StoreError.

    :param who: of whom to tell in the row, such as the strategy; two callers with one name do not share a claim.
    """

    def __init__(self, database: Database, spec: GatewaySpec, who: str) -> None:
        self._database = database
        self._source = f"ibc:{spec.address}"
        self._owner = f"{who}/{uuid4().hex}"

    def take(self, seconds: float) -> bool:
        """Hold the claim for so long at most; False where somebody else holds it."""
        with self._database.write() as session:
            leases = ClientLeases(session)
            return leases.acquire(self._source, _ONE, self._owner, datetime.now(UTC), seconds) is not None

    def keep(self, seconds: float) -> None:
        """Let it run out by itself, so many seconds from now."""
        with self._database.write() as session:
            ClientLeases(session).renew(self._source, _ONE.start, self._owner, datetime.now(UTC), seconds)

    def leave(self) -> None:
        """Give it back."""
        with self._database.write() as session:
            ClientLeases(session).release(self._source, _ONE.start, self._owner)

    def leave_to_person(self, at_least: float) -> None:
        """Nobody sends commands for the rest of the day (UTC), and for `at_least` seconds, or until :meth:`end_person`.

        A command in the middle of a person's login would throw that person out.
        """
        now = datetime.now(UTC)
        tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        seconds = max(at_least, (tomorrow - now).total_seconds())
        with self._database.write() as session:
            leases = ClientLeases(session)
            if leases.release(self._source, _ONE.start, self._owner):
                leases.acquire(self._source, _ONE, _PERSON, now, seconds)

    def end_person(self) -> None:
        """The session is valid again: the next time that it is not, commands may be sent."""
        with self._database.write() as session:
            ClientLeases(session).release(self._source, _ONE.start, _PERSON)
