"""Any history of fills, corrections and trades taken back, imported in any order: the books are what stands."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.execution.flex import import_statement
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.holdings import Holding
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import ExecutionRow, OrderIntent, PositionRow
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import Execution, IntentKey, OrderType, Side, TimeInForce

ACCOUNT, SOURCE, SPY = "DU1234567", "simulator:ibkr_default", 756733
ZERO, CENT = Decimal(0), Decimal("0.01")


@dataclass
class Ledger:
    """What IBKR wrote, a chunk for each day, and what stands of it."""

    flex: Any
    chunks: list[list[str]] = field(default_factory=lambda: [[]])
    original: list[Execution] = field(default_factory=list)
    standing: dict[str, tuple[Execution, Decimal]] = field(default_factory=dict)

    def fill(self, order: int, quantity: int, paid: int) -> None:
        number = len(self.original)
        side = Side.BUY if order == 0 else Side.SELL
        made = Execution(
            exec_id=f"{number:04}.{order}.01",
            order_ref=REFS[order],
            account=ACCOUNT,
            con_id=SPY,
            symbol="SPY",
            side=side,
            quantity=Decimal(quantity),
            price=Decimal(100) + number,
            time=datetime(2026, 3, 2, 15, number, tzinfo=UTC),
            perm_id=900 + order,
            order_id=0,
            client_id=-1,
            commission=paid * CENT,
            commission_currency="USD",
        )
        self.original.append(made)
        self.stand(made, made.commission or ZERO)

    def stand(self, made: Execution, total: Decimal) -> None:
        self.chunks[-1].append(self.flex.trade(made))
        self.standing[made.exec_id.rpartition(".")[0]] = (made, total)

    def take_back(self, name: str, refund: bool, anew: str, change: int) -> None:
        """By a row, with the trade booked anew behind it or not; or corrected without such a row."""
        known, total = self.standing.pop(name)
        fill, version = name, int(known.exec_id.rpartition(".")[2])
        given_back = total if refund or anew == "" else ZERO
        if anew != "bare":
            self.chunks[-1].append(self.flex.cancel(known, given_back))
        if anew == "":
            return
        paid = total if refund else ZERO if anew == "same" else change * CENT
        later = replace(known, commission=paid)
        if anew != "same":
            later = replace(later, exec_id=f"{fill}.{version + 1:02}")
        if anew in ("corrected", "bare"):
            later = replace(later, quantity=known.quantity + 1 + change, price=known.price + 50)
        self.stand(later, paid if anew == "bare" else total - given_back + paid)


REFS: dict[int, str] = {}
FILL = st.tuples(st.just("fill"), st.integers(0, 1), st.integers(1, 9), st.integers(0, 200))
ANEW = ["", "", "same", "next", "corrected", "bare"]
BACK = st.tuples(st.just("back"), st.integers(0, 9), st.booleans(), st.sampled_from(ANEW), st.integers(0, 5))
NEXT = st.tuples(st.just("next day"))


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Database]:
    """A trading database with an order of each of two strategies."""
    copy = shutil.copy(migrated_sqlite, tmp_path_factory.mktemp("taken"))
    database = Database(f"sqlite:///{copy}")
    with database.write() as session:
        for number, strategy in enumerate(("one", "two")):
            key = IntentKey(installation="t", dag_id=strategy, run_id="r", task_id="o", con_id=SPY)
            REFS[number] = key.order_ref
            row, _ = Intents(session).get_or_create(
                key,
                strategy=strategy,
                source=SOURCE,
                account=ACCOUNT,
                mode="paper",
                symbol="SPY",
                instrument=Instrument(symbol="SPY", con_id=SPY, min_tick=CENT).to_dict(),
                side=Side.BUY if number == 0 else Side.SELL,
                quantity=Decimal(1000),
                requested_quantity=Decimal(1000),
                order_type=OrderType.MARKET,
                tif=TimeInForce.DAY,
                currency="USD",
                created_at=datetime(2026, 3, 2, tzinfo=UTC),
            )
            row.perm_id = 900 + number
    yield database
    database.dispose()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_was_taken_back_the_books_are_what_stands(
    ordered: Database, tmp_path: Path, flex: Any, data: st.DataObject
) -> None:
    with ordered.write() as session:
        for model in (PositionRow, ExecutionRow):
            session.query(model).delete()
    ledger = Ledger(flex)

    def book(rows: Sequence[str], days: int) -> None:
        import_statement(ordered, flex.read(tmp_path / "flex.xml", rows, days))

    for what, *given_ in data.draw(st.lists(st.one_of(FILL, FILL, BACK, BACK, NEXT), max_size=12), label="history"):
        if what == "fill":
            ledger.fill(*given_)
        elif what == "back" and ledger.standing:
            which, *how = given_
            ledger.take_back(sorted(ledger.standing)[which % len(ledger.standing)], *how)
        elif what == "next day":
            ledger.chunks.append([])
    for fill in data.draw(st.lists(st.sampled_from(ledger.original), unique=True) if ledger.original else st.just([])):
        _book(ordered, fill)  # told by the gateway on the day itself
    numbers = range(len(ledger.chunks))
    for number in data.draw(st.lists(st.sampled_from(numbers), max_size=4), label="imported first, in any order"):
        book(ledger.chunks[number], number)
    if data.draw(st.booleans(), label="as one file"):
        book([row for chunk in ledger.chunks for row in chunk], len(ledger.chunks))
    else:
        for number in numbers:
            book(ledger.chunks[number], number)
    expected = _recomputed(ledger)
    assert _what_counts(ordered) == expected
    for number in data.draw(st.permutations(numbers), label="once more"):
        book(ledger.chunks[number], number)
        assert _what_counts(ordered) == expected


def _book(database: Database, fill: Execution) -> None:
    with database.write() as session:
        intent = Intents(session).by_order_ref(fill.order_ref)
        assert intent is not None
        row, _ = Executions(session).record(SOURCE, fill, intent, fill.time)
        Positions(session).apply(row, intent.strategy, at=fill.time)


def _what_counts(database: Database) -> Any:
    """By strategy: its position, what is filled of its order, and what was paid."""
    with database.read() as session:
        assert replay(session).mismatches == ()
        positions = {
            row.strategy: (row.quantity, row.average_cost, row.realized_pnl) for row in session.query(PositionRow)
        }
        filled: dict[str, tuple[Decimal, Decimal]] = {}
        for intent in session.query(OrderIntent):
            fills = Executions(session).for_intent(intent.id)
            quantity = sum((fill.quantity for fill in fills), ZERO)
            filled[intent.strategy] = (quantity, sum((fill.commission or ZERO for fill in fills), ZERO))
    return {name: (position, *filled[name]) for name, position in positions.items() if filled[name] != (0, 0)}


def _recomputed(ledger: Ledger) -> Any:
    holdings: defaultdict[str, Holding] = defaultdict(Holding)
    totals: defaultdict[str, list[Decimal]] = defaultdict(lambda: [ZERO, ZERO])
    for fill, paid in sorted(ledger.standing.values(), key=lambda one: (one[0].time, one[0].exec_id)):
        name = "one" if fill.side is Side.BUY else "two"
        holdings[name] = holdings[name].after(fill.side.sign * fill.quantity, fill.price, paid)
        totals[name] = [totals[name][0] + fill.quantity, totals[name][1] + paid]
    return {
        name: ((holding.quantity, holding.average_cost, holding.realized_pnl), *totals[name])
        for name, holding in holdings.items()
    }
