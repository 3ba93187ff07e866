"""Any sequence of orders, changes, cancels, time and restarts leaves books that add up."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count, groupby
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_ibkr_plugin.simulator.account.commissions import order_commission
from airflow_ibkr_plugin.simulator.gateway import Gateway, Options
from airflow_ibkr_plugin.simulator.orders.book import MANUAL_CLIENT, Execution, Order
from airflow_ibkr_plugin.simulator.orders.checks import Refusal
from airflow_ibkr_plugin.simulator.orders.desk import Desk
from airflow_ibkr_plugin.simulator.orders.ticket import PLAIN

#: A Friday, 15:00 in New York: the close is near.
START = datetime(2026, 11, 20, 20, 0, tzinfo=UTC)
CONTRACTS = (265598, 8894)  # AAPL and KO
CLIENTS = (MANUAL_CLIENT, 1, 2)
#: Offsets from the last price, in cents.
AWAY = st.sampled_from([-20_000, -300, -100, -30, -5, 0, 5, 30, 100, 300, 20_000])
QUANTITY = st.sampled_from([1, 100, 5000, 7000, 12_000])


class Listener:
    """Hears what clients would hear; nothing may be said of an order once its end was told."""

    def __init__(self) -> None:
        self.ended: dict[int, str] = {}
        self.after_end: list[str] = []
        self.codes: Counter[int] = Counter()

    def order_changed(self, order: Order, execution: Execution | None = None) -> None:
        # A fill's commission is told with the same, last status.
        if order.perm_id in self.ended and not (execution is not None and self.ended[order.perm_id] == order.status):
            self.after_end.append(f"{order.perm_id} is {order.status} after {self.ended[order.perm_id]}")
        if not order.working:
            self.ended[order.perm_id] = order.status

    def executed(self, execution: Execution) -> None:
        if execution.perm_id in self.ended:
            self.after_end.append(f"{execution.perm_id} fills after its end")

    def commissioned(self, execution: Execution) -> None:
        pass

    def order_error(self, client_id: int, order_id: int, code: int, message: str) -> None:
        self.codes[code] += 1

    def bound(self, order: Order) -> None:
        assert order.order_id < 0

    def books_changed(self, con_id: int) -> None:
        pass


class Trading(RuleBasedStateMachine):
    """A gateway without sockets, and what is known of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.names = count(1)
        self.used: set[tuple[int, int]] = set()
        self.now = START
        self.open_gateway()

    def open_gateway(self) -> None:
        self.gateway = Gateway(Options(state=Path(self.folder.name, "state.db"), clock=self.now))
        self.gateway.clock.freeze()
        self.heard = Listener()
        self.desk = Desk(self.gateway, self.heard)

    def teardown(self) -> None:
        if self.gateway.store is not None:
            self.gateway.store.close()
        self.folder.cleanup()

    # --- what clients do ---------------------------------------------------------------------------

    def send(self, client: int, order_id: int, con_id: int, **fields: Any) -> Order | None:
        try:
            order = self.desk.place(client, order_id, self.gateway.instrument(con_id), PLAIN | fields)
        except Refusal:
            return None
        finally:
            self.gateway.commit()
        return order

    def terms(self, con_id: int, kind: str, action: str, away: int) -> dict[str, Any]:
        last = self.gateway.last_price(self.gateway.instrument(con_id))
        price = max(last + Decimal(away) / 100, Decimal("0.01"))
        aux = {"STP": price, "STP LMT": price, "TRAIL": Decimal(abs(away) + 5) / 100}.get(kind)
        limit = price if kind in ("LMT", "STP LMT") else None
        return {"action": action, "orderType": kind, "lmtPrice": limit, "auxPrice": aux}

    @rule(
        client=st.sampled_from(CLIENTS), con_id=st.sampled_from(CONTRACTS), away=AWAY, quantity=QUANTITY,
        kind=st.sampled_from(["MKT", "LMT", "STP", "STP LMT", "TRAIL"]), action=st.sampled_from(["BUY", "SELL"]),
        tif=st.sampled_from(["DAY", "GTC", "IOC"]), group=st.sampled_from(["", "", "a", "b"]),
        oca_type=st.sampled_from([1, 2, 3]), extended=st.booleans(),
    )  # fmt: skip
    def place(
        self, client: int, con_id: int, away: int, quantity: int, kind: str, action: str, tif: str, group: str,
        oca_type: int, extended: bool,
    ) -> None:  # fmt: skip
        order_id = self.gateway.book.next_id(client)
        order = self.send(
            client, order_id, con_id, quantity=Decimal(quantity), tif=tif, outsideRth=extended,
            ocaGroup=f"{group}{len(self.used) // 8}" if group else "", ocaType=oca_type,
            **self.terms(con_id, kind, action, away),
        )  # fmt: skip
        if order is not None:
            assert (client, order_id) not in self.used
            self.used.add((client, order_id))

    @rule(client=st.sampled_from(CLIENTS), con_id=st.sampled_from(CONTRACTS), entry=AWAY, quantity=QUANTITY,
          stop=st.sampled_from(["STP", "TRAIL"]), transmit=st.booleans())  # fmt: skip
    def bracket(self, client: int, con_id: int, entry: int, quantity: int, stop: str, transmit: bool) -> None:
        first = self.gateway.book.next_id(client)
        size = Decimal(quantity)
        family = [
            self.terms(con_id, "LMT", "BUY", entry),
            self.terms(con_id, "LMT", "SELL", entry + 40) | {"parentId": first},
            self.terms(con_id, stop, "SELL", entry - 40) | {"parentId": first},
        ]
        for number, terms in enumerate(family):
            last = number == len(family) - 1
            self.send(client, first + number, con_id, quantity=size, tif="GTC", transmit=transmit and last, **terms)

    @precondition(lambda self: self.gateway.book.working())
    @rule(data=st.data(), away=AWAY, quantity=QUANTITY)
    def modify(self, data: Any, away: int, quantity: int) -> None:
        order = data.draw(st.sampled_from(self.gateway.book.working()))
        if not order.order_id:
            return
        terms = self.terms(order.con_id, order.order_type, order.action, away)
        self.send(order.client_id, order.order_id, order.con_id, quantity=Decimal(quantity), tif=order.tif, **terms)

    @precondition(lambda self: self.gateway.book.working())
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        order = data.draw(st.sampled_from(self.gateway.book.working()))
        if order.order_id:
            self.desk.cancel(order.client_id, order.order_id)
        assert not order.working or not order.order_id

    @rule(con_id=st.sampled_from(CONTRACTS), away=AWAY, quantity=QUANTITY, bind=st.booleans())
    def manual(self, con_id: int, away: int, quantity: int, bind: bool) -> None:
        self.desk.auto_bind = bind
        try:
            terms = self.terms(con_id, "LMT", "BUY", away)
            self.desk.place_manual(self.gateway.instrument(con_id), terms | {"quantity": Decimal(quantity)})
        except Refusal:
            pass
        self.gateway.commit()

    @rule()
    def cancel_all(self) -> None:
        self.desk.cancel_all()
        assert not self.gateway.book.working()

    # --- time --------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.25, 1, 7, 600, 3600, 20_000, 86_400]))
    def pass_time(self, seconds: float) -> None:
        self.gateway.clock.advance(seconds)
        self.gateway.save_clock()
        self.desk.step()
        self.gateway.commit()

    @rule()
    def restart(self) -> None:
        """What was acknowledged is there again, and goes on as it would have."""
        self.desk.step()
        before, fills = books(self.gateway)
        self.now = self.gateway.clock.now()
        ids = {client: self.gateway.book.next_id(client) for client in CLIENTS}
        assert self.gateway.store is not None
        self.gateway.store.close()
        self.open_gateway()
        self.desk.step()
        after, again = books(self.gateway)
        assert (after, again) == (before, fills)
        assert not self.heard.ended
        # Ids of what was never transmitted are forgotten with it.
        for client in CLIENTS:
            assert (
                max((order_id for owner, order_id in self.used if owner == client), default=0)
                < (self.gateway.book.next_id(client))
                <= ids[client]
            )

    # --- what always holds -------------------------------------------------------------------------

    @invariant()
    def nothing_is_said_after_the_end(self) -> None:
        assert not self.heard.after_end

    @invariant()
    def executions_add_up(self) -> None:
        made: dict[int, list[Execution]] = {}
        for execution in all_executions(self.gateway):
            made.setdefault(execution.perm_id, []).append(execution)
        ids = [execution.exec_id for fills in made.values() for execution in fills]
        assert len(ids) == len(set(ids)) == self.gateway.book.execution_count
        for order in self.gateway.book.all_orders():
            fills = made.get(order.perm_id, [])
            assert order.filled == sum((fill.shares for fill in fills), Decimal(0))
            assert 0 <= order.filled <= order.quantity
            if fills:
                value = sum((fill.shares * fill.price for fill in fills), Decimal(0))
                assert abs(order.avg_price - value / order.filled) < Decimal("1e-20")
                assert fills[-1].cumulative == order.filled
                assert fills[-1].price == order.last_price
                assert [fill.time for fill in fills] == sorted(fill.time for fill in fills)
                instrument = self.gateway.instrument(order.con_id)
                for _, of_day in groupby(fills, key=lambda fill: fill.day):
                    day = list(of_day)
                    shares = sum(fill.shares for fill in day)
                    average = sum((fill.shares * fill.price for fill in day), Decimal(0)) / shares
                    due, _ = order_commission(self.gateway, instrument, Decimal(shares), average)
                    assert sum(fill.commission for fill in day) == due

    @invariant()
    def states_are_sound(self) -> None:
        working = {order.perm_id for order in self.gateway.book.working()}
        sides: Counter[tuple[int, str]] = Counter()
        for order in self.gateway.book.all_orders():
            assert order.working == (order.perm_id in working) == (order.ended is None)
            assert (order.status == "Filled") == (order.remaining == 0 and order.status != "Inactive")
            sides[order.con_id, order.action] += order.working
        for (con_id, action), number in sides.items():
            assert self.gateway.book.working_count(self.gateway.account, con_id, action) == number <= 20

    @invariant()
    def children_hang_on_working_parents(self) -> None:
        orders = {order.perm_id: order for order in self.gateway.book.all_orders()}
        for order in self.gateway.book.working():
            if order.held:
                assert orders[order.parent_perm_id].working
                assert not order.filled
            elif order.parent_perm_id:
                assert orders[order.parent_perm_id].filled

    @invariant()
    def one_of_a_group_fills(self) -> None:
        groups: dict[tuple[int, str], list[Order]] = {}
        for order in self.gateway.book.all_orders():
            if order.oca_group:
                groups.setdefault((order.client_id, order.oca_group), []).append(order)
        for members in groups.values():
            done = [order for order in members if order.status == "Filled"]
            assert len(done) <= 1
            if done:
                assert not any(order.working for order in members)

    @invariant()
    def the_account_holds_what_was_traded(self) -> None:
        held: Counter[int] = Counter()
        for execution in all_executions(self.gateway):
            held[execution.con_id] += execution.signed
        for con_id, position in self.gateway.portfolio_of("").positions.items():
            assert position.quantity == held[con_id]


def all_executions(gateway: Gateway) -> list[Execution]:
    """Every fill since the start, oldest day first."""
    days = range(START.date().toordinal(), gateway.today.toordinal() + 1)
    return [execution for day in days for execution in gateway.book.executions(date.fromordinal(day))]


def books(gateway: Gateway) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All that a gateway knows of orders and fills."""
    orders = [asdict(order) for order in gateway.book.all_orders()]
    fills = [asdict(execution) for execution in all_executions(gateway)]
    return sorted(orders, key=lambda order: order["perm_id"]), fills


TestTrading = Trading.TestCase
TestTrading.settings = settings(max_examples=40, stateful_step_count=30, suppress_health_check=list(HealthCheck))
