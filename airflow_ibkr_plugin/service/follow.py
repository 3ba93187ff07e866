"""Books what becomes of orders when no task is there: fills, ends and commissions, hours or days after a run.

One follower for each source (`paper:ibkr_default`). It connects only while there is something to follow, under a
client id that owns none of those orders, so that whoever wants to cancel one can take the id that placed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.queries import select
from airflow_ibkr_plugin.errors import ConfigError, GatewayUnavailable, NotLeader, SessionInvalid
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.execution.waiting import Effort, session_status
from airflow_ibkr_plugin.service.jobs import Job
from airflow_ibkr_plugin.service.visit import Visit
from airflow_ibkr_plugin.store.unheld import UnheldIntents
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.orders import TERMINAL, BrokerOrder, Execution

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.broker.spec import GatewaySpec
    from airflow_ibkr_plugin.broker.truth import BrokerTruth
    from airflow_ibkr_plugin.service.term import Term
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
#: The broker is asked this often, besides whenever it says something.
ASK_SECONDS = 10.0
# However much it says, it is asked no faster than this.
_SPACING_SECONDS = 0.5
#: An order that the broker does not know, or a fill whose commission it does not, is asked about this often.
REST_SECONDS = 300.0
#: IBKR tells commissions of the current day only.
_COMMISSION_LIMIT = timedelta(days=1)

#: The gateway that an Airflow connection names.
GatewayOf = Callable[[str], "GatewaySpec"]


def follow_jobs(database: Database, term: Term, gateway_of: GatewayOf) -> list[Job]:
    """A job for each source that has something to follow now.

    :raises StoreError: the trading database fails.
    """
    now = datetime.now(UTC)
    with database.read() as session:
        due = UnheldIntents(session, now).to_follow(since=now - _COMMISSION_LIMIT)
        sources = {row.source for row in (*due, *Units(session).open_entries(now=now))}
    return [
        Job(name=f"follow {source}", period=LOOK_SECONDS, work=Follower(database, term, source, gateway_of).work)
        for source in sorted(sources)
    ]


class Follower:
    """Follows the orders of one source."""

    def __init__(self, database: Database, term: Term, source: str, gateway_of: GatewayOf) -> None:
        self._database = database.guarded(term)
        self._term = term
        self._source = source
        self._gateway_of = gateway_of
        self._owner = f"service/{term.owner}/{source}"
        # By orderRef, while it is to be followed: what was booked last; when what rests was asked about.
        self._booked: dict[str, object] = {}
        self._rests: dict[str, float] = {}
        self._unsettled: dict[int, datetime] = {}
        self._lost = False

    def work(self) -> bool:
        """Follow until nothing is left to follow, or the term is over.

        :raises BrokerError: the connection was lost, or there is none; open a new one.
        :raises ConfigError: the connection is gone, or leads to another account or kind of gateway by now.
        """
        if not self._due() and not self._brackets():
            return True
        with self._session() as session:
            log.info("following", source=self._source, client_id=session.client_id)
            if self._lost:  # whatever happened meanwhile
                reconcile(session, self._database, by=f"service/{self._term.owner}")
                self._lost = False
            while (due := self._due()) or self._brackets():
                self._book(session, due)
                if self._term.over():
                    return True
                if self._due() or self._brackets():
                    self._listen(session)
        log.info("nothing left to follow", source=self._source)
        return True

    def _due(self) -> list[OrderIntent]:
        now = datetime.now(UTC)
        with self._database.read() as transaction:
            rows = UnheldIntents(transaction, now).to_follow(since=now - _COMMISSION_LIMIT, source=self._source)
        refs = {row.order_ref for row in rows}
        self._booked = {ref: told for ref, told in self._booked.items() if ref in refs}
        self._rests = {ref: since for ref, since in self._rests.items() if ref in refs}
        rested = time.monotonic() - REST_SECONDS
        return [row for row in rows if self._rests.get(row.order_ref, rested) <= rested]

    def _brackets(self) -> list[OrderIntent]:
        """Entries of which something may be held that must have its stop."""
        with self._database.read() as transaction:
            return Units(transaction).open_entries(self._source, now=datetime.now(UTC))

    @contextmanager
    def _session(self) -> Iterator[BrokerSession]:
        spec = self._gateway_of(self._source.partition(":")[2])
        try:
            with leased_session(spec, self._database, owner=self._owner, avoid=self._placed_by()) as session:
                if session.source != self._source:
                    raise ConfigError(
                        f"Connection {spec.conn_id!r} leads to {session.source} now, and orders of {self._source} are"
                        " not finished.",
                        remedy="Point the connection to where it led before, until they are.",
                    )
                yield session
        except (GatewayUnavailable, SessionInvalid):
            self._lost = True
            if spec.ibc_port is not None and not self._term.over():
                session_status(spec, strategy="service", effort=Effort.RECONNECT)
            raise

    def _placed_by(self) -> frozenset[int]:
        return frozenset(row.client_id for row in self._due() if row.client_id is not None)

    def _book(self, session: BrokerSession, due: list[OrderIntent]) -> None:
        truth = session.everything()
        visit = Visit(self._database, self._term, session, self._owner, self._unsettled)
        elsewhere = [row for row in due if row.account != session.account]
        failed: list[Exception] = []
        for row in due:
            if row not in elsewhere:
                with _apart(failed):
                    self._visit(visit, row, about(row, truth))
        for entry in self._brackets():
            if entry.account == session.account:
                with _apart(failed):
                    visit.protect(entry, lambda row: about(row, truth))
        if failed:
            raise failed[0] if len(failed) == 1 else ExceptionGroup("several orders failed", failed)
        if elsewhere:
            raise ConfigError(
                f"Connection of {self._source} trades {session.account} now, and orders of"
                f" {', '.join(sorted({row.account for row in elsewhere}))} are not finished.",
                remedy="Name that account in the connection, until they are.",
            )

    def _visit(self, visit: Visit, row: OrderIntent, truth: BrokerTruth) -> None:
        told = (truth.orders, truth.executions, row.state)
        if truth.known and self._booked.get(row.order_ref) == told:
            return
        self._booked.pop(row.order_ref, None)
        state = visit.book(row, truth)
        if state is None:
            return
        if truth.known and state not in TERMINAL:
            self._booked[row.order_ref] = (truth.orders, truth.executions, state)
        else:
            self._rests[row.order_ref] = time.monotonic()

    def _listen(self, session: BrokerSession) -> None:
        """Return when the broker has said something, or it is time to ask it."""
        self._term.wait(_SPACING_SECONDS)
        until = time.monotonic() + ASK_SECONDS
        while not self._term.over() and (left := until - time.monotonic()) > 0:
            if session.listen(seconds=min(left, 1.0)):
                return


@contextmanager
def _apart(failed: list[Exception]) -> Iterator[None]:
    """What goes wrong with one order keeps no other bracket from its stop, unless the session or the term is over."""
    try:
        yield
    except (NotLeader, GatewayUnavailable, SessionInvalid):
        raise
    except Exception as error:  # noqa: BLE001  raised when all have had their turn
        failed.append(error)


def about(row: OrderIntent, truth: BrokerTruth) -> BrokerTruth:
    """What of the broker's answer is about an intent: by its orderRef, or by the permId that it got."""

    def matches(item: BrokerOrder | Execution) -> bool:
        return item.order_ref == row.order_ref or (row.perm_id is not None and item.perm_id == row.perm_id)

    return select(truth.orders, truth.executions, matches)
