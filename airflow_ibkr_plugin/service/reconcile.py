"""Each account that we have traded is reconciled with the broker from time to time, and when a gateway is back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.errors import ClientIdInUse, ConfigError, IBKRPluginError, StoreError
from airflow_ibkr_plugin.execution.reconcile import reconcile, record_failure
from airflow_ibkr_plugin.service.jobs import Job
from airflow_ibkr_plugin.store.reconciliations import places
from airflow_ibkr_plugin.store.unheld import UnheldIntents

if TYPE_CHECKING:
    from airflow_ibkr_plugin.service.follow import GatewayOf
    from airflow_ibkr_plugin.service.term import Term
    from airflow_ibkr_plugin.store.database import Database


def reconcile_jobs(database: Database, term: Term, gateway_of: GatewayOf, seconds: float) -> list[Job]:
    """A job for each source that we have traded; a failing one is tried again within a minute, as all jobs are.

    :param seconds: between two reconciliations. :raises StoreError: the trading database fails.
    """
    with database.read() as session:
        sources = sorted({source for source, _ in places(session)})
    return [
        Job(name=f"reconcile {source}", period=seconds, work=Reconciler(database, term, source, gateway_of).work)
        for source in sources
    ]


class Reconciler:
    """Reconciles the account that a connection leads to."""

    def __init__(self, database: Database, term: Term, source: str, gateway_of: GatewayOf) -> None:
        self._database = database.guarded(term)
        self._term = term
        self._source = source
        self._gateway_of = gateway_of

    def work(self) -> bool:
        """Reconcile once, whatever is found.

        :raises BrokerError: it could not be made, which is stored, but for want of a client id.
        :raises NotLeader: the term is over; nothing (more) is stored.
        :raises ConfigError: the connection is gone, or leads to another kind of gateway by now.
        """
        self._term.require()
        by = f"service/{self._term.owner}"
        try:
            spec = self._gateway_of(self._source.partition(":")[2])
            owner = f"{by}/reconcile {self._source}"
            with leased_session(spec, self._database, owner=owner, avoid=self._placed_by()) as session:
                if session.source != self._source:
                    raise ConfigError(
                        f"Connection {spec.conn_id!r} leads to {session.source} now, and strategies hold positions at"
                        f" {self._source}.",
                        remedy="Point the connection to where it led before.",
                    )
                reconcile(session, self._database, by=by)
        except (StoreError, ClientIdInUse):
            raise  # all ids being taken says nothing of the books; the last reconciliation counts until it is too old
        except IBKRPluginError as error:
            self._store_failure(by, error)
            raise
        return True

    def _placed_by(self) -> frozenset[int]:
        """Client ids that somebody may need to cancel an order."""
        now = datetime.now(UTC)
        with self._database.read() as session:
            rows = UnheldIntents(session, now).to_follow(since=now, source=self._source)
        return frozenset(row.client_id for row in rows if row.client_id is not None)

    def _store_failure(self, by: str, error: IBKRPluginError) -> None:
        with self._database.read() as session:
            accounts = [account for source, account in places(session) if source == self._source]
        for account in accounts:
            record_failure(self._database, self._source, account, by=by, error=error)
