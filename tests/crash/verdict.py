"""What became of a case, by the broker and by our books."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from gateway import Gateway
from sqlalchemy import select

from airflow_ibkr_plugin.errors import Family
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import ExecutionRow
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.brackets import is_stop
from airflow_ibkr_plugin.trading.orders import TERMINAL, IntentState

DUPLICATE, LOST, AMBIGUOUS, UNFINISHED, BARE = "duplicates", "lost", "ambiguous", "unfinished", "bare"
#: What must never be.
FAILURES = (DUPLICATE, LOST, UNFINISHED, BARE)


@dataclass(frozen=True)
class Result:
    """What became of a case.

    :param row: of the table. :param killed: how many tries were. :param placed: whether the broker has an order.
    :param text: what is needed to look at it, where something is `found`.
    """

    row: str
    killed: int
    placed: bool
    found: str | None
    text: str


@dataclass
class Table:
    """Counts by fault, or by what else was done."""

    rows: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    columns = ("cases", "killed", "placed", DUPLICATE, LOST, AMBIGUOUS, UNFINISHED, BARE)

    def add(self, result: Result) -> None:
        row = self.rows[result.row]
        row["cases"] += 1
        row["killed"] += result.killed > 0
        row["placed"] += result.placed
        if result.found:
            row[result.found] += 1

    @property
    def total(self) -> Counter[str]:
        return sum(self.rows.values(), Counter())

    def summary(self) -> str:
        """One line: cases, and what became of them."""
        total = self.total
        found = (DUPLICATE, LOST, AMBIGUOUS, UNFINISHED, BARE)
        return f"{total['cases']} cases: " + ", ".join(f"{total[name]} {name}" for name in found)

    def __str__(self) -> str:
        lines = [("fault", *self.columns)]
        lines += [(name, *(str(row[c]) for c in self.columns)) for name, row in sorted(self.rows.items())]
        lines.append(("all", *(str(self.total[c]) for c in self.columns)))
        width = max(len(line[0]) for line in lines)
        return "\n".join(f"{first:{width}}" + "".join(f"{cell:>12}" for cell in rest) for first, *rest in lines)


def judge(database: Database, gateway: Gateway, order_ref: str) -> tuple[str | None, str]:
    """What is wrong with an intent's order, None where nothing is, and the facts."""
    at_broker = gateway.orders(order_ref)
    with database.read() as transaction:
        intent = Intents(transaction).by_order_ref(order_ref)
        booked = Orders(transaction).by_order_ref(order_ref)
        fills = Executions(transaction).for_intent(intent.id) if intent else []
    ours = sorted((row.perm_id or 0, row.status, row.filled) for row in booked)
    facts = f"intent {intent and intent.state} ({intent and intent.reason}), booked {ours}, broker {at_broker}"
    if len(at_broker) > 1:
        return DUPLICATE, facts
    if intent is None:
        return (LOST if at_broker else UNFINISHED), facts
    if not at_broker and intent.state is not IntentState.AMBIGUOUS:
        return UNFINISHED, facts  # nothing here keeps an order from being sent in the end
    if intent.state not in TERMINAL:
        return (AMBIGUOUS if intent.state is IntentState.AMBIGUOUS else UNFINISHED), facts
    theirs = [(order["status"], Decimal(order["filled"])) for order in at_broker]
    if [(status, filled) for _, status, filled in ours] != theirs:
        return LOST, facts
    if sum((fill.quantity for fill in fills), Decimal(0)) != sum((filled for _, filled in theirs), Decimal(0)):
        return LOST, facts
    if theirs and intent.state != theirs[0][0].lower():
        return LOST, facts
    return None, facts


def judge_exits(database: Database, gateway: Gateway, order_ref: str) -> tuple[str | None, str]:
    """What is wrong with the exits of a bracket whose task has ended well, and the facts.

    What its entry has filled and its exits have not, one stop at the broker is for, and no exit is for more.
    """
    with database.read() as transaction:
        entry = Intents(transaction).by_order_ref(order_ref)
        assert entry is not None
        exits = {row: gateway.orders(row.order_ref) for row in Units(transaction).exits(entry.id)}
    at_broker = gateway.orders(order_ref)
    facts = f"entry {at_broker}, " + ", ".join(f"{row.leg} {row.state} {orders}" for row, orders in exits.items())
    if any(len(orders) > 1 for orders in exits.values()):
        return DUPLICATE, facts
    held = _filled(at_broker) - sum((_filled(orders) for orders in exits.values()), Decimal(0))
    works = {row: _working(orders) for row, orders in exits.items()}
    stops = [quantity for row, quantity in works.items() if quantity and is_stop(row.leg)]
    others = [quantity for row, quantity in works.items() if quantity and not is_stop(row.leg)]
    if stops != ([held] if held else []) or any(quantity > held for quantity in others):
        return BARE, facts
    for row, quantity in works.items():
        if row.state is not IntentState.WORKING if quantity else row.state not in TERMINAL:
            return LOST, facts
    return None, facts


def _filled(orders: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(order["filled"]) for order in orders), Decimal(0))


def _working(orders: list[dict[str, Any]]) -> Decimal:
    alive = [order for order in orders if order["status"] not in ("Filled", "Cancelled", "Inactive")]
    return sum((Decimal(order["quantity"]) - Decimal(order["filled"]) for order in alive), Decimal(0))


def refused(database: Database, gateway: Gateway, order_ref: str, told: dict[str, Any]) -> bool:
    """Whether it was denied, or the task failed for good before anything was sent; the books say the same."""
    with database.read() as transaction:
        intent = Intents(transaction).by_order_ref(order_ref)
    if gateway.orders(order_ref):
        return False
    if intent is not None and intent.state is IntentState.DENIED:
        return True
    nothing = intent is None or intent.state in (IntentState.DECIDED, IntentState.RESERVED)
    return nothing and told.get("family") in (Family.FATAL, Family.NEEDS_HUMAN)


def compare_books(database: Database, told: dict[str, Any], since: datetime) -> list[str]:
    """Where the executions that we booked of a day, and all our positions, differ from the broker's.

    :param told: by :func:`floor.ask_books`. :param since: when the broker's day began.
    """
    with database.read() as transaction:
        executions: dict[str, tuple[Decimal | None, ...]] = {
            row.exec_id: (row.quantity, row.price, row.commission)
            for row in transaction.scalars(select(ExecutionRow).where(ExecutionRow.time >= since))
        }
        positions: defaultdict[int, Decimal] = defaultdict(Decimal)
        for row in Positions(transaction).list():
            positions[row.con_id] += row.quantity
    theirs = {exec_id: tuple(map(Decimal, numbers)) for exec_id, numbers in told["executions"].items()}
    held = {int(con_id): Decimal(quantity) for con_id, quantity in told["positions"].items()}
    faults = [
        f"execution {e}: {executions.get(e)}, broker {theirs.get(e)}"
        for e in sorted(executions.keys() | theirs.keys())
        if executions.get(e) != theirs.get(e)
    ]
    faults += [
        f"position {c}: {positions[c]}, broker {held.get(c, Decimal(0))}"
        for c in sorted(positions.keys() | held.keys())
        if positions[c] != held.get(c, Decimal(0))
    ]
    return faults
