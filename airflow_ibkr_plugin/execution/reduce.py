"""Closing what a strategy holds of an instrument, or a part of it, for a task; never through zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.execution.bracket import asked
from airflow_ibkr_plugin.execution.consent import check_consent
from airflow_ibkr_plugin.execution.intent import Job, ticket_fields
from airflow_ibkr_plugin.execution.lease import hold, lease_seconds
from airflow_ibkr_plugin.execution.outcome import OrderOutcome, outcome_of
from airflow_ibkr_plugin.execution.place import work
from airflow_ibkr_plugin.execution.protect import cancel_exit, protect
from airflow_ibkr_plugin.execution.recover import adopt
from airflow_ibkr_plugin.execution.request import OrderRequest, job_of, request_of
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.brackets import CLOSE_LEG
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, TERMINAL, IntentState, OrderTicket, Side
from airflow_ibkr_plugin.trading.sizing import whole_increments

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent
    from airflow_ibkr_plugin.trading.instruments import Instrument
    from airflow_ibkr_plugin.trading.orders import IntentKey


_WHY = "its strategy closes the position"


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How much of a position is to go: all of it, a share of it, or so many units, rounded down to the increment.

    :raises ConfigError: both are given, or one is not above zero, or the share is above 1.
    """

    share: Decimal | None = None
    quantity: Decimal | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.share, self.quantity) if value is not None]
        good = all(value.is_finite() and value > 0 for value in given) and (self.share is None or self.share <= 1)
        if len(given) > 1 or not good:
            raise ConfigError(
                f"share {self.share} and quantity {self.quantity} of a position cannot be closed.",
                remedy="Give a share (above 0, at most 1), or a quantity above 0, or neither to close all.",
            )

    def of(self, held: Decimal, instrument: Instrument) -> Decimal:
        """Units to close of so many held. An odd rest is closed whole where all is to be closed."""
        wanted = abs(held) * self.share if self.share is not None else self.quantity
        if wanted is None or wanted >= abs(held):
            return abs(held)
        return whole_increments(wanted, Decimal(1), instrument.size_increment)


@dataclass(frozen=True, kw_only=True)
class Closing:
    """What a task wants closed. The key's leg is :data:`CLOSE_LEG`; the rest is as in :class:`OrderRequest`."""

    key: IntentKey
    strategy: str
    source: str
    account: str
    mode: str
    instrument: Instrument
    reduction: Reduction
    wait_seconds: float = 60.0


def close_position(session: BrokerSession, database: Database, closing: Closing, *, owner: str) -> OrderOutcome | None:
    """Close it by a market order through the one order path, exactly once; None where the strategy holds nothing.

    The exits of its brackets are cancelled first, confirmed: one of them and this order could both fill. What is left
    of the position afterwards has its stop again. How much may go is settled in the transaction that reserves it, with
    all fills booked by then and all working orders of that side counted: never more than the strategy holds.

    :raises IntentBusy: another worker is at it, or at one of the brackets.
    :raises LiveTradingRefused, AmbiguousOrder, BrokerError, StoreError: see :func:`execution.place.execute`.
    """
    row = _intent(database, closing)
    if row is None:
        return None
    request = OrderRequest(
        key=closing.key,
        strategy=closing.strategy,
        source=closing.source,
        account=closing.account,
        mode=closing.mode,
        instrument=closing.instrument,
        ticket=OrderTicket(side=row.side, quantity=row.quantity),
        wait_seconds=closing.wait_seconds,
    )
    check_consent(session, request)
    if row.state not in TERMINAL:
        with hold(database, row.id, owner, seconds=lease_seconds(session.spec)) as lease:
            job = Job(session=session, database=database, request=request, lease=lease, intent_id=row.id)
            if job.load().state in (IntentState.DECIDED, IntentState.RESERVED):
                for of_entry in _brackets(session, database, request, owner):
                    _free(of_entry)
                    job.renew()
            work(job)
    for of_entry in _brackets(session, database, request, owner):
        protect(of_entry)
    return outcome_of(database, row.id)


def _intent(database: Database, closing: Closing) -> OrderIntent | None:
    """The stored intent of the key; committed here if there is none, and the strategy holds something."""
    assert closing.key.leg == CLOSE_LEG
    with database.write() as transaction:
        intents = Intents(transaction)
        if (known := intents.by_order_ref(closing.key.order_ref)) is not None:
            return known
        booked = Positions(transaction).of_strategies(closing.source, closing.account, closing.instrument.con_id)
        held = sum((own.quantity for own in booked if own.strategy == closing.strategy), Decimal(0))
        quantity = closing.reduction.of(held, closing.instrument)
        if not quantity:
            return None
        at = datetime.now(UTC)
        row, _ = intents.get_or_create(
            closing.key,
            strategy=closing.strategy,
            source=closing.source,
            account=closing.account,
            mode=closing.mode,
            symbol=closing.instrument.name,
            instrument=closing.instrument.to_dict(),
            state=IntentState.DECIDED,
            currency=closing.instrument.currency,
            created_at=at,
            **ticket_fields(OrderTicket(side=Side.SELL if held > 0 else Side.BUY, quantity=quantity)),
        )
        return row


def _brackets(session: BrokerSession, database: Database, request: OrderRequest, owner: str) -> Iterator[Job]:
    """Each open bracket of the strategy in the instrument, held while it is worked on."""
    with database.read() as transaction:
        entries = Units(transaction).of_strategy(
            request.source, request.account, request.strategy, request.instrument.con_id
        )
    for entry in entries:
        with hold(database, entry.id, owner, seconds=lease_seconds(session.spec)) as lease:
            yield Job(
                session=session,
                database=database,
                request=request_of(entry, wait_seconds=0),
                lease=lease,
                intent_id=entry.id,
            )


def _free(job: Job) -> None:
    """Cancel what works of a bracket, confirmed: its entry, then its exits."""
    find, entry = asked(job), job.load()
    if entry.state in (IntentState.WORKING, IntentState.CANCELLING):
        order = adopt(job, find(entry))
        if order is not None:
            cancel_exit(job, order, _WHY)
    for row in job.exits():
        if row.state in MAYBE_AT_BROKER:
            of_exit = job_of(job, row)
            order = adopt(of_exit, find(row))
            if order is not None:
                cancel_exit(of_exit, order, _WHY)
