"""What became of a case, by the broker and by our books."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from cases import Case
from floor import Floor
from sqlalchemy import select

from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import ExecutionRow
from airflow_ibkr_plugin.store.orders import Orders
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.orders import TERMINAL, IntentState

DUPLICATE, LOST, AMBIGUOUS, UNFINISHED = "duplicates", "lost", "ambiguous", "unfinished"
#: What must never be.
FAILURES = (DUPLICATE, LOST, UNFINISHED)


@dataclass
class Table:
    """Counts by fault."""

    rows: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    columns = ("cases", "killed", DUPLICATE, LOST, AMBIGUOUS, UNFINISHED)

    def add(self, case: Case, killed: int, found: str | None) -> None:
        row = self.rows[case.fault.name]
        row["cases"] += 1
        row["killed"] += killed > 0
        if found:
            row[found] += 1

    @property
    def total(self) -> Counter[str]:
        return sum(self.rows.values(), Counter())

    def __str__(self) -> str:
        lines = [("fault", *self.columns)]
        lines += [(name, *(str(row[c]) for c in self.columns)) for name, row in sorted(self.rows.items())]
        lines.append(("all", *(str(self.total[c]) for c in self.columns)))
        width = max(len(line[0]) for line in lines)
        return "\n".join(f"{first:{width}}" + "".join(f"{cell:>12}" for cell in rest) for first, *rest in lines)


def judge(floor: Floor, case: Case) -> tuple[str | None, str]:
    """What is wrong with a case, None where nothing is, and the facts."""
    order_ref = floor.order_ref(case)
    at_broker = floor.gateway.control(cmd="orders", order_ref=order_ref)["orders"]
    with floor.database.read() as transaction:
        intent = Intents(transaction).by_order_ref(order_ref)
        booked = Orders(transaction).by_order_ref(order_ref)
        fills = Executions(transaction).for_intent(intent.id) if intent else []
    ours = sorted((row.perm_id or 0, row.status, row.filled) for row in booked)
    facts = f"intent {intent and intent.state} ({intent and intent.reason}), booked {ours}, broker {at_broker}"
    if len(at_broker) > 1:
        return DUPLICATE, facts
    if intent is None:
        return (LOST if at_broker else UNFINISHED), facts
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


def compare_books(floor: Floor) -> list[str]:
    """Where all our executions and positions differ from the broker's."""
    told: dict[str, Any] = floor.told_by_broker()
    with floor.database.read() as transaction:
        executions = {
            row.exec_id: tuple(row_numbers)
            for row in transaction.scalars(select(ExecutionRow))
            if (row_numbers := _numbers(row))
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


def _numbers(row: ExecutionRow) -> tuple[Decimal | None, ...]:
    return row.quantity, row.price, row.commission
