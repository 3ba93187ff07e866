"""Trades that IBKR takes back, as its statements have them: by a row without execId, and perhaps booked anew behind it.

The rows are of the form of real statements: a cancellation has side, quantity, price and time of its trade, no
execId and no reference, the commission that is given back, and the code Ca.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.broker.flex import read_statement
from airflow_ibkr_plugin.execution.flex import import_statement
from airflow_ibkr_plugin.execution.flex_fills import Imported
from airflow_ibkr_plugin.execution.outcome import outcome_of
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.holdings import Holding
from airflow_ibkr_plugin.store.intent_notes import IntentNotes
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import ExecutionRow, OrderIntent, PositionRow
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import (
    Execution,
    IntentKey,
    IntentState,
    OrderType,
    Side,
    TimeInForce,
)
from airflow_ibkr_plugin.trading.reconcile import Result

NEW_YORK = ZoneInfo("America/New_York")
ACCOUNT, SOURCE, SPY = "DU1234567", "simulator:ibkr_default", 756733
ZERO, CENT = Decimal(0), Decimal("0.01")
DAY = date(2026, 3, 2)


def trade_row(fill: Execution, **changes: str) -> str:
    fields = {
        "accountId": fill.account,
        "currency": "USD",
        "assetCategory": "STK",
        "symbol": fill.symbol,
        "conid": str(fill.con_id),
        "dateTime": f"{fill.time.astimezone(NEW_YORK):%Y%m%d;%H%M%S}",
        "transactionType": "ExchTrade",
        "quantity": f"{fill.side.sign * fill.quantity:f}",
        "tradePrice": f"{fill.price:f}",
        "ibCommission": f"{-(fill.commission or ZERO):f}",
        "ibCommissionCurrency": "USD",
        "openCloseIndicator": "O",
        "notes": "P",
        "fifoPnlRealized": "0",
        "buySell": str(fill.side),
        "ibOrderID": str(fill.perm_id),
        "ibExecID": fill.exec_id,
        "orderReference": fill.order_ref,
        "levelOfDetail": "EXECUTION",
    } | changes
    return "<Trade " + " ".join(f"{name}={quoteattr(value)}" for name, value in fields.items()) + " />"


def cancel_row(fill: Execution, given_back: Decimal = ZERO, **changes: str) -> str:
    taken = {
        "transactionType": "TradeCancel",
        "exchange": "--",
        "quantity": f"{-fill.side.sign * fill.quantity:f}",
        "ibCommission": f"{given_back:f}",
        "openCloseIndicator": "",
        "notes": "Ca",
        "buySell": f"{fill.side} (Ca.)",
        "ibExecID": "",
        "orderReference": "",
    }
    return trade_row(fill, **taken | changes)


def statement(path: Path, rows: Sequence[str], day: date = DAY) -> Any:
    made = day + timedelta(days=1)
    path.write_text(
        f'<FlexQueryResponse type="AF"><FlexStatements>\n<FlexStatement accountId="{ACCOUNT}" fromDate="{DAY:%Y%m%d}"'
        f' toDate="{day:%Y%m%d}" whenGenerated="{made:%Y%m%d};040000">\n<Trades>\n'
        + "\n".join(rows)
        + "\n</Trades></FlexStatement></FlexStatements></FlexQueryResponse>"
    )
    return read_statement(path)


Import = Callable[..., Imported]


@pytest.fixture
def importing(database: Database, tmp_path: Path) -> Import:
    def run(*rows: str, days: int = 0, **options: Any) -> Imported:
        read = statement(tmp_path / "flex.xml", rows, DAY + timedelta(days=days))
        return import_statement(database, read, **options)

    return run


def alerts(database: Database) -> list[str]:
    with database.read() as session:
        return [f"{row.title}\n{row.body}" for row in Alerts(session).due(datetime(2100, 1, 1, tzinfo=UTC))]


def stored(database: Database) -> list[Execution]:
    with database.read() as session:
        rows = session.query(ExecutionRow).order_by(ExecutionRow.exec_id).all()
        return [Execution(**{n: getattr(row, n) for n in Execution.__dataclass_fields__}) for row in rows]


def books(database: Database) -> Any:
    """All that counts: positions, and per order what is filled and what was paid."""
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
    return positions, filled


def halves(broker: Any, perm_id: int) -> None:
    broker.fill(perm_id, Decimal(5))
    broker.fill(perm_id, Decimal(5))


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_trade_that_was_taken_back_is_as_if_it_had_not_been(
    desk: Any, importing: Import, seen_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    rows = [trade_row(fill), cancel_row(fill, Decimal(1))]
    if not seen_before:
        with desk.database.write() as session:
            session.query(PositionRow).delete()
            session.query(ExecutionRow).delete()
    found = importing(*rows)
    for _ in range(2):
        assert books(desk.database) == ({"demo": (0, 0, 0)}, {"demo": (0, 0)})
        assert len(alerts(desk.database)) == seen_before
        again = importing(*rows)
        assert (again.booked, again.taken_back, again.back_before, again.known) == ([], [], 1, 1)
    assert len(found.taken_back) == 1
    assert found.booked == []
    assert found.differing == again.differing == []
    with desk.database.read() as session:
        (intent,) = session.query(OrderIntent)
        assert replay(session).commissions == {}
        notes = [note.text for note in IntentNotes(session).for_intent(intent.id)]
    outcome = outcome_of(desk.database, intent.id)
    assert (outcome.state, outcome.filled) == (IntentState.FILLED, 0)
    if seen_before:
        (alert,), (note,) = alerts(desk.database), notes
        said = f"IBKR took back BUY 10 SPY at 100, 2026-03-02 15:00:00 UTC: execution {fill.exec_id}, flex.xml"
        assert note == said
        assert said in alert
        assert "demo holds 0 SPY by the books; it was 10." in alert
        assert said in caplog.text


def test_an_exit_that_was_taken_back_is_held_again(desk: Any, importing: Import) -> None:
    desk.place()
    before = books(desk.database)[0]
    desk.broker.price = Decimal(110)
    desk.place(side=Side.SELL, run_id="run-2")
    assert desk.position("demo") == 0
    _, sold = stored(desk.database)
    found = importing(cancel_row(sold, Decimal(1)))
    assert len(found.taken_back) == 1
    assert books(desk.database)[0] == before
    (alert,) = alerts(desk.database)
    assert "demo holds 10 SPY by the books; it was 0." in alert


def test_what_was_taken_back_does_not_come_back_when_it_is_told_of_again(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    importing(trade_row(fill), cancel_row(fill, Decimal(1)), days=1)
    desk.broker.held_elsewhere -= 10  # the account has it no more; the broker's list of the day still has the fill
    assert reconcile(desk.session, desk.database, by="test").result is Result.AGREE
    desk.place()
    assert importing(trade_row(fill)).differing == []  # the statement of the day before
    assert desk.position("demo") == 0
    (differing,) = importing(trade_row(fill), days=2).differing
    assert differing == f"flex.xml:4: execution {fill.exec_id} stands; by the books IBKR has taken it back"
    assert desk.position("demo") == 0


@pytest.mark.parametrize("given_back", [0, 1])
@pytest.mark.parametrize("version", [".01", ".02"])
def test_a_trade_that_is_booked_anew_stays_and_is_paid_once(
    desk: Any, importing: Import, given_back: int, version: str
) -> None:
    desk.place()
    before = books(desk.database)
    (fill,) = stored(desk.database)
    anew = replace(fill, exec_id=fill.exec_id[:-3] + version, commission=Decimal(given_back))
    rows = [trade_row(fill), cancel_row(fill, Decimal(given_back)), trade_row(anew)]
    for told in (rows, rows[1:], rows):
        found = importing(*told)
        assert books(desk.database) == before
        assert (found.taken_back, found.differing, found.unmatched) == ([], [], [])
    assert alerts(desk.database) == []


def test_a_correction_adds_to_what_was_paid_for_the_trade_before(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    corrected = replace(fill, exec_id=fill.exec_id[:-3] + ".02", quantity=Decimal(4), commission=Decimal("-0.40"))
    for _ in range(2):
        found = importing(cancel_row(fill), trade_row(corrected))
        assert books(desk.database)[1] == {"demo": (4, Decimal("0.60"))}
        assert found.differing == []
    importing(cancel_row(corrected, Decimal("0.60")), days=1)
    assert books(desk.database) == ({"demo": (0, 0, 0)}, {"demo": (0, 0)})


def test_of_trades_alike_one_is_taken_back_for_each_row(desk: Any, importing: Import) -> None:
    desk.broker.fate = halves
    desk.place()
    one, two = stored(desk.database)
    for _ in range(2):
        importing(cancel_row(one, Decimal(1)))
        assert desk.position("demo") == 5
    for _ in range(2):
        importing(cancel_row(one, Decimal(1)), cancel_row(two, Decimal(1)))
        assert desk.position("demo") == 0
    assert len(alerts(desk.database)) == 2


def test_of_trades_alike_it_is_the_one_whose_commission_is_given_back(desk: Any, importing: Import) -> None:
    desk.broker.fate = halves
    desk.place()
    one, two = (
        replace(fill, commission=Decimal(paid)) for fill, paid in zip(stored(desk.database), (1, 2), strict=True)
    )
    with desk.database.write() as session:
        session.get_one(ExecutionRow, (SOURCE, two.exec_id)).commission = two.commission
    importing(trade_row(one), trade_row(two), cancel_row(one, Decimal(1)))
    assert books(desk.database)[1] == {"demo": (5, Decimal(2))}


def test_a_commission_that_ibkr_keeps_is_told(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    (differing,) = importing(cancel_row(fill, Decimal("0.25"))).differing
    assert differing == (
        f"flex.xml: execution {fill.exec_id}: IBKR took it back, and keeps 0.75 USD of its commission, which the books"
        " count no more"
    )


def test_what_is_not_in_the_books_is_passed_over_and_counted(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    before = books(desk.database)
    another = replace(fill, price=Decimal(101))
    by_hand = replace(fill, perm_id=77, order_ref="")
    found = importing(cancel_row(another), cancel_row(by_hand))
    assert books(desk.database) == before
    (line,) = found.unmatched
    assert line.startswith("flex.xml:4: BUY 10 SPY at 101, 2026-03-02 15:00:00 UTC, order aip-")
    assert (found.foreign_back, found.taken_back) == (1, [])
    assert "0 count no more, 0 did not already, 1 are not in the books, 1 are of other orders." in "\n".join(
        found.lines()
    )


def test_an_order_whose_permid_we_never_heard_is_known_by_its_trades(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    with desk.database.write() as session:
        session.query(OrderIntent).update({"perm_id": None})
    assert len(importing(cancel_row(fill, Decimal(1))).taken_back) == 1
    with desk.database.write() as session:
        session.query(ExecutionRow).delete()
    assert len(importing(trade_row(fill), cancel_row(fill, Decimal(1))).taken_back) == 1


def test_a_dry_run_takes_nothing_back_and_tells_nobody(desk: Any, importing: Import) -> None:
    desk.place()
    before = books(desk.database)
    (fill,) = stored(desk.database)
    assert len(importing(cancel_row(fill, Decimal(1)), dry_run=True).taken_back) == 1
    assert books(desk.database) == before
    assert alerts(desk.database) == []


def test_a_second_run_says_that_all_was_there(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    by_hand = replace(fill, perm_id=77, order_ref="", exec_id="0009.01")
    for booked, foreign in (
        ("0 booked, 1 were", "1 stored beside, 0 were"),
        ("0 booked, 1 were", "0 stored beside, 1 were"),
    ):
        said = "\n".join(importing(trade_row(fill), trade_row(by_hand)).lines())
        assert f"Fills of our orders: {booked} in the books already." in said
        assert f"Fills of other orders: {foreign} already." in said
        assert "took back" not in said


# --- any history, in any order -----------------------------------------------------------------------------


@dataclass
class Ledger:
    """What IBKR wrote, a chunk for each day, and what stands of it."""

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
        self.chunks[-1].append(trade_row(made))
        self.standing[made.exec_id.rpartition(".")[0]] = (made, total)

    def take_back(self, name: str, refund: bool, anew: str, change: int) -> None:
        """By a row, with the trade booked anew behind it or not; or corrected without such a row."""
        known, total = self.standing.pop(name)
        fill, version = name, int(known.exec_id.rpartition(".")[2])
        given_back = total if refund or anew == "" else ZERO
        if anew != "bare":
            self.chunks[-1].append(cancel_row(known, given_back))
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
def ordered(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Any:
    """A trading database with an order of each of two strategies."""
    import shutil

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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_was_taken_back_the_books_are_what_stands(
    ordered: Database, tmp_path: Path, data: st.DataObject
) -> None:
    with ordered.write() as session:
        for model in (PositionRow, ExecutionRow):
            session.query(model).delete()
    ledger = Ledger()
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
        _import(ordered, tmp_path, ledger.chunks[number], number)
    if data.draw(st.booleans(), label="as one file"):
        _import(ordered, tmp_path, [row for chunk in ledger.chunks for row in chunk], len(ledger.chunks))
    else:
        for number in numbers:
            _import(ordered, tmp_path, ledger.chunks[number], number)
    expected = _recomputed(ledger)
    assert _what_counts(ordered) == expected
    for number in data.draw(st.permutations(numbers), label="once more"):
        _import(ordered, tmp_path, ledger.chunks[number], number)
        assert _what_counts(ordered) == expected


def _import(database: Database, folder: Path, rows: Sequence[str], day: int) -> None:
    import_statement(database, statement(folder / "flex.xml", rows, DAY + timedelta(days=day)))


def _book(database: Database, fill: Execution) -> None:
    with database.write() as session:
        intent = Intents(session).by_order_ref(fill.order_ref)
        assert intent is not None
        row, _ = Executions(session).record(SOURCE, fill, intent, fill.time)
        Positions(session).apply(row, intent.strategy, at=fill.time)


def _what_counts(database: Database) -> Any:
    positions, filled = books(database)
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
