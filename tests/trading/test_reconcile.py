"""Two books held against each other: what differs, who is concerned, what is accepted. And splits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.store.holdings import Holding
from airflow_ibkr_plugin.trading.executions import fill_of, newest
from airflow_ibkr_plugin.trading.orders import TERMINAL, BrokerOrder, Execution, IntentState, OrderType, Side
from airflow_ibkr_plugin.trading.portfolio import Position
from airflow_ibkr_plugin.trading.reconcile import (
    Book,
    BookedFill,
    BookedOrder,
    BrokerBook,
    DifferenceKind,
    compare,
    unexplained,
)
from airflow_ibkr_plugin.trading.splits import HolderFill, Ratio, parse_ratio, plan, ratio_of

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
SPY = 756733
TEN = Decimal(10)


def position(quantity: int, con_id: int = SPY) -> Position:
    return Position(account="DU1", con_id=con_id, symbol="SPY", quantity=Decimal(quantity), average_cost=Decimal(1))


def fill(**changes: Any) -> Execution:
    fields: dict[str, Any] = {
        "exec_id": "1.01",
        "order_ref": "aip-1",
        "account": "DU1",
        "con_id": SPY,
        "symbol": "SPY",
        "side": Side.BUY,
        "quantity": TEN,
        "price": Decimal(100),
        "time": NOW,
        "perm_id": 9,
        "order_id": 1,
        "client_id": 1,
        "commission": Decimal(1),
        "commission_currency": "USD",
    }
    return Execution(**fields | changes)


def booked(**changes: Any) -> BookedOrder:
    fields: dict[str, Any] = {
        "order_ref": "aip-1",
        "strategy": "demo",
        "con_id": SPY,
        "symbol": "SPY",
        "state": IntentState.WORKING,
        "side": Side.BUY,
        "quantity": TEN,
        "order_type": OrderType.LIMIT,
        "limit_price": Decimal(99),
        "perm_id": 9,
    }
    return BookedOrder(**fields | changes)


def working(**changes: Any) -> BrokerOrder:
    fields: dict[str, Any] = {
        "order_ref": "aip-1",
        "account": "DU1",
        "con_id": SPY,
        "side": Side.BUY,
        "quantity": TEN,
        "order_type": "LMT",
        "limit_price": Decimal("99.00"),
        "status": "Submitted",
        "filled": Decimal(0),
        "remaining": TEN,
        "perm_id": 9,
    }
    return BrokerOrder(**fields | changes)


def kinds(book: Book, broker: BrokerBook) -> list[str]:
    return [f"{one.kind}" for one in compare(book, broker)]


ONE_ORDER = Book(positions={}, orders={"aip-1": booked()})
KNOWN = {"known_refs": frozenset({"aip-1"}), "known_perm_ids": frozenset({9})}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (working(), []),
        (working(limit_price=Decimal(98)), ["order_changed"]),
        (working(quantity=Decimal(12)), ["order_changed"]),
        (working(quantity=Decimal(8)), ["order_changed"]),
        (working(order_type="MKT", limit_price=None), ["order_changed"]),
        (working(order_ref="", limit_price=Decimal(98)), ["order_changed"]),  # known by its permId
        (working(order_ref="aip-2", perm_id=10), ["order_unknown"]),
        (working(order_ref="mine", perm_id=10), []),  # another program's: none of ours
        (working(order_ref="", perm_id=10), []),
    ],
)
def test_working_orders(order: BrokerOrder, expected: list[str]) -> None:
    assert kinds(ONE_ORDER, BrokerBook(positions=[], working=[order], **KNOWN)) == expected


def test_a_trailing_stop_may_move_and_an_exit_may_shrink() -> None:
    trail = booked(order_type=OrderType.TRAIL, limit_price=None, stop_price=Decimal(90))
    moved = working(order_type="TRAIL", limit_price=None, stop_price=Decimal(95))
    assert kinds(Book(positions={}, orders={"aip-1": trail}), BrokerBook(positions=[], working=[moved], **KNOWN)) == []
    target = Book(positions={}, orders={"aip-1": booked(leg="target")})
    for quantity, expected in ((5, []), (15, ["order_changed"])):
        shrunk = working(quantity=Decimal(quantity))
        assert kinds(target, BrokerBook(positions=[], working=[shrunk], **KNOWN)) == expected


@pytest.mark.parametrize("state", [IntentState.DECIDED, IntentState.RESERVED])
def test_what_went_out_after_our_book_was_read_may_have_been_made_smaller_by_risk(state: IntentState) -> None:
    book = Book(positions={}, orders={"aip-1": booked(state=state)})
    assert kinds(book, BrokerBook(positions=[], working=[working(quantity=Decimal(8))], **KNOWN)) == []


@pytest.mark.parametrize("late", [(), ("1.01",), ("1.01", "2.01")])
def test_positions_may_have_late_fills_or_not_and_no_others(late: tuple[str, ...]) -> None:
    fills = [fill(), fill(exec_id="2.01", side=Side.SELL, quantity=Decimal(4))]
    broker = BrokerBook(positions=[], executions=fills, late=frozenset(late), **KNOWN)
    possible = {6} | ({-4} if "1.01" in late else set()) | ({0, 10} if "2.01" in late else set())
    for held in range(-12, 13):
        expected = [] if held in possible else ["position"]
        assert kinds(ONE_ORDER, replace(broker, positions=[position(held)])) == expected


def test_a_difference_of_positions_is_the_same_while_others_trade() -> None:
    keys = {
        compare(Book(positions={("a", SPY): Decimal(n)}), BrokerBook(positions=[position(n + 7)]))[0].key
        for n in range(3)
    }
    assert len(keys) == 1


@pytest.mark.parametrize("state", IntentState)
@pytest.mark.parametrize("settled", [True, False])
def test_what_the_broker_does_not_know_is_missing_while_it_may_be_there(state: IntentState, settled: bool) -> None:
    book = Book(positions={}, orders={"aip-1": booked(state=state, settled=settled)})
    at_broker = {IntentState.WORKING, IntentState.CANCELLING, IntentState.AMBIGUOUS}
    assert kinds(book, BrokerBook(positions=[])) == (["order_missing"] if settled and state in at_broker else [])
    assert kinds(book, BrokerBook(positions=[], **KNOWN)) == []
    alive = BrokerBook(positions=[], working=[working()], **KNOWN)
    assert kinds(book, alive) == (["order_alive"] if settled and state in TERMINAL else [])


def test_a_fill_of_ours_that_is_not_booked_yet_is_no_difference() -> None:
    broker = BrokerBook(positions=[position(10)], executions=[fill()], **KNOWN)
    assert compare(ONE_ORDER, broker) == ()
    (one,) = compare(replace(ONE_ORDER, orders={}), broker)
    assert (one.kind, one.ours, one.theirs, one.detail) == (
        DifferenceKind.POSITION,
        "0",
        "10",
        "fills of today that are not ours: BUY 10 at 100, permId 9",
    )


def test_figures_of_a_fill_are_compared_as_numbers() -> None:
    def book(**changes: Any) -> Book:
        figures = BookedFill(Side.BUY, TEN, Decimal("100.00"), Decimal("1.0"), "USD")
        return Book(
            positions={("demo", SPY): TEN}, orders=ONE_ORDER.orders, executions={"1.01": replace(figures, **changes)}
        )

    broker = BrokerBook(positions=[position(10)], executions=[fill()], **KNOWN)
    assert kinds(book(), broker) == []
    assert kinds(book(commission=None), broker) == []  # it is filled in, not held against anyone
    assert kinds(book(commission=Decimal("1.01")), broker) == ["commission"]
    assert kinds(book(price=Decimal("100.01")), broker) == ["execution"]


def test_who_holds_a_contract_or_orders_it_is_concerned() -> None:
    book = Book(
        positions={("a", SPY): TEN, ("b", SPY): Decimal(0), ("c", 1): TEN, ("", SPY): TEN},
        orders={
            "aip-1": booked(strategy="d"),
            "aip-2": booked(order_ref="aip-2", strategy="e", state=IntentState.FILLED),
        },
    )
    (one,) = compare(book, BrokerBook(positions=[position(21), position(10, 1)], **KNOWN))
    assert one.strategies == ("a", "d")


def test_an_accepted_difference_stays_accepted_until_it_changes() -> None:
    changed = BrokerBook(positions=[], working=[working(limit_price=Decimal(98))], **KNOWN)
    (one,) = compare(ONE_ORDER, changed)
    accepting = replace(ONE_ORDER, accepted=frozenset({one.key}))
    assert [d.accepted for d in compare(accepting, changed)] == [True]
    again = BrokerBook(positions=[], working=[working(limit_price=Decimal(97))], **KNOWN)
    assert [d.accepted for d in compare(accepting, again)] == [False]


QUANTITIES = st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), st.integers(-50, 50).map(Decimal))


@given(
    held=QUANTITIES,
    beside=st.dictionaries(st.integers(1, 3), st.integers(-50, 50).map(Decimal)),
    extra=st.integers(-5, 5),
)
def test_positions_agree_exactly_when_books_and_what_is_accepted_add_up(
    held: dict[tuple[str, int], Decimal], beside: dict[int, Decimal], extra: int
) -> None:
    book = Book(positions=held, unexplained=beside)
    totals = {
        con_id: sum((q for (_, c), q in held.items() if c == con_id), Decimal(0)) + beside.get(con_id, Decimal(0))
        for con_id in range(1, 4)
    }
    totals[2] += extra
    broker = BrokerBook(positions=[replace(position(0, c), quantity=q) for c, q in totals.items() if q])
    found = compare(book, broker)
    assert [one.con_id for one in found] == ([2] if extra else [])
    accepted = replace(book, unexplained=unexplained(book, broker))
    assert compare(accepted, broker) == ()


# --- corrections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exec_id", "expected"),
    [
        ("00025b46.63f8f39c.01.01", ("00025b46.63f8f39c.01", 1)),
        ("00025b46.63f8f39c.01.02", ("00025b46.63f8f39c.01", 2)),
        ("U+1.xx", ("U+1.xx", 0)),
        ("plain", ("plain", 0)),
    ],
)
def test_the_last_digits_are_the_version(exec_id: str, expected: tuple[str, int]) -> None:
    assert fill_of(exec_id) == expected


def test_the_newest_version_is_in_force_wherever_it_stands() -> None:
    fills = [fill(exec_id=exec_id) for exec_id in ("a.1.02", "b.1.01", "a.1.01", "a.1.10")]
    assert [one.exec_id for one in newest(fills)] == ["b.1.01", "a.1.10"]


# --- splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "ratio"), [(4.001, (4, 1)), (0.1, (1, 10)), (1.4995, (3, 2)), (20.0, (20, 1)), (0.125, (1, 8))]
)
def test_a_factor_of_prices_is_a_ratio(factor: float, ratio: tuple[int, int]) -> None:
    assert ratio_of(factor) == Ratio(new=ratio[0], old=ratio[1])


@pytest.mark.parametrize("factor", [1.0, 1.004, 0.0, -4.0, 1e9, float("nan"), float("inf")])
def test_what_is_no_split_has_no_ratio(factor: float) -> None:
    assert ratio_of(factor) is None


def test_a_person_writes_a_ratio() -> None:
    assert parse_ratio("4:1") == Ratio(new=4, old=1)
    assert parse_ratio("10:4") == Ratio(new=5, old=2)
    for wrong in ("4", "4:", "4:0", "0:4", "-4:1", "4:4", "4.5:1", "a:b"):
        assert parse_ratio(wrong) is None


HELD = st.dictionaries(
    st.sampled_from([("s", "a"), ("s", "b"), ("", "")]), st.integers(1, 500).map(Decimal), min_size=1
)


@given(
    held=HELD, ratio=st.sampled_from([Ratio(new=4, old=1), Ratio(new=1, old=10), Ratio(new=3, old=2)]), data=st.data()
)
def test_a_split_is_found_whenever_it_came_and_all_parts_add_up(held: Any, ratio: Ratio, data: st.DataObject) -> None:
    whole = ratio.of(sum(held.values(), Decimal(0)))
    later = data.draw(st.lists(st.tuples(st.sampled_from(sorted(held)), st.integers(1, 9)), max_size=3))
    fills = [HolderFill(holder=h, change=Decimal(q), time=NOW + timedelta(minutes=n)) for n, (h, q) in enumerate(later)]
    bought = sum((one.change for one in fills), Decimal(0))
    account = whole.to_integral_value("ROUND_DOWN") + bought
    ours = dict(held)
    for one in fills:
        ours[one.holder] += one.change
    found = plan(ours, fills, account, ratio, NOW + timedelta(hours=1))
    assert found is not None
    assert sum(found.after.values()) == account
    if not fills:
        assert sum(found.paid_out.values(), Decimal(0)) == whole - account
    assert all(0 <= paid < 1 for paid in found.paid_out.values())


@pytest.mark.parametrize("parts", [(10, 10, 1), (-10, -10, -16), (10, 11), (5, 5, 5, 6, -3)])
def test_thirds_of_shares_add_up_in_the_places_that_the_books_keep(parts: tuple[int, ...]) -> None:
    held = {("s", str(number)): Decimal(part) for number, part in enumerate(parts)}
    account = Decimal(sum(parts) // 3)
    found = plan(held, [], account, Ratio(new=1, old=3), NOW)
    assert found is not None
    assert sum(found.after.values()) == account
    assert abs(sum(found.paid_out.values())) < Decimal("0.000001")
    for holder, quantity in held.items():
        booked = Holding(quantity, Decimal(5)).split(
            Decimal(1), Decimal(3), found.paid_out.get(holder, Decimal(0)), Decimal(15)
        )
        assert booked.quantity == found.after[holder]


def test_of_the_moments_that_explain_a_split_one_without_a_fraction_counts_and_then_the_latest() -> None:
    holder = ("s", "a")

    def moment(held: int, account: int, *changes: int) -> tuple[Decimal, timedelta]:
        fills = [
            HolderFill(holder=holder, change=Decimal(c), time=NOW + timedelta(hours=n)) for n, c in enumerate(changes)
        ]
        found = plan({holder: Decimal(held)}, fills, Decimal(account), Ratio(new=1, old=2), NOW + timedelta(days=1))
        assert found is not None
        return sum(found.paid_out.values(), Decimal(0)), found.at - NOW

    # 6 became 3, and one was sold; or one of 6 was sold, and 5 became 2 and a half.
    assert moment(5, 2, -1) == (0, -timedelta(microseconds=1))
    # 2 bought and 2 sold: whenever it came, it is the same.
    assert moment(4, 2, 2, -2) == (0, timedelta(days=1))


def test_a_split_after_the_last_fill_is_after_it_though_the_clock_is_a_part_of_a_second_behind() -> None:
    last = NOW + timedelta(seconds=1)
    fill = HolderFill(holder=("s", "a"), change=TEN, time=last)
    found = plan({("s", "a"): TEN}, [fill], Decimal(40), Ratio(new=4, old=1), NOW)
    assert found is not None
    assert found.at > last


def test_quantities_that_the_ratio_does_not_explain_are_no_split() -> None:
    assert plan({("s", "a"): TEN}, [], Decimal(41), Ratio(new=4, old=1), NOW) is None
    assert plan({("s", "a"): Decimal(0)}, [], Decimal(0), Ratio(new=4, old=1), NOW) is None
