"""Our book held against the broker's: what differs, and who is concerned. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum

from airflow_ibkr_plugin.trading.orders import (
    TERMINAL,
    BrokerOrder,
    Execution,
    IntentState,
    OrderType,
    Side,
)
from airflow_ibkr_plugin.trading.portfolio import Position

#: The orderRef of every order of ours begins with it; see :class:`airflow_ibkr_plugin.trading.orders.IntentKey`.
OUR_REF = "aip-"
_PLACES = Decimal(1).scaleb(-10)
# Prices of these stay as they were sent until somebody changes them. A trailing stop's moves by itself.
_FIXED_PRICES = frozenset({OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT})


class Result(StrEnum):
    """How a reconciliation ended."""

    AGREE = "agree"
    DISAGREE = "disagree"
    FAILED = "failed"  # it could not be made: nothing is known


class DifferenceKind(StrEnum):
    """What differs."""

    POSITION = "position"  # the account holds more or less than the books and what is accepted beside them
    ORDER_MISSING = "order_missing"  # works by our book, and the broker does not know it
    ORDER_ALIVE = "order_alive"  # ended by our book, and works at the broker
    ORDER_UNKNOWN = "order_unknown"  # works at the broker with an orderRef like ours that no intent has
    ORDER_CHANGED = "order_changed"  # works at the broker otherwise than it was sent
    EXECUTION = "execution"  # the same fill with another side, quantity or price
    COMMISSION = "commission"  # the same fill with another commission


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One difference.

    :param subject: what it is about: the contract, the order's permId or orderRef, the execId.
    :param strategies: who hold the contract or have orders in it; empty where nobody does.
    :param ours, theirs: what our book and the broker say, as text.
    :param accepted: a person has said that it is right as the broker has it.
    """

    kind: DifferenceKind
    subject: str
    con_id: int
    symbol: str
    ours: str
    theirs: str
    strategies: tuple[str, ...] = ()
    order_ref: str = ""
    detail: str = ""
    accepted: bool = False

    @property
    def key(self) -> str:
        """Equal for the same difference seen again. One that has grown is another."""
        if self.kind is DifferenceKind.POSITION:  # both sides move while others trade
            return f"{self.kind}:{self.subject}:{Decimal(self.theirs) - Decimal(self.ours):f}"
        return f"{self.kind}:{self.subject}:{self.ours}:{self.theirs}"

    def __str__(self) -> str:
        about = f"{self.symbol} {self.order_ref}".rstrip()
        return f"{self.kind} {about}: our book {self.ours}, broker {self.theirs}" + (
            f" ({self.detail})" if self.detail else ""
        )


@dataclass(frozen=True, kw_only=True)
class BookedOrder:
    """An intent as far as it was or may be at the broker.

    :param settled: nobody is at work on it, and it was not moved just now: what the broker says of it counts.
    """

    order_ref: str
    strategy: str
    con_id: int
    symbol: str
    state: IntentState
    side: Side
    quantity: Decimal
    order_type: OrderType
    leg: str = "entry"
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    perm_id: int | None = None
    settled: bool = True


@dataclass(frozen=True, slots=True)
class BookedFill:
    """The figures of an execution that is booked."""

    side: Side
    quantity: Decimal
    price: Decimal
    commission: Decimal | None
    commission_currency: str


@dataclass(frozen=True, kw_only=True)
class Book:
    """What our book says of one account.

    :param positions: signed quantity by (strategy, con_id), over all connections to the account.
    :param unexplained: signed quantity by con_id that the account holds beside them, as accepted last.
    :param orders: intents that may be at the broker, and those that the broker named, by orderRef.
    :param executions: those that the broker named and that are booked, by execId.
    :param accepted: keys of differences that a person has accepted.
    """

    positions: Mapping[tuple[str, int], Decimal]
    unexplained: Mapping[int, Decimal] = field(default_factory=dict)
    orders: Mapping[str, BookedOrder] = field(default_factory=dict)
    executions: Mapping[str, BookedFill] = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()

    def strategies(self, con_id: int) -> tuple[str, ...]:
        """Who hold the contract, or have orders in it that may fill."""
        holders = {strategy for (strategy, held), quantity in self.positions.items() if held == con_id and quantity}
        buyers = {o.strategy for o in self.orders.values() if o.con_id == con_id and o.state not in TERMINAL}
        return tuple(sorted((holders | buyers) - {""}))


@dataclass(frozen=True, kw_only=True)
class BrokerBook:
    """What the broker says of one account.

    :param working: orders that have not ended. :param known: orderRefs and permIds of all that it named today.
    :param executions: of the broker's current day, those that were corrected left out.
    :param late: execIds of those that came while positions were asked for, which may have them or not.
    """

    positions: Sequence[Position]
    working: Sequence[BrokerOrder] = ()
    known_refs: frozenset[str] = frozenset()
    known_perm_ids: frozenset[int] = frozenset()
    executions: Sequence[Execution] = ()
    late: frozenset[str] = frozenset()


def unexplained(book: Book, broker: BrokerBook) -> dict[int, Decimal]:
    """What the account holds beside the strategies' books, by con_id; zeros left out.

    Fills of ours that the broker named and that are not booked yet count as booked: whoever holds the order books them.
    """
    rest: defaultdict[int, Decimal] = defaultdict(Decimal)
    for position in broker.positions:
        rest[position.con_id] += position.quantity
    for (_, con_id), quantity in book.positions.items():
        rest[con_id] -= quantity
    late: defaultdict[int, list[Decimal]] = defaultdict(list)
    for fill in broker.executions:
        if fill.order_ref in book.orders and fill.exec_id not in book.executions:
            change = fill.side.sign * fill.quantity
            rest[fill.con_id] -= change
            if fill.exec_id in broker.late:
                late[fill.con_id].append(change)
    for con_id, changes in late.items():
        accepted = book.unexplained.get(con_id, Decimal(0))
        if accepted - rest[con_id] in _sums(changes):
            rest[con_id] = accepted
    return {con_id: quantity for con_id, quantity in rest.items() if quantity}


def _sums(changes: Iterable[Decimal]) -> set[Decimal]:
    """Of each choice of them: nobody knows which of the fills the positions lack."""
    sums = {Decimal(0)}
    for change in changes:
        sums |= {so_far + change for so_far in sums}
    return sums


def compare(book: Book, broker: BrokerBook) -> tuple[Difference, ...]:
    """All differences, accepted ones among them and marked; none means that both agree."""
    found = [*_positions(book, broker), *_orders(book, broker), *_fills(book, broker)]
    return tuple(replace(one, accepted=one.key in book.accepted) for one in found)


def _positions(book: Book, broker: BrokerBook) -> Iterable[Difference]:
    names = {position.con_id: position.symbol for position in broker.positions}
    names |= {fill.con_id: fill.symbol for fill in broker.executions}
    names |= {order.con_id: order.symbol for order in book.orders.values()}
    now = unexplained(book, broker)
    by_others: defaultdict[int, list[str]] = defaultdict(list)
    for fill in broker.executions:
        if fill.order_ref not in book.orders:
            by_others[fill.con_id].append(f"{fill.side} {fill.quantity:f} at {fill.price:f}, permId {fill.perm_id}")
    held: defaultdict[int, Decimal] = defaultdict(Decimal)
    for position in broker.positions:
        held[position.con_id] += position.quantity
    for con_id in sorted(now.keys() | book.unexplained.keys()):
        rest, accepted = now.get(con_id, Decimal(0)), book.unexplained.get(con_id, Decimal(0))
        if rest == accepted:
            continue
        others = by_others.get(con_id, [])
        yield Difference(
            kind=DifferenceKind.POSITION,
            subject=str(con_id),
            con_id=con_id,
            symbol=names.get(con_id, f"conId {con_id}"),
            ours=f"{held[con_id] - rest + accepted:f}",
            theirs=f"{held[con_id]:f}",
            strategies=book.strategies(con_id),
            detail="fills of today that are not ours: " + "; ".join(others) if others else "no fill explains it",
        )


def _orders(book: Book, broker: BrokerBook) -> Iterable[Difference]:
    by_perm_id = {order.perm_id: order for order in book.orders.values() if order.perm_id}
    for working in broker.working:
        ours = book.orders.get(working.order_ref) or by_perm_id.get(working.perm_id)
        if ours is None:
            if working.order_ref.startswith(OUR_REF):
                yield _of_order(book, working, DifferenceKind.ORDER_UNKNOWN, "no such order", _text(working))
        elif ours.settled and ours.state in TERMINAL:
            yield _of_order(book, working, DifferenceKind.ORDER_ALIVE, str(ours.state), working.status, ours)
        elif ours.state not in _UNSENT and (changes := _changes(ours, working)):
            ours_text, theirs = "; ".join(a for a, _ in changes), "; ".join(b for _, b in changes)
            yield _of_order(book, working, DifferenceKind.ORDER_CHANGED, ours_text, theirs, ours)
    for ours in book.orders.values():
        known = ours.order_ref in broker.known_refs or ours.perm_id in broker.known_perm_ids
        if ours.settled and ours.state in _AT_BROKER and not known:
            yield Difference(
                kind=DifferenceKind.ORDER_MISSING,
                subject=ours.order_ref,
                con_id=ours.con_id,
                symbol=ours.symbol,
                ours=str(ours.state),
                theirs="does not know it",
                strategies=(ours.strategy,) if ours.strategy else (),
                order_ref=ours.order_ref,
                detail=f"{ours.side} {ours.quantity:f} {ours.symbol}",
            )


# By our book, which was read before the broker was asked: risk may still have made it smaller.
_UNSENT = frozenset({IntentState.DECIDED, IntentState.RESERVED})
_AT_BROKER = frozenset({IntentState.WORKING, IntentState.CANCELLING, IntentState.AMBIGUOUS})


def _of_order(
    book: Book, order: BrokerOrder, kind: DifferenceKind, ours: str, theirs: str, booked: BookedOrder | None = None
) -> Difference:
    strategies = (booked.strategy,) if booked and booked.strategy else book.strategies(order.con_id)
    return Difference(
        kind=kind,
        subject=str(order.perm_id),
        con_id=order.con_id,
        symbol=booked.symbol if booked else f"conId {order.con_id}",
        ours=ours,
        theirs=theirs,
        strategies=strategies,
        order_ref=order.order_ref or (booked.order_ref if booked else ""),
        detail=f"permId {order.perm_id}, client {order.client_id}",
    )


def _text(order: BrokerOrder) -> str:
    price = f" limit {order.limit_price:f}" if order.limit_price else ""
    price += f" stop {order.stop_price:f}" if order.stop_price else ""
    return f"{order.side} {order.quantity:f} {order.order_type}{price} {order.status}"


def _changes(ours: BookedOrder, working: BrokerOrder) -> list[tuple[str, str]]:
    """What of a working order is not as it was sent, as (ours, theirs)."""
    found = []
    # IBKR makes the exits of a bracket smaller where its entry filled in part.
    smaller_exit = ours.leg != "entry" and working.quantity < ours.quantity
    if working.quantity != ours.quantity and not smaller_exit:
        found.append((f"quantity {ours.quantity:f}", f"quantity {working.quantity:f}"))
    if working.order_type != ours.order_type:
        found.append((str(ours.order_type), working.order_type))
    elif ours.order_type in _FIXED_PRICES:
        for name in ("limit_price", "stop_price"):
            a, b = getattr(ours, name), getattr(working, name)
            if a != b:
                label = name.partition("_")[0]
                found.append((f"{label} {a if a is None else f'{a:f}'}", f"{label} {b if b is None else f'{b:f}'}"))
    return found


def _fills(book: Book, broker: BrokerBook) -> Iterable[Difference]:
    for fill in broker.executions:
        booked = book.executions.get(fill.exec_id)
        if booked is None or booked == _figures(fill):
            continue
        ours, theirs = _fill_text(booked), _fill_text(fill)
        kind = DifferenceKind.EXECUTION
        if ours == theirs:
            if booked.commission is None or fill.commission is None:
                continue
            ours = f"{_number(booked.commission)} {booked.commission_currency}"
            theirs = f"{_number(fill.commission)} {fill.commission_currency}"
            kind = DifferenceKind.COMMISSION
        if ours != theirs:
            order = book.orders.get(fill.order_ref)
            yield Difference(
                kind=kind,
                subject=fill.exec_id,
                con_id=fill.con_id,
                symbol=fill.symbol,
                ours=ours,
                theirs=theirs,
                strategies=(order.strategy,) if order and order.strategy else (),
                order_ref=fill.order_ref,
                detail=f"execution {fill.exec_id}",
            )


def _figures(fill: Execution) -> BookedFill:
    return BookedFill(fill.side, fill.quantity, fill.price, fill.commission, fill.commission_currency)


def _fill_text(fill: Execution | BookedFill) -> str:
    return f"{fill.side} {_number(fill.quantity)} at {_number(fill.price)}"


def _number(value: Decimal) -> str:
    """Equal for what is equal in the books, which keep ten places."""
    return f"{value.quantize(_PLACES).normalize():f}"
