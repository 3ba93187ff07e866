"""Reconciliations, what they found, and what people have accepted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache

from sqlalchemy import Select, bindparam, exists, select, union_all
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.store.models.portfolio import PositionRow
from airflow_ibkr_plugin.store.models.reconciliations import (
    AcceptedDifference,
    NoticedSplit,
    ReconciliationDifference,
    ReconciliationRow,
    UnexplainedPosition,
)
from airflow_ibkr_plugin.store.positions import ACCOUNT
from airflow_ibkr_plugin.store.sources import gateway_kind, same_kind
from airflow_ibkr_plugin.store.sql import upsert
from airflow_ibkr_plugin.store.units import in_states
from airflow_ibkr_plugin.trading.orders import MAYBE_AT_BROKER
from airflow_ibkr_plugin.trading.reconcile import Difference, Result

_MADE = (Result.AGREE, Result.DISAGREE)


class Reconciliations:
    """Those of one account, by every connection to it (see `same_kind`)."""

    def __init__(self, session: Session, source: str, account: str) -> None:
        self._session = session
        self._source = source
        self._account = account
        self._gateway = gateway_kind(source)
        self._where = (ReconciliationRow.gateway == self._gateway, ReconciliationRow.account == account)

    def add(
        self,
        result: Result,
        differences: Iterable[Difference] = (),
        *,
        at: datetime,
        made_by: str,
        booked: int = 0,
        accepted_by: str = "",
        reason: str = "",
    ) -> ReconciliationRow:
        """Store one with all that it found."""
        row = ReconciliationRow(
            gateway=self._gateway,
            source=self._source,
            account=self._account,
            at=at,
            made_by=made_by,
            result=result,
            booked=booked,
            accepted_by=accepted_by,
            reason=reason,
        )
        self._session.add(row)
        self._session.flush()
        for one in differences:
            found = ReconciliationDifference(
                reconciliation_id=row.id,
                kind=one.kind,
                key=one.key,
                con_id=one.con_id,
                symbol=one.symbol,
                strategies=list(one.strategies),
                order_ref=one.order_ref,
                ours=one.ours,
                theirs=one.theirs,
                detail=one.detail,
                accepted=one.accepted,
            )
            self._session.add(found)
        self._session.flush()
        return row

    def last(self) -> ReconciliationRow | None:
        """The last one, also one that could not be made."""
        return self._newest(*Result)

    def last_made(self, result: Result | None = None) -> ReconciliationRow | None:
        """The last one that was made, whatever it found, or with this very result."""
        return self._newest(*(_MADE if result is None else (result,)))

    def _newest(self, *results: Result) -> ReconciliationRow | None:
        here = {"gateway": self._gateway, "account": self._account}
        return self._session.scalars(_newest_of(results), here).first()

    def differences(self, reconciliation_id: int, con_id: int | None = None) -> Sequence[ReconciliationDifference]:
        """What one found, accepted or not, in this contract only where one is named."""
        query = _DIFFERENCES if con_id is None else _DIFFERENCES_IN
        return self._session.scalars(query, {"reconciliation_id": reconciliation_id, "con_id": con_id}).all()

    def accepted(self) -> frozenset[str]:
        """The keys of the differences that a person has accepted."""
        query = select(AcceptedDifference.key).where(
            AcceptedDifference.gateway == self._gateway, AcceptedDifference.account == self._account
        )
        return frozenset(self._session.scalars(query))

    def accept(self, keys: Iterable[str], *, by: str, reason: str, at: datetime) -> None:
        """Count these differences as agreed from now on."""
        place = {"gateway": self._gateway, "account": self._account}
        rows = [place | {"key": key, "accepted_by": by, "reason": reason, "at": at} for key in keys]
        upsert(self._session, AcceptedDifference, ("gateway", "account", "key"), rows)

    def unexplained(self) -> dict[int, UnexplainedPosition]:
        """What the account holds beside the strategies' books, as accepted last, by con_id."""
        query = select(UnexplainedPosition).where(
            UnexplainedPosition.gateway == self._gateway, UnexplainedPosition.account == self._account
        )
        return {row.con_id: row for row in self._session.scalars(query)}

    def set_unexplained(
        self, quantities: Mapping[int, tuple[str, Decimal]], *, by: str, reason: str, at: datetime
    ) -> None:
        """Take these quantities, with their symbols, as what the account holds beside the books."""
        place = {"gateway": self._gateway, "account": self._account}
        rows = [
            place | {"con_id": c, "symbol": symbol, "quantity": q, "set_by": by, "reason": reason, "at": at}
            for c, (symbol, q) in quantities.items()
        ]
        upsert(self._session, UnexplainedPosition, ("gateway", "account", "con_id"), rows)

    def ever_ordered(self, con_id: int) -> bool:
        """Whether this installation has ever sent an order in the contract."""
        sent = exists().where(
            same_kind(OrderIntent.source, self._source),
            OrderIntent.account == self._account,
            OrderIntent.con_id == con_id,
            OrderIntent.sent_at.is_not(None),
        )
        return bool(self._session.scalar(select(sent)))


@cache
def _newest_of(results: tuple[Result, ...]) -> Select[ReconciliationRow]:
    """One look into the index for each, however many there are. Made once, as every order asks."""
    newest = (ReconciliationRow.at.desc(), ReconciliationRow.id.desc())
    query = select(ReconciliationRow.id).where(
        ReconciliationRow.gateway == bindparam("gateway"), ReconciliationRow.account == bindparam("account")
    )
    each = (query.where(ReconciliationRow.result == result).order_by(*newest).limit(1) for result in results)
    ids = (select(one.subquery()) for one in each)
    return select(ReconciliationRow).where(ReconciliationRow.id.in_(union_all(*ids))).order_by(*newest)


# Made once, as every order asks.
_DIFFERENCES = (
    select(ReconciliationDifference)
    .where(ReconciliationDifference.reconciliation_id == bindparam("reconciliation_id"))
    .order_by(ReconciliationDifference.id)
)
_DIFFERENCES_IN = _DIFFERENCES.where(ReconciliationDifference.con_id == bindparam("con_id"))


def places(session: Session, conn_id: str = "") -> list[tuple[str, str]]:
    """(source, account) wherever a strategy holds or has held something, or may have an order at the broker.

    :param conn_id: only by this connection.
    """
    held = select(PositionRow.source, PositionRow.account).where(PositionRow.strategy != ACCOUNT).distinct()
    alive = select(OrderIntent.source, OrderIntent.account).where(in_states(MAYBE_AT_BROKER)).distinct()
    found = {(source, account) for query in (held, alive) for source, account in session.execute(query)}
    return sorted(place for place in found if conn_id in ("", place[0].partition(":")[2]))


class NoticedSplits:
    """Splits that prices have shown, by contract."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, source: str, con_id: int, factor: float, at: datetime) -> None:
        """Note that prices before it are so many times those after it."""
        self._session.add(NoticedSplit(source=source, con_id=con_id, factor=factor, at=at))
        self._session.flush()

    def since(self, source: str, con_id: int, at: datetime | None) -> list[float]:
        """The factors that were noticed after `at`, the youngest first; of all times where that is None."""
        query = select(NoticedSplit.factor).where(same_kind(NoticedSplit.source, source), NoticedSplit.con_id == con_id)
        if at is not None:
            query = query.where(NoticedSplit.at > at)
        return list(self._session.scalars(query.order_by(NoticedSplit.at.desc(), NoticedSplit.id.desc())))
