"""Requests for history, no faster than IBKR allows: one budget for all processes that share the trading database.

The rules are in `trading/pacing.py`. Messages per second need no budget: IBKR counts them per connection, a connection
belongs to one process, and the broker library sends no more than 45 a second of IBKR's 50.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.codes import MESSAGE_RATE
from airflow_ibkr_plugin.errors import BrokerError, GatewayUnavailable, PacingViolation, StoreError
from airflow_ibkr_plugin.store.pacing_events import PacingEvents, PacingRequests
from airflow_ibkr_plugin.store.sql import current_time
from airflow_ibkr_plugin.trading.pacing import MARGIN, WINDOW, HistoryRequest, Pace, bounded, pace_at, wait_for

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.bars import Bar
    from airflow_ibkr_plugin.trading.instruments import Instrument

log = logging.getLogger(__name__)

#: Seconds that one request waits here at most.
MOST_WAIT = 30.0
# After its turn has come a place in line is kept for so long: a task that was deferred needs a worker first.
_KEPT = timedelta(minutes=1)
# The answer to a request takes a minute at most, by the usual time-out; a killed process has none open after this.
_OPEN = timedelta(minutes=3)
# What is remembered; the rate recovers within less.
_REMEMBERED = timedelta(days=1)


class Pacing:
    """Sends requests for history no faster than IBKR allows, in the order in which they came.

    :param gateway: its address: IBKR counts all that is asked through it together, whichever connection names it.
    :param owner: who asks, one request after another. If given, its place in line is kept when the wait is too long,
        for when it comes again.
    :param clock, sleep: the time in a transaction and time.sleep, unless a test brings others. IBKR counts in real
        time, so this is never the broker's clock, which may be simulated.
    :param most_wait: seconds that one request waits at most.
    """

    def __init__(
        self,
        database: Database,
        gateway: str,
        *,
        owner: str = "",
        clock: Callable[[Session], datetime] = current_time,
        sleep: Callable[[float], None] = time.sleep,
        most_wait: float = MOST_WAIT,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._returns = bool(owner)
        self._owner = owner or uuid.uuid4().hex
        self._clock = clock
        self._sleep = sleep
        self._most_wait = most_wait

    def history(self, session: BrokerSession, instrument: Instrument, request: HistoryRequest) -> list[Bar]:
        """`session.history`, paced. IBKR's complaint is stored, lowers everybody's rate, and is waited out.

        :raises PacingViolation: the wait would be too long; it has no `code`, and `retry_after` says when to try.
        :raises GatewayUnavailable: among other reasons (code 100) because of too many messages, which is stored too.
        """
        waited = 0.0
        while True:
            place, waited = self._acquire(request, waited)
            complaint: BrokerError | None = None
            try:
                return session.history(
                    instrument,
                    bar_size=request.bar_size,
                    duration=request.duration,
                    end=request.end,
                    what=request.what,
                    use_rth=request.use_rth,
                )
            except PacingViolation as error:
                complaint = error
            except GatewayUnavailable as error:
                complaint = error if error.code == MESSAGE_RATE else None
                raise
            finally:
                self._answered(place, complaint)

    def _acquire(self, request: HistoryRequest, waited: float) -> tuple[int, float]:
        """Wait until the request's turn has come and note it as sent, before it is.

        :param waited: seconds that it has waited already.
        :returns: the row that notes it, and the seconds waited in all.
        """
        while True:
            row_id, wait = self._try(request)
            if wait <= 0:
                return row_id, waited
            if waited + wait > self._most_wait:
                if not self._returns:
                    with self._database.write() as transaction:
                        PacingRequests(transaction).leave(row_id)
                raise PacingViolation(
                    f"IBKR's limits for history leave no room for {request.key} for {wait:.0f} s.",
                    remedy="Ask for less at once, or for bars of more than 30 seconds.",
                    retry_after=wait,
                )
            log.info("pacing: waiting %.1f s before %s", wait, request.key)
            self._sleep(wait)
            waited += wait

    def _try(self, request: HistoryRequest) -> tuple[int, float]:
        """Look whether the request may be sent, and note it as sent if so; else how many seconds to wait."""
        with self._database.write(serialize=f"pacing:{self._gateway}") as transaction:
            now, requests = self._now(transaction), PacingRequests(transaction)
            complaints = PacingEvents(transaction).recent(self._gateway, now - _REMEMBERED)
            requests.forget(self._gateway, now - _REMEMBERED)
            mine = requests.line_up(self._gateway, self._owner, request, now=now, until=now + _KEPT)
            ahead = requests.ahead(mine, now=now, since=now - WINDOW - MARGIN)
            wait = wait_for(request, ahead, pace_at(complaints, now), now)
            if wait > timedelta(0):
                mine.until = now + wait + _KEPT
            else:
                mine.sent_at, mine.until = now, now + _OPEN
            return mine.id, wait.total_seconds()

    def _now(self, transaction: Session) -> datetime:
        """The time. Where the clock was set back, what was noted before counts as noted now.

        Else a full budget would hold everybody up until the time of its requests comes again.
        """
        moment = self._clock(transaction)
        places = PacingRequests(transaction).noted_after(self._gateway, moment)
        complaints = [one for one in PacingEvents(transaction).recent(self._gateway, moment) if one.at > moment]
        now = self._clock(transaction)  # once all is read: answers are noted by others meanwhile
        for place in places:
            place.sent_at, place.until = bounded(place, now, open_for=_OPEN, kept=_KEPT)
        for complaint in complaints:
            complaint.at, complaint.sent_at = min(complaint.at, now), min(complaint.sent_at, now)
        transaction.flush()
        return now

    def _answered(self, row_id: int, complaint: BrokerError | None) -> None:
        try:
            with self._database.write() as transaction:
                now, sent = self._clock(transaction), PacingRequests(transaction).get(row_id)
                sent.until = now
                if complaint is None:
                    return
                assert sent.sent_at is not None  # it was answered
                pace = _store(transaction, self._gateway, sent.request, complaint, sent_at=sent.sent_at, now=now)
        except StoreError as error:
            if complaint is not None:
                raise
            # The answer is worth more; the request counts as open until it is taken for dead.
            log.warning("The answer to %s is not noted for the pace: %s", row_id, error)
            return
        _warn(sent.request, complaint, pace)


def note_complaint(database: Database, gateway: str, request: str, complaint: BrokerError, ago: float) -> None:
    """Store and log IBKR's complaint about anything but history; it slows the requests for history down as well.

    Raises nothing: what became of the request itself counts more.

    :param gateway: its address. :param request: what was asked. :param ago: seconds since it was.
    """
    try:
        with database.write() as transaction:
            now = current_time(transaction)
            sent_at = now - timedelta(seconds=ago)
            pace = _store(transaction, gateway, request, complaint, sent_at=sent_at, now=now)
    except StoreError as error:
        log.warning("IBKR complains of the pace of %s (%s), which is not stored: %s", request, complaint.message, error)
    else:
        _warn(request, complaint, pace)


def _store(
    transaction: Session, gateway: str, request: str, complaint: BrokerError, *, sent_at: datetime, now: datetime
) -> Pace:
    """Store a complaint; the pace from now on."""
    events = PacingEvents(transaction)
    events.add(gateway, request, complaint.code or 0, complaint.message, sent_at=sent_at, at=now)
    return pace_at(events.recent(gateway, now - _REMEMBERED), now)


def _warn(request: str, complaint: BrokerError, pace: Pace) -> None:
    log.warning(
        "IBKR complains of the pace (%s, %s); history from now on at 1/%d of it, a step faster each %d minutes: %s",
        complaint.code,
        complaint.message,
        2**pace.halvings,
        WINDOW.total_seconds() // 60,
        request,
    )
