"""What goes wrong between an order and its books, over sockets, tried again as Airflow would.

Each fault is the simulator's (docs/simulator-faults.md). In the end there is one order at the broker at most, the books
are the broker's, and no order is taken for ended before the broker says so. Where a process dies, see tests/crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker import library
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import (
    BrokerError,
    BrokerTimeout,
    ClientIdInUse,
    Family,
    GatewayUnavailable,
    SessionInvalid,
)
from airflow_ibkr_plugin.execution import recover, settle
from airflow_ibkr_plugin.execution.outcome import OrderOutcome
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.trading.instruments import Instrument, InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side

ACCOUNT = "DU1234567"
CLOCK = "2026-03-02T15:00:00+00:00"  # a Monday, half an hour into the session
TRIES = 4


@dataclass
class Floor:
    """Orders on one simulated gateway, entered in one trading database."""

    gateway: Any
    spec: GatewaySpec
    database: Database
    books: Any
    errors: list[BrokerError] = field(default_factory=list)

    def request(self, symbol: str = "SPY", quantity: int = 10, **changes: Any) -> OrderRequest:
        instrument = self.instrument(symbol)
        fields: dict[str, Any] = {
            "key": IntentKey(
                installation="test", dag_id="demo", run_id="run-1", task_id="order", con_id=instrument.con_id
            ),
            "strategy": "demo",
            "source": "simulator:ibkr_default",
            "account": ACCOUNT,
            "mode": "paper",
            "instrument": instrument,
            "ticket": OrderTicket(side=Side.BUY, quantity=Decimal(quantity)),
            "wait_seconds": 8.0,
        }
        return OrderRequest(**fields | changes)

    def instrument(self, symbol: str) -> Instrument:
        with leased_session(self.spec, self.database, owner="resolve") as session:
            return session.resolve(InstrumentSpec.parse(symbol))

    def resting(self, **changes: Any) -> OrderRequest:
        """A limit far below the market."""
        ticket = OrderTicket(
            side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal("1.00")
        )
        return self.request(**{"ticket": ticket, "wait_seconds": 0.5} | changes)

    def attempt(self, request: OrderRequest) -> OrderOutcome:
        """One try of the task."""
        with leased_session(self.spec, self.database, owner="try") as session:
            return execute(session, self.database, request, owner="t")

    def place(self, request: OrderRequest) -> OrderOutcome:
        """Tries until one returns. Errors of a family that Airflow does not retry go on."""
        while True:
            try:
                return self.attempt(request)
            except BrokerError as error:
                self.errors.append(error)
                if error.family not in (Family.RETRY, Family.RETRY_AFTER) or len(self.errors) == TRIES:
                    raise

    def orders(self, request: OrderRequest) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.gateway.control("orders", order_ref=request.key.order_ref)["orders"]
        return found

    def check(self, request: OrderRequest, outcome: OrderOutcome, state: IntentState, filled: int) -> None:
        """One order, the same in the books as at the broker."""
        self.gateway.control("disarm")
        assert (outcome.state, outcome.filled) == (state, filled)
        (order,) = self.orders(request)
        assert (order["status"].lower(), Decimal(order["filled"])) == (str(state), filled)
        with leased_session(self.spec, self.database, owner="check") as session:
            executions = session.executions()
            held = {position.con_id: position.quantity for position in session.positions()}
        assert held.get(request.instrument.con_id, 0) == self.books.position() == filled
        with self.database.read() as transaction:
            (row,) = Orders(transaction).by_order_ref(request.key.order_ref)
            booked = Executions(transaction).for_intent(outcome.intent_id)
        assert (row.status, row.filled) == (order["status"], filled)
        assert {(fill.exec_id, fill.quantity, fill.price, fill.commission) for fill in booked} == {
            (fill.exec_id, fill.quantity, fill.price, fill.commission) for fill in executions
        }
        moves = self.books.moves(outcome.intent_id)
        assert moves[-1] == state
        assert not {"cancelled", "rejected", "denied", "abandoned"}.intersection(moves[:-1])


@pytest.fixture
def gateway() -> Iterator[Any]:
    with start_simulator(seed=7, clock=datetime.fromisoformat(CLOCK), account=ACCOUNT, tif_notice=True) as simulator:
        yield simulator


@pytest.fixture
def floor(gateway: Any, database: Database, books: Any, monkeypatch: pytest.MonkeyPatch) -> Floor:
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(settle, "CANCEL_SECONDS", 3.0)
    monkeypatch.setattr(settle, "_SLICE_SECONDS", 0.5)
    spec = GatewaySpec(
        conn_id="ibkr_default",
        host="127.0.0.1",
        port=gateway.port,
        client_ids=range(10, 20),
        account=ACCOUNT,
        timeout=1.0,
    )
    return Floor(gateway, spec, database, books)


@pytest.fixture
def just_before(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Something happens once, right before a session's method is called for the n-th time."""

    def meddle(method: str, act: Callable[[BrokerSession], object], *, call: int = 1) -> None:
        original, calls = getattr(BrokerSession, method), 0

        def wrapped(session: BrokerSession, *arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                act(session)
            return original(session, *arguments, **named)

        monkeypatch.setattr(BrokerSession, method, wrapped)

    return meddle


FAULTS: dict[str, tuple[dict[str, Any], ...]] = {
    "the acknowledgement is missing": ({"cmd": "missing_acknowledgement"},),
    "the order is lost": ({"cmd": "lose_order"},),
    "cut before it is taken": ({"cmd": "drop_before_accept"},),
    "cut after it is taken": ({"cmd": "drop_after_accept"},),
    "cut twice before it is taken": ({"cmd": "drop_before_accept", "count": 2},),
    "statuses come twice": ({"cmd": "duplicate_status", "count": 9},),
    "fill before status": ({"cmd": "reorder", "how": "fill_before_status"},),
    "statuses backwards": ({"cmd": "reorder", "how": "status_backwards"},),
    "commission before execution": ({"cmd": "reorder", "how": "commission_before_execution"},),
    "a second permId": ({"cmd": "second_perm_id"},),
    "a fill without orderRef": ({"cmd": "unnamed_fill"},),
    "a fill without orderRef while nobody listens": ({"cmd": "unnamed_fill"}, {"cmd": "drop_after_accept"}),
    "a second permId while nobody listens": ({"cmd": "second_perm_id"}, {"cmd": "drop_after_accept"}),
    "ids go back": ({"cmd": "roll_back_ids", "by": 5},),
    "ids go back after a cut": ({"cmd": "drop_after_accept"}, {"cmd": "roll_back_ids", "by": 5, "count": 2}),
    "too many messages": ({"cmd": "message_rate"},),
    "the client id stays in use": ({"cmd": "keep_client_id", "seconds": 30}, {"cmd": "drop_after_accept"}),
} | {
    f"late {name}{'' if keep_order else ', overtaken'}": (
        {"cmd": "delay", "messages": [name], "seconds": 0.6, "count": 4, "keep_order": keep_order},
    )
    for name in ("openOrder", "orderStatus", "execDetails", "commissionReport")
    for keep_order in (True, False)
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_order_and_books_as_the_brokers_whatever_goes_wrong(
    floor: Floor, just_before: Callable[..., None], name: str
) -> None:
    request = floor.request()

    def arm(_: BrokerSession) -> None:
        for fault in FAULTS[name]:
            floor.gateway.control(**fault)

    just_before("account_snapshot", arm)
    floor.check(request, floor.place(request), IntentState.FILLED, 10)


@pytest.mark.parametrize("restored", ["restored", "restored_data_lost"])
def test_connectivity_lost_as_the_order_goes_out(floor: Floor, just_before: Callable[..., None], restored: str) -> None:
    request = floor.request()
    just_before("place", lambda _: floor.gateway.control("connectivity", state="lost"))
    with pytest.raises(BrokerTimeout):
        floor.attempt(request)
    assert floor.books.intent(request).state is IntentState.AMBIGUOUS
    with pytest.raises(SessionInvalid):
        floor.attempt(request)
    floor.gateway.control("connectivity", state=restored)
    floor.check(request, floor.place(request), IntentState.FILLED, 10)


@pytest.mark.parametrize("question", [1, 2, 3])
def test_a_gateway_without_a_session_does_not_know_that_an_order_is_absent(
    floor: Floor, just_before: Callable[..., None], question: int
) -> None:
    request = floor.request()
    floor.gateway.control("lose_order")
    with pytest.raises(BrokerTimeout):
        floor.attempt(request)
    just_before("find_by_ref", lambda _: floor.gateway.control("connectivity", state="lost"), call=question)
    with pytest.raises(SessionInvalid):
        floor.attempt(request)
    assert floor.books.intent(request).state is IntentState.AMBIGUOUS
    assert not floor.orders(request)
    floor.gateway.control("connectivity", state="restored")
    floor.check(request, floor.place(request), IntentState.FILLED, 10)


def test_an_order_that_is_listed_after_the_end_of_the_list_is_not_sent_again(
    floor: Floor, just_before: Callable[..., None]
) -> None:
    request = floor.resting(wait_seconds=2.0)
    floor.gateway.control("drop_after_accept")
    with pytest.raises(GatewayUnavailable):
        floor.attempt(request)
    late = {"messages": ["openOrder", "orderStatus"], "seconds": 0.2, "keep_order": False}
    just_before("find_by_ref", lambda _: floor.gateway.control("delay", count=8, **late))
    floor.check(request, floor.place(request), IntentState.CANCELLED, 0)


def test_a_restart_while_the_order_works(floor: Floor, just_before: Callable[..., None]) -> None:
    request = floor.resting()
    just_before("wait_terminal", lambda _: floor.gateway.control("restart", seconds=1))
    with pytest.raises(GatewayUnavailable):
        floor.attempt(request)
    assert floor.books.intent(request).state is IntentState.WORKING
    with pytest.raises(GatewayUnavailable):  # nobody listens yet
        floor.attempt(request)
    while floor.gateway.control("status")["login"] != "valid":
        pass
    floor.check(request, floor.place(request), IntentState.CANCELLED, 0)


def test_cut_off_while_a_cancel_is_under_way(floor: Floor, just_before: Callable[..., None]) -> None:
    request = floor.resting()
    just_before("cancel", lambda _: floor.gateway.control("drop"))
    with pytest.raises(GatewayUnavailable):
        floor.attempt(request)
    assert floor.books.intent(request).state is IntentState.CANCELLING
    floor.check(request, floor.place(request), IntentState.CANCELLED, 0)


def test_the_owner_of_an_order_is_kept_by_the_gateway_for_a_while(
    floor: Floor, just_before: Callable[..., None]
) -> None:
    """Only the client id that placed it can cancel it."""
    request = floor.resting()
    floor.gateway.control("keep_client_id", seconds=1)
    just_before("wait_terminal", lambda session: floor.gateway.control("drop", client=session.client_id))
    with pytest.raises(GatewayUnavailable):
        floor.attempt(request)
    with pytest.raises(ClientIdInUse):
        floor.attempt(request)
    assert [order["status"] for order in floor.orders(request)] == ["Submitted"]
    while True:
        try:
            outcome = floor.attempt(request)
            break
        except ClientIdInUse:
            continue
    floor.check(request, outcome, IntentState.CANCELLED, 0)


def test_cancelled_by_hand(floor: Floor, just_before: Callable[..., None]) -> None:
    """As TWS does it: not by the client that owns the order."""
    request = floor.resting(wait_seconds=8.0)

    async def cancel_all() -> None:
        other = library.load().IB()
        await other.connectAsync(floor.gateway.host, floor.gateway.port, clientId=77)
        other.reqGlobalCancel()
        await other.reqCurrentTimeAsync()
        other.disconnect()

    def by_hand(_: BrokerSession) -> None:
        with ThreadPoolExecutor(1) as thread:  # with an event loop of its own
            thread.submit(asyncio.run, cancel_all()).result()

    just_before("wait_terminal", by_hand)
    outcome = floor.place(request)
    assert not floor.errors
    assert "not filled within" not in outcome.reason
    floor.check(request, outcome, IntentState.CANCELLED, 0)


def test_an_order_by_hand_is_not_ours(floor: Floor, just_before: Callable[..., None]) -> None:
    request = floor.request()
    just_before("place", lambda _: floor.gateway.control("manual_order", symbol="SPY", action="BUY", quantity=5))
    outcome = floor.place(request)
    assert (outcome.state, outcome.filled) == (IntentState.FILLED, 10)
    assert floor.books.position() == 10
    with leased_session(floor.spec, floor.database, owner="check") as session:
        assert [position.quantity for position in session.positions()] == [15]


def test_what_filled_before_the_time_out_is_kept(floor: Floor) -> None:
    request = floor.request("KO", 12_000, wait_seconds=0.5)
    floor.gateway.control("clock", freeze=True)  # a second does not offer so many
    outcome = floor.place(request)
    assert 5_000 <= outcome.filled < 12_000
    floor.check(request, outcome, IntentState.CANCELLED, int(outcome.filled))


def test_fills_while_nobody_listens(floor: Floor, just_before: Callable[..., None]) -> None:
    request = floor.request("KO", 12_000)
    floor.gateway.control("clock", freeze=True)
    floor.gateway.control("unnamed_fill", count=2)

    def cut(_: BrokerSession) -> None:
        floor.gateway.control("drop")
        floor.gateway.control("clock", advance=5)

    just_before("wait_terminal", cut)
    outcome = floor.place(request)
    assert floor.books.moves(outcome.intent_id) == ["reserved", "sending", "working", "filled"]
    floor.check(request, outcome, IntentState.FILLED, 12_000)


# Notices, an order held until the market opens, a rejection, a cancel, and a number that is in no table.
CODES = [2109, 10349, 399, 201, 202, 10000]


@pytest.mark.parametrize("code", CODES)
def test_an_error_with_the_id_of_a_working_order_does_not_end_it(
    floor: Floor, just_before: Callable[..., None], code: int
) -> None:
    request = floor.request("KO", 12_000)
    floor.gateway.control("clock", freeze=True)

    def err(session: BrokerSession) -> None:
        (order,) = floor.orders(request)
        where = {"client": session.client_id, "id": order["order_id"]}
        floor.gateway.control("error", code=code, message="Order rejected - reason: it was not", **where)

    just_before("wait_terminal", err)
    just_before("wait_terminal", lambda _: floor.gateway.control("clock", advance=2), call=2)
    floor.check(request, floor.place(request), IntentState.FILLED, 12_000)


@pytest.mark.parametrize("code", CODES)
def test_an_error_ahead_of_the_acknowledgement_does_not_end_the_order(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    request = floor.request()
    client_class = library.load().Client
    place_order = client_class.placeOrder

    def placed(client: Any, order_id: int, contract: Any, order: Any) -> None:
        place_order(client, order_id, contract, order)
        while not floor.orders(request):
            pass
        where = {"client": client.clientId, "id": order_id}
        floor.gateway.control("error", code=code, message="Order rejected - reason: it was not", **where)

    monkeypatch.setattr(client_class, "placeOrder", placed)
    floor.gateway.control("delay", messages=["openOrder", "orderStatus"], seconds=0.5, count=4, keep_order=False)
    floor.check(request, floor.place(request), IntentState.FILLED, 10)
