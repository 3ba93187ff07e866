"""Every position once more from its executions and splits, held against what is stored."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.orders import ExecutionRow
from airflow_ibkr_plugin.store.models.portfolio import PositionRow
from airflow_ibkr_plugin.store.models.reconciliations import PositionAdjustment
from airflow_ibkr_plugin.store.positions import ACCOUNT, Place, Positions
from airflow_ibkr_plugin.trading.executions import in_force

_CENT = Decimal("0.01")


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A stored position that is not what its executions add up to; `what` names the figure."""

    place: Place
    symbol: str
    what: str
    stored: Decimal | None
    replayed: Decimal

    def __str__(self) -> str:
        source, account, strategy, _ = self.place
        stored = "nothing" if self.stored is None else f"{self.stored:f}"
        return f"{strategy} {self.symbol} ({account}, {source}): {self.what} is stored as {stored}, and is" + (
            f" {self.replayed:f} by its executions"
        )


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay found.

    :param positions: how many there are. :param commissions: by currency, of all strategies' fills.
    :param realized: profit by currency of the instruments, by our books: after commissions in that currency.
    """

    positions: int
    fills: int
    mismatches: tuple[Mismatch, ...]
    commissions: dict[str, Decimal]
    realized: dict[str, Decimal]


def replay(session: Session, strategy: str = "") -> Replay:
    """Compute all strategies' positions again, or one strategy's.

    Quantity, average cost and realised profit must be equal. Independent of how these are added up, the cash that was
    paid and received must be `realised profit - quantity * average cost`, to the cent.
    """
    stored = {
        (row.source, row.account, row.strategy, row.con_id): row
        for row in Positions(session).list()
        if row.strategy != ACCOUNT and strategy in ("", row.strategy)
    }
    places = stored.keys() | _traded(session, strategy)
    found: list[Mismatch] = []
    commissions: defaultdict[str, Decimal] = defaultdict(Decimal)
    realized: defaultdict[str, Decimal] = defaultdict(Decimal)
    fills = 0
    for place in sorted(places):
        rows = _fills(session, place)
        fills += len(rows)
        for fill in rows:
            if fill.commission is not None:
                commissions[fill.commission_currency] += fill.commission
        row = stored.get(place)
        found += _mismatches(session, place, row, rows)
        if row is not None:
            realized[row.currency] += row.realized_pnl or Decimal(0)
    return Replay(
        positions=len(places),
        fills=fills,
        mismatches=tuple(found),
        commissions=dict(commissions),
        realized=dict(realized),
    )


def _mismatches(session: Session, place: Place, row: PositionRow | None, fills: list[ExecutionRow]) -> list[Mismatch]:
    if row is None:
        quantity = sum((fill.side.sign * fill.quantity for fill in fills), Decimal(0))
        return [Mismatch(place=place, symbol=fills[0].symbol, what="quantity", stored=None, replayed=quantity)]
    holding = Positions(session).replay(place, row.currency)
    held = {
        "quantity": (row.quantity, holding.quantity),
        "average cost": (row.average_cost, holding.average_cost),
        "realised profit": (row.realized_pnl, holding.realized_pnl),
    }
    found = [
        Mismatch(place=place, symbol=row.symbol, what=what, stored=stored, replayed=replayed)
        for what, (stored, replayed) in held.items()
        if stored != replayed
    ]
    by_position = holding.realized_pnl - holding.quantity * holding.average_cost
    cash = _cash(session, place, row.currency, fills)
    if abs(cash - by_position) >= _CENT:
        found.append(Mismatch(place=place, symbol=row.symbol, what="cash", stored=by_position, replayed=cash))
    return found


def _cash(session: Session, place: Place, currency: str, fills: list[ExecutionRow]) -> Decimal:
    """Received less paid, in the instrument's currency, with what was paid out for fractions of shares."""
    cash = Decimal(0)
    for fill in fills:
        cash -= fill.side.sign * fill.quantity * fill.price
        if fill.commission is not None and fill.commission_currency in ("", currency):
            cash -= fill.commission
    query = select(PositionAdjustment).where(
        PositionAdjustment.source == place[0],
        PositionAdjustment.account == place[1],
        PositionAdjustment.strategy == place[2],
        PositionAdjustment.con_id == place[3],
    )
    for split in session.scalars(query):
        cash += split.paid_out * split.price
    return cash


def _fills(session: Session, place: Place) -> list[ExecutionRow]:
    source, account, strategy, con_id = place
    query = select(ExecutionRow).where(
        ExecutionRow.source == source,
        ExecutionRow.account == account,
        ExecutionRow.strategy == strategy,
        ExecutionRow.con_id == con_id,
    )
    return in_force(session.scalars(query.order_by(ExecutionRow.time, ExecutionRow.exec_id)))


def _traded(session: Session, strategy: str) -> set[Place]:
    query = select(ExecutionRow.source, ExecutionRow.account, ExecutionRow.strategy, ExecutionRow.con_id)
    query = query.where(ExecutionRow.strategy != ACCOUNT)
    if strategy:
        query = query.where(ExecutionRow.strategy == strategy)
    return {(row.source, row.account, row.strategy, row.con_id) for row in session.execute(query.distinct())}
