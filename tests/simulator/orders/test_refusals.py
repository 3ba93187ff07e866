"""What the gateway refuses, with IBKR's code and text, and what that leaves behind."""

from __future__ import annotations

from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

Seen = list[tuple[int, int]]
LMT: dict[str, Any] = {"action": "BUY", "totalQuantity": 1, "orderType": "LMT", "lmtPrice": 1.0, "tif": "DAY"}


@pytest.fixture
def texts(ib: ibi.IB) -> dict[int, str]:
    """The text of each error code, as it last came."""
    found: dict[int, str] = {}

    def note(request: int, code: int, text: str, contract: Any) -> None:
        found[code] = text

    ib.errorEvent += note
    return found


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (ibi.MarketOrder("BUY", 1_000_000), 201),
        (ibi.MarketOrder("BUY", 0), 201),
        (ibi.MarketOrder("BUY", -5), 201),
        (ibi.MarketOrder("BUY", 1.5), 10243),
        (ibi.LimitOrder("BUY", 1, 0), 321),
        (ibi.LimitOrder("BUY", 1, 100.001), 110),
        (ibi.StopOrder("BUY", 1, 0), 321),
        (ibi.StopOrder("BUY", 1, 100.001), 110),
        (ibi.Order(action="BUY", totalQuantity=1, orderType="FEELINGS"), 321),
        (ibi.Order(action="BUY", totalQuantity=1, orderType="MOC"), 387),
        (ibi.MarketOrder("BUY", 1, tif="GTD"), 10052),
        (ibi.MarketOrder("BUY", 1, account="U999"), 321),
        (ibi.MarketOrder("HOLD", 1), 321),
        (ibi.MarketOrder("BUY", 1, conditions=[ibi.TimeCondition(time="20261120 17:00:00")]), 321),
        (ibi.MarketOrder("BUY", 1, algoStrategy="Adaptive"), 321),
        (ibi.MarketOrder("BUY", 1, allOrNone=True), 321),
        (ibi.MarketOrder("BUY", 1, goodAfterTime="20261120 17:00:00"), 321),
        (ibi.MarketOrder("BUY", 1, parentId=4), 135),
    ],
)
def test_refused_orders(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, until: Any, seen: Seen, order: ibi.Order, code: int
) -> None:
    fields = ibi.util.dataclassAsDict(order)
    trade = ib.placeOrder(apple, ibi.Order(**fields | {"orderRef": "no", "tif": order.tif or "DAY"}))
    until(lambda: (trade.order.orderId, code) in seen)
    status = simulator.control("status")
    assert (status["executions"], status["working_orders"]) == (0, 0)
    kept = [item.orderStatus.status for item in ib.reqCompletedOrders(False) if item.order.orderRef == "no"]
    assert kept == (["Inactive"] if code == 201 else [])


def test_an_unknown_contract_is_refused(ib: ibi.IB, until: Any, texts: dict[int, str]) -> None:
    ib.placeOrder(ibi.Stock("NOSUCH", "SMART", "USD"), ibi.MarketOrder("BUY", 1, tif="DAY"))
    until(lambda: 200 in texts)
    assert texts[200] == "No security definition has been found for the request"


def test_the_texts_are_ibkrs(ib: ibi.IB, apple: Any, place: Any, until: Any, texts: dict[int, str]) -> None:
    used = place(ibi.MarketOrder("BUY", 1)).order.orderId
    wanted = {
        103: "Duplicate order id",
        104: "Cannot modify a filled order.",
        110: "The price does not conform to the minimum price variation for this contract.",
        135: "Can't find order with id = 4711",
        321: "Error validating request.-'bP' : cause - Invalid order type was entered",
        10147: "OrderId 4712 that needs to be cancelled is not found.",
        10148: f"OrderId {used} that needs to be cancelled can not be cancelled, state: Filled.",
    }
    ib.client.placeOrder(used, apple, ibi.Order(**LMT | {"orderRef": "another"}))
    ib.client.placeOrder(used, apple, ibi.Order(**LMT))
    for change in ({"lmtPrice": 1.001}, {"parentId": 4711}, {"orderType": "FEELINGS"}):
        ib.placeOrder(apple, ibi.Order(**LMT | change))
    ib.client.cancelOrder(4712)
    ib.client.cancelOrder(used)
    until(lambda: wanted.keys() <= texts.keys())
    assert {code: texts[code] for code in wanted} == wanted


def test_an_empty_time_in_force_is_a_day(
    ib: ibi.IB, apple: Any, until: Any, texts: dict[int, str], wire: list[list[str]]
) -> None:
    trade = ib.placeOrder(apple, ibi.LimitOrder("BUY", 1, 1.0))
    until(lambda: trade.orderStatus.status == "Submitted")
    assert [entry.status for entry in trade.log] == ["PendingSubmit", "PreSubmitted", "Submitted"]
    assert not texts
    assert {message[18] for message in wire if message[0] == "5"} == {"DAY"}


def test_todays_gateways_say_that_a_preset_made_it_a_day(start: Any, connect: Any, until: Any) -> None:
    """ib_insync takes the notice for an error; the order lives on."""
    ib = connect(start(tif_notice=True))
    errors: dict[int, str] = {}
    ib.errorEvent += lambda request, code, text, contract: errors.update({code: text})
    trade = ib.placeOrder(ibi.Stock("AAPL", "SMART", "USD"), ibi.LimitOrder("BUY", 1, 1.0))
    until(lambda: trade.orderStatus.status == "Submitted")
    assert errors == {10349: "Order TIF was set to DAY based on order preset."}
    assert [entry.status for entry in trade.log] == ["PendingSubmit", "Cancelled", "PreSubmitted", "Submitted"]


def test_twenty_orders_work_on_one_side_of_a_contract(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, coke: Any, place: Any, until: Any, seen: Seen
) -> None:
    trades = [place(ibi.LimitOrder("BUY", 1, 1.0)) for _ in range(20)]
    full = place(ibi.LimitOrder("BUY", 1, 1.0))
    until(lambda: (full.order.orderId, 201) in seen)
    for order, contract in ((ibi.LimitOrder("SELL", 1, 999.0), apple), (ibi.LimitOrder("BUY", 1, 1.0), coke)):
        assert place(order, contract).orderStatus.status == "Submitted"
    ib.cancelOrder(trades[0].order)
    until(trades[0].isDone)
    assert place(ibi.LimitOrder("BUY", 1, 1.0)).orderStatus.status == "Submitted"
    assert simulator.control("status")["working_orders"] == 22


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"action": "SELL"}, 105),
        ({"orderType": "TRAIL", "auxPrice": 1.0}, 329),
        ({"tif": "GTC"}, 462),
        ({"totalQuantity": 900_000}, 201),
        ({"totalQuantity": 0}, 201),
        ({"lmtPrice": 1.001}, 110),
        ({"lmtPrice": 0.0}, 321),
    ],
)
def test_changes_that_are_refused_leave_the_order(
    ib: ibi.IB, apple: Any, place: Any, until: Any, seen: Seen, change: dict[str, Any], code: int
) -> None:
    trade = place(ibi.Order(**LMT))
    ib.client.placeOrder(trade.order.orderId, apple, ibi.Order(**LMT | change))
    until(lambda: (trade.order.orderId, code) in seen)
    (left,) = ib.reqAllOpenOrders()
    assert {name: getattr(left.order, name) for name in LMT} == LMT
    assert left.orderStatus.status == "Submitted"
    assert not ib.reqCompletedOrders(False)


def test_another_contract_under_a_working_id_is_refused(
    ib: ibi.IB, coke: Any, place: Any, until: Any, seen: Seen
) -> None:
    trade = place(ibi.Order(**LMT))
    ib.client.placeOrder(trade.order.orderId, coke, ibi.Order(**LMT))
    until(lambda: (trade.order.orderId, 105) in seen)


@pytest.mark.parametrize("change", [{"orderType": "MKT"}, {"lmtPrice": 999.0}, {"tif": "IOC", "lmtPrice": 999.0}])
def test_changes_that_fill_the_order(ib: ibi.IB, apple: Any, place: Any, until: Any, change: dict[str, Any]) -> None:
    trade = place(ibi.Order(**LMT))
    for name, value in change.items():
        setattr(trade.order, name, value)
    ib.placeOrder(apple, trade.order)
    until(trade.isDone)
    assert trade.orderStatus.status == "Filled"


def test_a_cancelled_order_cannot_be_placed_again(ib: ibi.IB, apple: Any, place: Any, until: Any, seen: Seen) -> None:
    trade = place(ibi.Order(**LMT))
    ib.cancelOrder(trade.order)
    until(trade.isDone)
    ib.client.placeOrder(trade.order.orderId, apple, ibi.Order(**LMT))
    until(lambda: (trade.order.orderId, 103) in seen)


def test_only_the_owner_changes_and_cancels(
    simulator: SimulatorHandle, ib: ibi.IB, apple: Any, place: Any, connect: Any, until: Any
) -> None:
    """Order ids are those of a client: another client's are other orders."""
    trade = place(ibi.Order(**LMT))
    other = connect(simulator, 2)
    errors: Seen = []
    other.errorEvent += lambda request, code, text, contract: errors.append((request, code))
    other.client.cancelOrder(trade.order.orderId)
    until(lambda: (trade.order.orderId, 10147) in errors)
    other.client.placeOrder(trade.order.orderId, apple, ibi.Order(**LMT | {"lmtPrice": 2.0}))
    until(lambda: len(other.reqAllOpenOrders()) == 2)
    assert sorted(item.order.lmtPrice for item in ib.reqAllOpenOrders()) == [1.0, 2.0]


# --- what-if ----------------------------------------------------------------------------------------------------------


def test_what_if_places_nothing(simulator: SimulatorHandle, ib: ibi.IB, apple: Any, quote: Any) -> None:
    before = {value.tag: value.value for value in ib.accountSummary()}
    state = ib.whatIfOrder(apple, ibi.MarketOrder("BUY", 100))
    worth = quote(apple).last * 100
    assert float(state.initMarginBefore) == 0
    assert float(state.initMarginAfter) == float(state.initMarginChange) == pytest.approx(worth / 4, abs=0.01)
    assert float(state.maintMarginChange) == pytest.approx(worth / 4, abs=0.01)
    assert float(state.equityWithLoanBefore) == float(before["EquityWithLoanValue"])
    assert float(state.equityWithLoanChange) == -1.0
    assert float(state.equityWithLoanAfter) == float(state.equityWithLoanBefore) - 1
    assert (state.commission, state.minCommission, state.maxCommission) == (1.0, 1.0, 1.0)
    assert (state.commissionCurrency, state.warningText, state.status) == ("USD", "", "PreSubmitted")
    assert simulator.control("status")["orders"] == 0
    assert not ib.reqAllOpenOrders()


def test_what_if_of_every_kind_of_order(ib: ibi.IB, apple: Any, quote: Any) -> None:
    last = quote(apple).last
    for order in (
        ibi.LimitOrder("SELL", 300, round(last, 2)),
        ibi.StopOrder("BUY", 300, round(last + 5, 2)),
        ibi.Order(action="SELL", totalQuantity=300, orderType="TRAIL", trailingPercent=5.0),
    ):
        assert ib.whatIfOrder(apple, order).commission == 1.5


def test_what_if_warns_of_a_closed_market(simulator: SimulatorHandle, ib: ibi.IB, apple: Any) -> None:
    simulator.control("clock", set="2026-11-21T16:00:00+00:00")
    state = ib.whatIfOrder(apple, ibi.MarketOrder("BUY", 100))
    assert state.warningText == (
        "Warning: Your order will not be placed at the exchange until 20261123 09:30:00 US/Eastern"
    )


def test_what_if_of_a_refused_order_says_why(ib: ibi.IB, apple: Any, until: Any, seen: Seen) -> None:
    ib.client.placeOrder(99, apple, ibi.LimitOrder("BUY", 1, 1.001, whatIf=True))
    until(lambda: (99, 110) in seen)


# --- several accounts -------------------------------------------------------------------------------------------------


def test_the_account_of_an_order_cannot_change_and_each_has_its_twenty(start: Any, connect: Any, until: Any) -> None:
    handle = start(account="DU1,DU2")
    ib = connect(handle, 1)
    apple = ib.qualifyContracts(ibi.Stock("AAPL", "SMART", "USD"))[0]
    errors: Seen = []
    ib.errorEvent += lambda request, code, text, contract: errors.append((request, code))
    orders = [ibi.Order(**LMT | {"account": account}) for account in ["DU1"] * 20 + ["DU2", "DU1"]]
    trades = [ib.placeOrder(apple, order) for order in orders]
    until(lambda: errors)
    assert errors == [(trades[-1].order.orderId, 201)]
    assert len(ib.reqAllOpenOrders()) == 21
    ib.client.placeOrder(trades[0].order.orderId, apple, ibi.Order(**LMT | {"account": "DU2"}))
    until(lambda: (trades[0].order.orderId, 105) in errors)
