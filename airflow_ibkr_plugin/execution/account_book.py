"""What the broker and our book say of one account, read so that the two can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.execution.book import ended
from airflow_ibkr_plugin.store.models.orders import ExecutionRow, OrderIntent
from airflow_ibkr_plugin.store.positions import ACCOUNT, Positions
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.sources import same_kind
from airflow_ibkr_plugin.store.units import unheld
from airflow_ibkr_plugin.trading.executions import in_force
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER, TERMINAL, BrokerOrder, Execution
from airflow_ibkr_plugin.trading.reconcile import OUR_REF, Book, BookedFill, BookedOrder, BrokerBook

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database

#: An order that was moved a moment ago may be under way; a worker, or the service, asks about it by itself.
UNDER_WAY = timedelta(seconds=60)
# What the broker names without an orderRef and we hold as ended was sent lately.
_NAMELESS = timedelta(days=7)
_CHUNK = 1000
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Look:
    """Both books at one moment.

    :param holdings: positions by (source, strategy, con_id): the parts of `book.positions` by connection.
    :param sources: the connection that each intent in the book belongs to, by orderRef.
    :param orders: all that the broker named of the account today. :param unheld: orderRefs that no worker is at.
    """

    book: Book
    broker: BrokerBook
    holdings: dict[tuple[str, str, int], Decimal]
    sources: dict[str, str]
    orders: tuple[BrokerOrder, ...]
    unheld: frozenset[str]
    at: datetime


def look(session: BrokerSession, database: Database) -> Look:
    """Ask the broker, with our book as it was just before: a fill that comes meanwhile is told by the broker alone.

    :raises BrokerError: the broker could not be asked.
    """
    with database.read() as transaction:  # one snapshot, from its first query on
        positions = Positions(transaction).of_strategies(session.source, session.account)
        at = datetime.now(UTC)
        orders, broker = _ask(session)
        return _look(database, transaction, session, positions, orders, broker, at)


def _look(
    database: Database,
    transaction: Session,
    session: BrokerSession,
    positions: Sequence[Any],
    orders: tuple[BrokerOrder, ...],
    broker: BrokerBook,
    at: datetime,
) -> Look:
    source, account = session.source, session.account
    rows = _intents(transaction, session, orders, broker.executions, at)
    nobody_at = {row.order_ref for row in rows if row.unheld}
    rows += _begun_meanwhile(database, session, {row.order_ref for row in rows}, [*orders, *broker.executions])
    by_perm_id = {row.perm_id: row.order_ref for row in rows if row.perm_id}
    refs = {row.order_ref for row in rows}
    broker = replace(broker, executions=tuple(_named(fill, refs, by_perm_id) for fill in broker.executions))
    held: dict[tuple[str, int], Decimal] = {}
    for row in positions:
        held[row.strategy, row.con_id] = held.get((row.strategy, row.con_id), Decimal(0)) + row.quantity
    book = Book(
        positions=held,
        orders={row.order_ref: _booked(row, nobody_at, at) for row in rows},
        executions=_executions(transaction, source, account, [fill.exec_id for fill in broker.executions]),
        **accepted_now(transaction, source, account),
    )
    return Look(
        book=book,
        broker=broker,
        holdings={(row.source, row.strategy, row.con_id): row.quantity for row in positions},
        sources={row.order_ref: row.source for row in rows},
        orders=orders,
        unheld=frozenset(nobody_at),
        at=at,
    )


def _ask(session: BrokerSession) -> tuple[tuple[BrokerOrder, ...], BrokerBook]:
    """Orders and executions, then positions, then the executions that came meanwhile, if the gateway tells of any.

    One that it does not tell of in time shows as a difference, which is gone when it is looked at again.
    """
    truth = session.everything()
    orders = tuple(order for order in truth.orders if order.account == session.account)
    executions = [fill for fill in truth.executions if fill.account == session.account]
    told = {fill.exec_id for fill in executions}
    positions = session.positions()
    if session.listen(seconds=0):
        executions = session.executions()
    named: list[BrokerOrder | Execution] = [*orders, *executions]
    return orders, BrokerBook(
        positions=positions,
        working=[order for order in orders if not ended(order)],
        known_refs=frozenset(item.order_ref for item in named) - {""},
        known_perm_ids=frozenset(item.perm_id for item in named) - {0},
        executions=executions,
        late=frozenset(fill.exec_id for fill in executions) - told,
    )


_COLUMNS = (
    OrderIntent.order_ref,
    OrderIntent.source,
    OrderIntent.strategy,
    OrderIntent.con_id,
    OrderIntent.symbol,
    OrderIntent.state,
    OrderIntent.side,
    OrderIntent.quantity,
    OrderIntent.order_type,
    OrderIntent.leg,
    OrderIntent.limit_price,
    OrderIntent.stop_price,
    OrderIntent.perm_id,
    OrderIntent.updated_at,
)


def _intents(
    transaction: Session,
    session: BrokerSession,
    orders: Iterable[BrokerOrder],
    executions: Iterable[Execution],
    at: datetime,
) -> list[Any]:
    """The intents that the broker named, and those that may be at the broker, each once."""
    where = (same_kind(OrderIntent.source, session.source), OrderIntent.account == session.account)
    query = select(*_COLUMNS, unheld(at).label("unheld")).where(*where)
    found = {row.order_ref: row for row in transaction.execute(query.where(OrderIntent.state.in_(MAYBE_AT_BROKER)))}
    named: list[BrokerOrder | Execution] = [*orders, *executions]
    refs = {item.order_ref for item in named if item.order_ref.startswith(OUR_REF)}
    for chunk in _chunks(sorted(refs - found.keys())):
        found |= {row.order_ref: row for row in transaction.execute(query.where(OrderIntent.order_ref.in_(chunk)))}
    # What came without its orderRef is known by its permId.
    nameless = {item.perm_id for item in named if item.order_ref not in found and item.perm_id}
    nameless -= {row.perm_id for row in found.values()}
    lately = query.where(OrderIntent.sent_at >= at - _NAMELESS)
    for perm_ids in _chunks(sorted(nameless)):
        found |= {row.order_ref: row for row in transaction.execute(lately.where(OrderIntent.perm_id.in_(perm_ids)))}
    return list(found.values())


def _begun_meanwhile(
    database: Database, session: BrokerSession, known: set[str], named: Iterable[BrokerOrder | Execution]
) -> list[Any]:
    """Orders that were decided upon after our book was read, and that the broker has named already."""
    refs = {item.order_ref for item in named if item.order_ref.startswith(OUR_REF)} - known
    found: list[Any] = []
    with database.read() as transaction:
        query = select(*_COLUMNS).where(
            same_kind(OrderIntent.source, session.source), OrderIntent.account == session.account
        )
        for chunk in _chunks(sorted(refs)):
            found += transaction.execute(query.where(OrderIntent.order_ref.in_(chunk)))
    return found


def _named(fill: Execution, refs: set[str], by_perm_id: dict[int, str]) -> Execution:
    if fill.order_ref in refs or fill.perm_id not in by_perm_id:
        return fill
    return replace(fill, order_ref=by_perm_id[fill.perm_id])


def _booked(row: Any, nobody_at: set[str], at: datetime) -> BookedOrder:
    settled = row.order_ref in nobody_at and (row.state in TERMINAL or row.updated_at <= at - UNDER_WAY)
    return BookedOrder(
        order_ref=row.order_ref,
        strategy=row.strategy,
        con_id=row.con_id,
        symbol=row.symbol,
        state=row.state,
        side=row.side,
        quantity=row.quantity,
        order_type=row.order_type,
        leg=row.leg,
        limit_price=row.limit_price,
        stop_price=row.stop_price,
        perm_id=row.perm_id,
        settled=settled,
    )


def accepted_now(transaction: Session, source: str, account: str) -> dict[str, Any]:
    """What a :class:`Book` says of `unexplained` and `accepted`, as it is in this transaction."""
    reconciliations = Reconciliations(transaction, source, account)
    unexplained = _unexplained(transaction, reconciliations, source, account)
    return {"unexplained": unexplained, "accepted": reconciliations.accepted()}


def _unexplained(
    transaction: Session, reconciliations: Reconciliations, source: str, account: str
) -> dict[int, Decimal]:
    """As accepted last, with what a person's closing orders have taken of it since: those are in no strategy's book."""
    accepted = reconciliations.unexplained()
    quantities = {con_id: row.quantity for con_id, row in accepted.items()}
    query = select(
        ExecutionRow.exec_id,
        ExecutionRow.con_id,
        ExecutionRow.side,
        ExecutionRow.quantity,
        ExecutionRow.booked_at,
        ExecutionRow.taken_back_on,
    ).where(
        same_kind(ExecutionRow.source, source),
        ExecutionRow.account == account,
        ExecutionRow.strategy == ACCOUNT,
        ExecutionRow.intent_id.is_not(None),
    )
    for fill in in_force(transaction.execute(query)):
        if fill.con_id not in accepted or fill.booked_at > accepted[fill.con_id].at:
            quantities[fill.con_id] = quantities.get(fill.con_id, Decimal(0)) + fill.side.sign * fill.quantity
    return quantities


def _executions(transaction: Session, source: str, account: str, exec_ids: Sequence[str]) -> dict[str, BookedFill]:
    """Those that are booked with an intent."""
    query = select(
        ExecutionRow.exec_id,
        ExecutionRow.side,
        ExecutionRow.quantity,
        ExecutionRow.price,
        ExecutionRow.commission,
        ExecutionRow.commission_currency,
    ).where(
        same_kind(ExecutionRow.source, source), ExecutionRow.account == account, ExecutionRow.intent_id.is_not(None)
    )
    found: dict[str, BookedFill] = {}
    for chunk in _chunks(exec_ids):
        for exec_id, side, quantity, price, paid, paid_in in transaction.execute(
            query.where(ExecutionRow.exec_id.in_(chunk))
        ):
            found[exec_id] = BookedFill(side, quantity, price, paid, paid_in)
    return found


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
