"""Reconciliation: our book of an account held against the broker's, what is lacking booked, what differs acted upon."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.alerts.messages import AlertMessage, Severity
from airflow_ibkr_plugin.alerts.outbox import enqueue
from airflow_ibkr_plugin.errors import BooksDisagree, BrokerTimeout, IBKRPluginError, StoreError
from airflow_ibkr_plugin.execution.account_book import Look, accepted_now, look
from airflow_ibkr_plugin.execution.foreign import store_foreign
from airflow_ibkr_plugin.execution.repair import repair
from airflow_ibkr_plugin.execution.split import FoundSplit, apply_splits, explained_by_splits
from airflow_ibkr_plugin.execution.summary import masked
from airflow_ibkr_plugin.store.models.reconciliations import ReconciliationDifference, ReconciliationRow
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.store.sources import gateway_kind
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.reconcile import Difference, DifferenceKind, Result, compare, unexplained
from airflow_ibkr_plugin.trading.splits import Ratio
from airflow_ibkr_plugin.trading.trading_state import TradingState

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database

log = logging.getLogger(__name__)

#: What differs is asked about again after so long: positions and fills do not reach the gateway at one moment.
SETTLE_SECONDS = 5.0
_LOOKS = 4
BEFORE_THE_FIRST = "held before the first reconciliation"


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What one reconciliation found.

    :param at: when the book was read, aware UTC. :param booked: fills that it entered in the books.
    :param splits: in words. :param beside: what the account holds beside the strategies' books, by symbol.
    :param accepted_by: the person who accepted what differed with it; '' where nobody did.
    """

    id: int
    source: str
    account: str
    at: datetime
    result: Result
    differences: tuple[Difference, ...]
    booked: int = 0
    splits: tuple[str, ...] = ()
    beside: Mapping[str, Decimal]
    accepted_by: str = ""

    @property
    def open(self) -> tuple[Difference, ...]:
        """The differences that nobody has accepted."""
        return tuple(one for one in self.differences if not one.accepted)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; decimals as text."""
        return {
            "id": self.id,
            "source": self.source,
            "account": self.account,
            "at": self.at.isoformat(),
            "result": str(self.result),
            "booked": self.booked,
            "splits": list(self.splits),
            "differences": [
                asdict(one) | {"kind": str(one.kind), "strategies": list(one.strategies)} for one in self.differences
            ],
            "beside": {symbol: f"{quantity:f}" for symbol, quantity in self.beside.items()},
            "accepted_by": self.accepted_by,
        }

    def concerning(self, strategy: str) -> Reconciled:
        """The same as far as it concerns one strategy."""
        mine = tuple(one for one in self.differences if strategy in one.strategies)
        agree = all(one.accepted for one in mine)
        return replace(self, differences=mine, result=Result.AGREE if agree else Result.DISAGREE)


def reconcile(
    session: BrokerSession,
    database: Database,
    *,
    by: str,
    accept: int | None = None,
    splits: Mapping[str, Ratio] | None = None,
    reason: str = "",
) -> Reconciled:
    """Compare the account of the session with our book, and store what was found.

    What our book lacks is booked. What differs when it is looked at twice, and is neither accepted nor a split, sets
    the strategies concerned to REDUCING and alerts, in the transaction that stores it.

    :param by: who asks, for the record. :param accept: id of a reconciliation whose differences that person has seen,
        and says to be right as the broker has them.
    :param splits: of contracts, by symbol, as that person states them; prices need not show them.
    :param reason: why, of what a person says.
    :raises BooksDisagree: what differs now is not what was seen; it is stored, and nothing of it is accepted.
    :raises BrokerError: the broker could not be asked; that is stored, and that nothing is known.
    :raises StoreError: the trading database failed.
    """
    began = time.monotonic()
    try:
        seen, differences, booked, found = _settled(session, database, by, splits or {})
    except StoreError:
        raise
    except IBKRPluginError as error:
        record_failure(database, session.source, session.account, by=by, error=error)
        raise
    result = _store(session, database, seen, differences, booked, found, by, accept, reason)
    level = logging.INFO if result.result is Result.AGREE else logging.ERROR
    log.log(
        level,
        "books of %s at %s %s after %.1f s: %s",
        result.account,
        result.source,
        result.result,
        time.monotonic() - began,
        "; ".join(str(one) for one in result.open) or "no difference",
    )
    if accept is not None and not result.accepted_by:
        raise _not_what_was_seen(accept, result)
    return result


def _not_what_was_seen(seen: int, found: Reconciled) -> BooksDisagree:
    now = "; ".join(str(one) for one in found.open)
    return BooksDisagree(
        f"What differs in {found.account} is not what reconciliation {seen} found; nothing is accepted. Reconciliation"
        f" {found.id}: {now or 'nothing differs'}.",
        remedy=f"Look at it; if that is right: `{accept_command(found.id)}`." if now else "Nothing is to be accepted.",
    )


def accept_command(reconciliation: int) -> str:
    """What a person types to take as right what a reconciliation found."""
    return f"airflow ibkr reconcile --accept {reconciliation} --reason TEXT"


def record_failure(database: Database, source: str, account: str, *, by: str, error: Exception) -> None:
    """Store that a reconciliation could not be made, and why; what failed for the same reason is not stored again."""
    reason = f"{type(error).__name__}: {error}"
    with database.write(serialize=_lock_of(source, account)) as transaction:
        reconciliations = Reconciliations(transaction, source, account)
        last = reconciliations.last()
        if last is None or (last.result, last.reason) != (Result.FAILED, reason):
            reconciliations.add(Result.FAILED, at=datetime.now(UTC), made_by=by, reason=reason)


def _lock_of(source: str, account: str) -> str:
    return f"reconciliation:{gateway_kind(source)}:{account}"


def _settled(
    session: BrokerSession, database: Database, by: str, stated: Mapping[str, Ratio]
) -> tuple[Look, tuple[Difference, ...], int, tuple[FoundSplit, ...]]:
    """What differs, twice if anything does, with the fills that were booked and the splits that explain positions.

    A figure that is another each time counts too, where its subject differed at every look: others trade beside it.
    """
    owner = f"reconciliation/{by}/{uuid.uuid4().hex[:8]}"
    booked = 0
    before: frozenset[str] = frozenset()
    always: set[tuple[DifferenceKind, str]] | None = None
    for _ in range(_LOOKS):
        seen = look(session, database)
        if new := repair(session, database, seen, owner=owner):
            booked += new
            seen = look(session, database)
        differences = compare(seen.book, seen.broker)
        found = explained_by_splits(session, database, seen, differences, stated)
        explained = {split.con_id for split in found}
        differences = tuple(
            one for one in differences if one.kind is not DifferenceKind.POSITION or one.con_id not in explained
        )
        keys = _open_keys(differences)
        if keys <= before:
            return seen, differences, booked, found
        subjects = {(one.kind, one.subject) for one in differences if not one.accepted}
        always = subjects if always is None else always & subjects
        before = keys
        time.sleep(SETTLE_SECONDS)
    if always == subjects:
        return seen, differences, booked, found
    raise BrokerTimeout(
        f"What differs in {session.account} changes each time it is looked at, {_LOOKS} times.",
        remedy="Nothing is to be done: it is looked at again.",
    )


def _store(
    session: BrokerSession,
    database: Database,
    seen: Look,
    differences: tuple[Difference, ...],
    booked: int,
    found: tuple[FoundSplit, ...],
    by: str,
    accept: int | None,
    reason: str,
) -> Reconciled:
    source, account, at = session.source, session.account, seen.at
    beside = unexplained(seen.book, seen.broker)
    beside |= {split.con_id: split.beside for split in found}
    symbols = {position.con_id: position.symbol for position in seen.broker.positions}
    with database.write(serialize=_lock_of(source, account)) as transaction:
        reconciliations = Reconciliations(transaction, source, account)
        differences = _still(transaction, source, account, seen, differences)
        if reconciliations.last_made() is None:
            differences = _take_over(reconciliations, seen, differences, beside, by)
        accepted_by = ""
        if accept is not None and _found_by(transaction, source, account, accept) == _open_keys(differences):
            accepted_by = by
            differences = _accept(reconciliations, differences, beside, by, reason, at)
        store_foreign(transaction, source, seen, at)
        agree = all(one.accepted for one in differences)
        row = reconciliations.add(
            Result.AGREE if agree else Result.DISAGREE,
            differences,
            at=at,
            made_by=by,
            booked=booked,
            accepted_by=accepted_by,
            reason="; ".join(filter(None, [reason, *map(str, found)])),
        )
        if found:
            apply_splits(transaction, source, account, found, row)
        if not agree:
            _act(transaction, row, [one for one in differences if not one.accepted])
    return Reconciled(
        id=row.id,
        source=source,
        account=account,
        at=at,
        result=row.result,
        differences=differences,
        booked=booked,
        splits=tuple(str(split) for split in found),
        beside={symbols.get(con_id, f"conId {con_id}"): quantity for con_id, quantity in beside.items() if quantity},
        accepted_by=accepted_by,
    )


def _open_keys(differences: Iterable[Difference | ReconciliationDifference]) -> frozenset[str]:
    return frozenset(one.key for one in differences if not one.accepted)


def _found_by(transaction: Session, source: str, account: str, reconciliation: int) -> frozenset[str] | None:
    """What differed by an earlier one; None where it is none of this account, or nothing did."""
    row = transaction.get(ReconciliationRow, reconciliation)
    if row is None or (row.gateway, row.account) != (gateway_kind(source), account):
        return None
    return _open_keys(Reconciliations(transaction, source, account).differences(row.id)) or None


def _still(
    transaction: Session, source: str, account: str, seen: Look, differences: tuple[Difference, ...]
) -> tuple[Difference, ...]:
    """The same without what another reconciliation has taken over, accepted or booked as a split since we looked."""
    book = replace(seen.book, **accepted_now(transaction, source, account))
    now = {(one.kind, one.subject): one for one in compare(book, seen.broker)}
    return tuple(now[place] for one in differences if (place := (one.kind, one.subject)) in now)


def _take_over(
    reconciliations: Reconciliations,
    seen: Look,
    differences: tuple[Difference, ...],
    beside: Mapping[int, Decimal],
    by: str,
) -> tuple[Difference, ...]:
    """The first time: what the account holds of contracts that we never ordered was there before us."""
    theirs = {
        one.con_id: one
        for one in differences
        if one.kind is DifferenceKind.POSITION and not reconciliations.ever_ordered(one.con_id)
    }
    quantities = {con_id: (one.symbol, beside.get(con_id, Decimal(0))) for con_id, one in theirs.items()}
    reconciliations.set_unexplained(quantities, by=by, reason=BEFORE_THE_FIRST, at=seen.at)
    return tuple(one for one in differences if theirs.get(one.con_id) is not one)


def _accept(
    reconciliations: Reconciliations,
    differences: tuple[Difference, ...],
    beside: Mapping[int, Decimal],
    by: str,
    reason: str,
    at: datetime,
) -> tuple[Difference, ...]:
    taken = [one for one in differences if not one.accepted]
    positions = {
        one.con_id: (one.symbol, beside.get(one.con_id, Decimal(0)))
        for one in taken
        if one.kind is DifferenceKind.POSITION
    }
    reconciliations.set_unexplained(positions, by=by, reason=reason, at=at)
    keys = [one.key for one in taken if one.kind is not DifferenceKind.POSITION]
    reconciliations.accept(keys, by=by, reason=reason, at=at)
    return tuple(replace(one, accepted=True) for one in differences)


def _act(transaction: Session, row: ReconciliationRow, differences: list[Difference]) -> None:
    """Let the strategies concerned only close, and tell people; nobody is told twice of the same."""
    strategies = sorted({strategy for one in differences for strategy in one.strategies})
    states = TradingStates(transaction)
    why = f"books disagree with the broker, reconciliation {row.id}"
    for strategy in strategies:
        own = states.get(strategy)
        if TradingState.REDUCING.stricter_than(own.state if own else TradingState.ACTIVE):
            states.change(strategy, TradingState.REDUCING, by=row.made_by, reason=why, at=row.at)
    reconciliations = Reconciliations(transaction, row.source, row.account)
    agreed = reconciliations.last_made(Result.AGREE)
    seen = hashlib.sha256("\n".join(sorted(one.key for one in differences)).encode()).hexdigest()[:16]
    message = AlertMessage(
        severity=Severity.CRITICAL,
        title=f"[IBKR] books of {masked(row.account)} disagree with the broker",
        summary="; ".join(str(one) for one in differences),
        done=[f"{strategy} is REDUCING: it only closes." for strategy in strategies]
        or ["No strategy of ours is concerned; nothing more is opened in these contracts."],
        next_step="Find out why (fills by hand in TWS, another program, a transfer). Then either mend it at the broker,"
        f" or `{accept_command(row.id)}`; then `airflow ibkr resume --strategy NAME`.",
    )
    enqueue(
        transaction,
        message,
        dedupe_key=f"reconcile:{row.gateway}:{row.account}:{agreed.id if agreed else 0}:{seen}",
        strategy=strategies[0] if len(strategies) == 1 else "",
        dag_id="",
        run_id="",
        at=row.at,
    )
