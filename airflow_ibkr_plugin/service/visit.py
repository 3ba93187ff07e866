"""One look at one intent that no worker holds: its lease is taken as a worker takes it, and what is known is booked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from airflow_ibkr_plugin.errors import (
    AmbiguousOrder,
    BrokerError,
    BrokerTimeout,
    ClientIdInUse,
    GatewayUnavailable,
    IntentBusy,
    SessionInvalid,
)
from airflow_ibkr_plugin.execution.book import book
from airflow_ibkr_plugin.execution.bracket import Find
from airflow_ibkr_plugin.execution.intent import Job, load_row
from airflow_ibkr_plugin.execution.lease import IntentLease, hold, lease_seconds
from airflow_ibkr_plugin.execution.outcome import outcome_of
from airflow_ibkr_plugin.execution.protect import protect
from airflow_ibkr_plugin.execution.recover import adopt, recover
from airflow_ibkr_plugin.execution.request import request_of
from airflow_ibkr_plugin.execution.settle import settle
from airflow_ibkr_plugin.execution.summary import record_order
from airflow_ibkr_plugin.service.overdue import tell_ambiguous
from airflow_ibkr_plugin.service.protect_alerts import tell_unprotected
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.orders import TERMINAL, IntentState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.broker.truth import BrokerTruth
    from airflow_ibkr_plugin.service.term import Term
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

log = structlog.get_logger(__name__)

#: A task that failed a moment ago comes back, asks by itself, and needs the lease for it.
LEFT_TO_TASK = timedelta(seconds=60)
#: What is held of a bracket whose exits cannot be put right for so long is told to people.
UNSETTLED = timedelta(seconds=60)


class Visit:
    """Looks at intents through one session. Sends no order but the stop that a bracket has lost, or what closes it;
    asks again for a cancel that was asked for."""

    def __init__(
        self,
        database: Database,
        term: Term,
        session: BrokerSession,
        owner: str,
        unsettled: dict[int, datetime] | None = None,
    ) -> None:
        """:param unsettled: since when a bracket could not be settled, by its entry's id; kept from visit to visit."""
        self._database = database.guarded(term)
        self._term = term
        self._session = session
        self._owner = owner
        self._unsettled = {} if unsettled is None else unsettled

    def book(self, row: OrderIntent, truth: BrokerTruth) -> IntentState | None:
        """Book what the broker says of an intent.

        :param truth: what it said just now, to a question after everything.
        :returns: the intent's state now; None where nothing could be settled yet, so that it is looked at again.
        :raises NotLeader: the term is over; nothing (more) is stored.
        :raises BrokerError: the broker could not be asked.
        """
        self._term.require()
        if not truth.known and datetime.now(UTC) - row.updated_at < LEFT_TO_TASK:
            return None
        before = outcome_of(self._database, row.id)
        try:
            with hold(self._database, row.id, self._owner, seconds=lease_seconds(self._session.spec)) as lease:
                state = self._settled(self._job(row, lease), truth)
        except IntentBusy:  # a worker has come for it
            return None
        except AmbiguousOrder as error:
            self._alert(row, str(error))
            state = IntentState.AMBIGUOUS
        except (BrokerTimeout, ClientIdInUse) as error:
            if not truth.known:
                raise
            log.info("order not settled yet", order_ref=row.order_ref, error=str(error))
            state = None
        after = outcome_of(self._database, row.id)
        if after != before:
            filled = f"{after.filled:f}"
            log.info("booked", order_ref=row.order_ref, symbol=row.symbol, state=str(after.state), filled=filled)
            told = self._database.unguarded()  # what is booked is so, whoever leads
            record_order(told, row.dag_id, row.run_id, row.order_ref)
        return state

    def protect(self, entry: OrderIntent, find: Find) -> None:
        """See `execution.protect`; of a bracket that no worker holds. People are told where that cannot be done: at
        once where an exit is ambiguous, else after `UNSETTLED`.

        :param find: what the broker said just now.
        :raises NotLeader: the term is over. :raises BrokerError: the broker could not be asked, or refused.
        """
        self._term.require()
        try:
            with hold(self._database, entry.id, self._owner, seconds=lease_seconds(self._session.spec)) as lease:
                protect(self._job(entry, lease), find)
        except IntentBusy:  # a worker has come for it
            return
        except AmbiguousOrder as error:
            self._tell_unprotected(entry, str(error))
        except (BrokerTimeout, ClientIdInUse) as error:
            log.info("bracket not settled yet", order_ref=entry.order_ref, error=str(error))
            self._not_settled(entry, error)
        except (GatewayUnavailable, SessionInvalid):
            raise
        except BrokerError as error:
            self._not_settled(entry, error)
            raise
        else:
            self._unsettled.pop(entry.id, None)

    def _not_settled(self, entry: OrderIntent, error: BrokerError) -> None:
        now = datetime.now(UTC)
        if now - self._unsettled.setdefault(entry.id, now) >= UNSETTLED:
            self._tell_unprotected(entry, f"its exits could not be put right for {UNSETTLED.seconds} s: {error}")

    def _job(self, row: OrderIntent, lease: IntentLease) -> Job:
        return Job(
            session=self._session,
            database=self._database,
            request=request_of(row, wait_seconds=0),
            lease=lease,
            intent_id=row.id,
        )

    def _settled(self, job: Job, truth: BrokerTruth) -> IntentState:
        state = job.load().state
        if state in TERMINAL:
            return book(job, truth).state
        order = adopt(job, truth) if truth.known else recover(job)
        if order is not None and state is IntentState.CANCELLING:
            settle(job, order)
        return job.load().state

    def _tell_unprotected(self, entry: OrderIntent, reason: str) -> None:
        with self._database.write() as session:
            unit = [load_row(session, entry.id), *Units(session).exits(entry.id)]
            unknown = [one for one in unit if one.state is IntentState.AMBIGUOUS]
            tell_unprotected(session, entry, unknown, reason, datetime.now(UTC))

    def _alert(self, row: OrderIntent, reason: str) -> None:
        with self._database.write() as session:
            tell_ambiguous(session, row, reason, datetime.now(UTC))
