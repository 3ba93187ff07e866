"""What a statement leaves of an order's fills: which stand, which IBKR has taken back, at which commission. Pure.

IBKR takes a trade back by a row of its own, behind the trade: side, quantity, price and time are the trade's, its
execId is empty, its commission is what is given back. Where it books the trade anew, a further row follows, under the
same execId or as the fill's next version, with what is paid in addition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from airflow_ibkr_plugin.trading.executions import fill_of, newest
from airflow_ibkr_plugin.trading.orders import Execution


@dataclass(frozen=True, slots=True)
class Booked:
    """A fill in the books, of whatever version."""

    fill: Execution
    taken_back: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a statement: a trade, or that IBKR takes one back. The latter's execId may be ''."""

    fill: Execution
    cancels: bool = False


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What rows say together with the books.

    :ivar stated: trades by execId, with the commission that all rows of the fill come to; None where they do not tell.
    :ivar rebooked: execIds of trades that stand although they, or a version before, were taken back.
    :ivar taken_back: execId -> what of its commission IBKR has kept; None where that is not known.
    :ivar unmatched: numbers of the rows that take back what is neither in the rows nor in the books.
    """

    stated: dict[str, Execution] = field(default_factory=dict)
    rebooked: set[str] = field(default_factory=set)
    taken_back: dict[str, Decimal | None] = field(default_factory=dict)
    unmatched: list[int] = field(default_factory=list)


def settle(booked: Iterable[Booked], rows: Sequence[Row]) -> Settled:
    """What becomes of an order's fills by the rows of one statement about it, in the order that IBKR wrote them.

    :param booked: all that is in the books of the order, versions that do not count included.
    """
    return _Settling({one.fill.exec_id: one for one in booked}, rows).run()


def same_trade(one: Execution, other: Execution) -> bool:
    """Whether side, quantity, price and second are equal: a statement has no parts of seconds."""
    return _figures(one) == _figures(other)


def _figures(fill: Execution) -> tuple[object, ...]:
    return fill.side, fill.quantity, fill.price, fill.time.replace(microsecond=0)


class _Settling:
    def __init__(self, booked: dict[str, Booked], rows: Sequence[Row]) -> None:
        self._booked = booked
        self._rows = rows
        self._known = {exec_id: one.fill for exec_id, one in booked.items()}
        self._open: dict[str, tuple[str, Decimal | None]] = {}  # by fill: what is taken back, and commission left of it
        self._found = Settled()

    def run(self) -> Settled:
        for number, row in enumerate(self._rows):
            if row.cancels:
                self._cancel(number, row.fill)
            else:
                self._state(row.fill)
        self._found.taken_back.update(self._open.values())
        return self._found

    def _state(self, fill: Execution) -> None:
        before = self._open.pop(fill_of(fill.exec_id)[0], None)
        paid = fill.commission
        if before is not None:
            self._found.rebooked.add(fill.exec_id)
            paid = None if paid is None or before[1] is None else paid + before[1]
        elif any(self._rows[one].fill.time == fill.time for one in self._found.unmatched):
            paid = None  # it may be what was booked anew, and then this is not all of its commission
        self._known[fill.exec_id] = self._found.stated[fill.exec_id] = replace(fill, commission=paid)

    def _cancel(self, number: int, row: Execution) -> None:
        target = self._target(number, row)
        if target is None:
            self._found.unmatched.append(number)
            return
        paid = self._known[target].commission
        if paid is None and target in self._booked:
            paid = self._booked[target].fill.commission
        left = None if paid is None or row.commission is None else paid + row.commission
        self._open[fill_of(target)[0]] = target, left

    def _target(self, number: int, row: Execution) -> str | None:
        """The trade that a row takes back, of those that it may be.

        Of several alike the one that is booked anew behind it, else the one whose commission it gives back, else one
        that is taken back already, so that a second import agrees.
        """
        gone = {target for target, _ in self._open.values()}
        if row.exec_id:
            return row.exec_id if row.exec_id in self._known and row.exec_id not in gone else None
        later = dict(reversed([fill_of(one.fill.exec_id) for one in self._rows[number + 1 :] if not one.cancels]))
        latest = {one.exec_id for one in newest(self._known.values())}

        def unlikely(exec_id: str) -> tuple[object, ...]:
            fill, version = fill_of(exec_id)
            if fill in later:
                role = 0 if version < later[fill] else 1 if version == later[fill] else 3
            else:
                role = 2 if exec_id in latest else 3
            paid, booked = self._known[exec_id].commission, self._booked.get(exec_id)
            return (
                role,
                not row.commission or paid is None or paid + row.commission != 0,
                booked is None or not booked.taken_back,
                -version,
                exec_id,
            )

        alike = [one for one, fill in self._known.items() if one not in gone and same_trade(fill, row)]
        return min(alike, key=unlikely, default=None)
