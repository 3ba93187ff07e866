"""A person who looked in TWS, or in the account's statement, says what became of an ambiguous order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.errors import ConfigError, GatewayUnavailable, SessionInvalid
from airflow_ibkr_plugin.execution.intent import load_row
from airflow_ibkr_plugin.execution.lease import LEASE_SECONDS, hold
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intent_notes import IntentNotes
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.again import NoteKind
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.orders import IntentState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.broker.spec import GatewaySpec
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

_ASKED = "the broker, asked now, does not know it"


class Declared(StrEnum):
    """What a person may say of an order of which the broker says nothing."""

    NEVER_SENT = "never-sent"  # it never reached the broker
    ENDED = "ended"  # it is over, and has filled no more than what is booked


_UNKNOWN = frozenset({IntentState.SENDING, IntentState.AMBIGUOUS})
_STATES = {Declared.NEVER_SENT: IntentState.ABANDONED, Declared.ENDED: IntentState.CANCELLED}


def declare(
    database: Database,
    order_ref: str,
    what: Declared,
    *,
    by: str,
    reason: str,
    gateway_of: Callable[[str], GatewaySpec],
) -> OrderIntent:
    """Settle an ambiguous order by what a person says, unless the broker says otherwise; who and why are stored.

    The broker is asked first. Where it cannot be reached, or the connection is gone, the person's word stands alone,
    and the note says so. With an entry that was never sent its exits were not: they were sent as one unit.

    :param by: who says it, for the record.
    :raises ConfigError: there is no such order, it is not ambiguous, or what is known of it speaks against it.
    :raises IntentBusy: a worker is at work on it.
    :raises BrokerError: the broker is there, and could not be asked.
    """
    if not reason.strip():
        raise ConfigError("What became of an order cannot be settled without a reason.", remedy="Say how you know it.")
    with database.read() as transaction:
        row = Intents(transaction).by_order_ref(order_ref)
        if row is None:
            raise ConfigError(f"There is no order {order_ref}.", remedy="See `airflow ibkr orders list --ambiguous`.")
        unit = _unit(transaction, row, what)
    asked = _ask(database, unit, by, gateway_of)
    # The exits of a bracket are worked on under the lease of its entry.
    held = row.parent_id or row.id
    with hold(database, held, f"settled by {by}", seconds=LEASE_SECONDS) as lease, database.write() as transaction:
        lease.renew(transaction)
        at, said = datetime.now(UTC), f"{by} says {what}: {reason}"
        intents = Intents(transaction)
        for one in _unit(transaction, load_row(transaction, row.id), what):
            IntentNotes(transaction).add(one.id, NoteKind.SETTLED, f"{what}: {reason} ({asked})", at=at, by=by)
            if one.state is IntentState.SENDING:
                intents.transition(one, IntentState.AMBIGUOUS, at=at, reason=asked)
            settled = intents.transition(one, _STATES[what], at=at, reason=said)
            row = settled if settled.id == row.id else row
        return row


def _unit(transaction: Session, row: OrderIntent, what: Declared) -> list[OrderIntent]:
    """What is settled with it, each of which may be.

    :raises ConfigError: one of them may not.
    """
    unit = [row]
    if what is Declared.NEVER_SENT:
        exits = Units(transaction).exits(row.id)
        for one in exits:
            if one.perm_id:
                raise ConfigError(
                    f"The broker acknowledged the {one.leg} of order {row.order_ref} (permId {one.perm_id}): the unit"
                    " was sent.",
                    remedy="Import a Flex statement of its day, or, where it filled no more than booked: --as ended.",
                )
        unit += [one for one in exits if one.state in _UNKNOWN]
    for one in unit:
        _check(transaction, one, what)
    return unit


def _check(transaction: Session, row: OrderIntent, what: Declared) -> None:
    if row.state not in _UNKNOWN:
        raise ConfigError(
            f"Order {row.order_ref} is {row.state}, and not ambiguous.",
            remedy=f"See `airflow ibkr orders show {row.order_ref}`.",
        )
    if what is Declared.NEVER_SENT and (row.perm_id or Executions(transaction).for_intent(row.id)):
        raise ConfigError(
            f"The broker acknowledged order {row.order_ref} once (permId {row.perm_id}): it was sent.",
            remedy="Import a Flex statement of its day, or, where it filled no more than is booked: --as ended.",
        )


def _ask(database: Database, unit: Sequence[OrderIntent], by: str, gateway_of: Callable[[str], GatewaySpec]) -> str:
    """What the broker says, for the record.

    :raises ConfigError: it knows one of them.
    """
    row = unit[0]
    try:
        spec = gateway_of(row.source.partition(":")[2])
    except ConfigError as error:
        return f"the broker could not be asked: {error}"
    try:
        with leased_session(spec, database, owner=f"{by} settles {row.order_ref}") as session:
            if (session.source, session.account) != (row.source, row.account):
                return f"the broker could not be asked: connection {spec.conn_id!r} leads to {session.source} now"
            for one in unit:
                _refuse_known(session, one)
    except (GatewayUnavailable, SessionInvalid) as error:
        return f"the broker could not be asked: {error}"
    return _ASKED


def _refuse_known(session: BrokerSession, row: OrderIntent) -> None:
    truth = session.find_by_ref(row.order_ref)
    if not truth.known and row.perm_id:
        truth = session.find_by_perm_id(row.perm_id)
    if truth.known:
        status = truth.orders[-1].status if truth.orders else "executed"
        raise ConfigError(
            f"The broker knows order {row.order_ref}: {status}, filled {truth.filled:f}. Nothing is changed.",
            remedy="Clear its task, or let the service go on: what the broker says is booked.",
        )
