"""What is concluded from what the broker said about an order: whether it lives, was refused, has ended. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from airflow_ibkr_plugin.broker.codes import error_for
from airflow_ibkr_plugin.broker.placement import what_became_of, why
from airflow_ibkr_plugin.broker.truth import BrokerTruth
from airflow_ibkr_plugin.errors import BrokerError, BrokerTimeout, OrderIdInUse, OrderRejected
from airflow_ibkr_plugin.trading.orders import BrokerOrder, Execution, Side

NOW = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)
FILL = Execution(
    exec_id="e1",
    order_ref="aip-1",
    account="DU1",
    con_id=1,
    symbol="SPY",
    side=Side.BUY,
    quantity=Decimal(3),
    price=Decimal(100),
    time=NOW,
    perm_id=9,
    order_id=5,
    client_id=10,
    commission=Decimal(1),
)


def order(status: str, filled: int = 0, reason: str = "") -> BrokerOrder:
    return BrokerOrder(
        order_ref="aip-1",
        account="DU1",
        con_id=1,
        side=Side.BUY,
        quantity=Decimal(3),
        order_type="MKT",
        status=status,
        filled=Decimal(filled),
        remaining=Decimal(3 - filled),
        perm_id=9,
        reason=reason,
    )


def truth(*orders: BrokerOrder, fills: tuple[Execution, ...] = ()) -> BrokerTruth:
    return BrokerTruth(orders=orders, executions=fills, asked_at=NOW)


def errors(*codes: int) -> list[BrokerError]:
    return [error_for(code, "something") for code in codes]


@pytest.mark.parametrize(
    ("codes", "listed"),
    [
        ((10000,), order("Submitted")),  # an error that is in no table
        ((201,), order("PreSubmitted")),
        ((201,), order("Inactive", filled=1)),  # some of it was filled: it lived
        ((201,), order("Cancelled", filled=1)),
        ((), order("Inactive")),  # waits for something
        ((), order("Cancelled")),  # was taken, and has ended since
        ((202,), order("Cancelled")),
        ((103,), order("Submitted")),  # the same order, sent a second time
        ((103,), order("Filled", filled=3)),
    ],
)
def test_an_order_that_the_broker_took_is_returned_as_it_stands(codes: tuple[int, ...], listed: BrokerOrder) -> None:
    found = what_became_of(truth(listed), errors(*codes), order_ref="aip-1")
    assert replace(found, reason="") == listed
    assert all(str(code) in found.reason for code in codes)


@pytest.mark.parametrize(
    ("codes", "listed"),
    [
        ((201,), []),
        ((201,), [order("Inactive")]),
        ((201,), [order("Cancelled")]),
        ((201, 202), [order("Cancelled")]),
        ((), []),
        ((103,), [order("Cancelled")]),  # a new id would send the order once more
    ],
)
def test_an_order_that_never_lived_is_rejected(codes: tuple[int, ...], listed: list[BrokerOrder]) -> None:
    with pytest.raises(OrderRejected) as caught:
        what_became_of(truth(*listed), errors(*codes), order_ref="aip-1")
    assert caught.value.code == (codes[0] if codes else None)


def test_a_used_id_placed_nothing() -> None:
    with pytest.raises(OrderIdInUse):
        what_became_of(truth(), errors(103), order_ref="aip-1")


@pytest.mark.parametrize("code", [103, 201])
def test_executions_without_their_order_are_no_rejection(code: int) -> None:
    with pytest.raises(BrokerTimeout, match="not list"):
        what_became_of(truth(fills=(FILL,)), errors(code), order_ref="aip-1")


@pytest.mark.parametrize(
    ("listed", "ended"),
    [
        ([], False),
        ([order("PendingSubmit")], False),
        ([order("PreSubmitted")], False),
        ([order("Submitted", filled=2)], False),
        ([order("PendingCancel")], False),
        ([order("Inactive")], False),
        ([order("Inactive", reason="IBKR answered with error 201")], True),
        ([order("Cancelled")], True),
        ([order("ApiCancelled")], True),
        ([order("Filled", filled=3)], True),
        ([order("Cancelled"), order("Submitted")], False),  # the last one counts
    ],
)
def test_when_an_order_has_ended(listed: list[BrokerOrder], ended: bool) -> None:
    assert truth(*listed).ended is ended
    assert truth(*listed, fills=(FILL,)).ended is ended


def test_an_end_is_complete_with_all_executions_and_commissions() -> None:
    one, two = replace(FILL, quantity=Decimal(1)), replace(FILL, exec_id="e2", quantity=Decimal(2))
    filled = order("Filled", filled=3)
    assert truth(filled, fills=(one, two)).complete
    assert not truth(filled, fills=(two,)).complete
    assert not truth(filled).complete
    assert not truth(filled, fills=(one, replace(two, commission=None))).complete
    assert not truth(order("Submitted", filled=3), fills=(FILL,)).complete
    # openOrder's Filled may come ahead of the quantities: the whole order is expected.
    assert not truth(order("Filled"), fills=(one,)).complete
    assert truth(order("Cancelled")).complete
    assert truth(order("Cancelled", filled=1), fills=(one,)).complete
    assert not truth(order("Cancelled", filled=1)).complete


def test_of_two_orders_the_one_that_may_still_fill_counts() -> None:
    waiting = order("Inactive")
    assert what_became_of(truth(waiting, order("Cancelled")), [], order_ref="aip-1") == waiting


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([], ""),
        ([(202, "Order Canceled - reason:")], ""),
        (
            [(202, "Order Canceled - reason:The exchange is closed.")],
            "202: Order Canceled - reason:The exchange is closed",
        ),
        ([(202, "Order Canceled - reason:"), (201, "Order rejected - reason:")], "201: Order rejected"),
    ],
)
def test_a_cancel_without_a_reason_says_nothing(said: list[tuple[int, str]], told: str) -> None:
    found = why([error_for(code, text) for code, text in said])
    assert told in found
    assert bool(found) is bool(told)
