"""Trades that IBKR takes back, by a row of its statement without execId, and perhaps books anew behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.execution.flex import import_statement
from airflow_ibkr_plugin.execution.flex_fills import Imported
from airflow_ibkr_plugin.execution.outcome import outcome_of
from airflow_ibkr_plugin.execution.reconcile import reconcile
from airflow_ibkr_plugin.store.alerts import Alerts
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intent_notes import IntentNotes
from airflow_ibkr_plugin.store.models import ExecutionRow, OrderIntent, OrderRow, PositionRow
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.orders import Execution, IntentState, Side
from airflow_ibkr_plugin.trading.reconcile import Result

SOURCE = "simulator:ibkr_default"
ZERO = Decimal(0)
Import = Callable[..., Imported]


@pytest.fixture
def importing(database: Database, tmp_path: Path, flex: Any) -> Import:
    def run(*rows: str, days: int = 0, **options: Any) -> Imported:
        return import_statement(database, flex.read(tmp_path / "flex.xml", rows, days), **options)

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
    desk: Any, importing: Import, flex: Any, seen_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    rows = [flex.trade(fill), flex.cancel(fill, Decimal(1))]
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
        if seen_before:
            order = session.query(OrderRow).one()
            assert (order.filled, order.remaining, order.average_price) == (0, 10, None)
    outcome = outcome_of(desk.database, intent.id)
    assert (outcome.state, outcome.filled) == (IntentState.FILLED, 0)
    if seen_before:
        (alert,), (note,) = alerts(desk.database), notes
        said = f"IBKR took back BUY 10 SPY at 100, 2026-03-02 15:00:00 UTC: execution {fill.exec_id}, flex.xml"
        assert note == said
        assert said in alert
        assert "demo holds 0 SPY by the books; it was 10." in alert
        assert said in caplog.text


def test_an_exit_that_was_taken_back_is_held_again(desk: Any, importing: Import, flex: Any) -> None:
    desk.place()
    before = books(desk.database)[0]
    desk.broker.price = Decimal(110)
    desk.place(side=Side.SELL, run_id="run-2")
    assert desk.position("demo") == 0
    _, sold = stored(desk.database)
    found = importing(flex.cancel(sold, Decimal(1)))
    assert len(found.taken_back) == 1
    assert books(desk.database)[0] == before
    (alert,) = alerts(desk.database)
    assert "demo holds 10 SPY by the books; it was 0." in alert


def test_what_was_taken_back_does_not_come_back_when_it_is_told_of_again(
    desk: Any, importing: Import, flex: Any
) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    importing(flex.trade(fill), flex.cancel(fill, Decimal(1)), days=1)
    desk.broker.held_elsewhere -= 10  # the account has it no more; the broker's list of the day still has the fill
    assert reconcile(desk.session, desk.database, by="test").result is Result.AGREE
    desk.place()
    assert importing(flex.trade(fill)).differing == []  # the statement of the day before
    assert desk.position("demo") == 0
    (differing,) = importing(flex.trade(fill), days=2).differing
    assert differing == f"flex.xml:4: execution {fill.exec_id} stands; by the books IBKR has taken it back"
    assert desk.position("demo") == 0


@pytest.mark.parametrize("given_back", [0, 1])
@pytest.mark.parametrize("version", [".01", ".02"])
def test_a_trade_that_is_booked_anew_stays_and_is_paid_once(
    desk: Any, importing: Import, flex: Any, given_back: int, version: str
) -> None:
    desk.place()
    before = books(desk.database)
    (fill,) = stored(desk.database)
    anew = replace(fill, exec_id=fill.exec_id[:-3] + version, commission=Decimal(given_back))
    rows = [flex.trade(fill), flex.cancel(fill, Decimal(given_back)), flex.trade(anew)]
    for told in (rows, rows[1:], rows):
        found = importing(*told)
        assert books(desk.database) == before
        assert (found.taken_back, found.differing, found.unmatched) == ([], [], [])
    assert alerts(desk.database) == []


@pytest.mark.parametrize("quantity", [4, 10])
def test_a_correction_adds_to_what_was_paid_for_the_trade_before(
    desk: Any, importing: Import, flex: Any, quantity: int
) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    changed = {"quantity": Decimal(quantity), "commission": Decimal("-0.40")}
    corrected = replace(fill, exec_id=fill.exec_id[:-3] + ".02", **changed)
    for _ in range(2):
        found = importing(flex.cancel(fill), flex.trade(corrected))
        assert books(desk.database)[1] == {"demo": (quantity, Decimal("0.60"))}
        assert found.differing == []
    importing(flex.cancel(corrected, Decimal("0.60")), days=1)
    assert books(desk.database) == ({"demo": (0, 0, 0)}, {"demo": (0, 0)})


def test_what_was_paid_is_not_known_until_the_trade_before_is(desk: Any, importing: Import, flex: Any) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    with desk.database.write() as session:
        session.query(PositionRow).delete()
        session.query(ExecutionRow).delete()
    corrected = replace(fill, exec_id=fill.exec_id[:-3] + ".02", quantity=Decimal(4), commission=Decimal("-0.40"))
    later = [flex.cancel(fill), flex.trade(corrected)]
    assert len(importing(*later, days=1).unmatched) == 1
    assert [one.commission for one in stored(desk.database)] == [None]
    importing(flex.trade(fill))
    importing(*later, days=1)
    assert books(desk.database)[1] == {"demo": (4, Decimal("0.60"))}


def test_of_trades_alike_one_is_taken_back_for_each_row(desk: Any, importing: Import, flex: Any) -> None:
    desk.broker.fate = halves
    desk.place()
    one, two = stored(desk.database)
    for _ in range(2):
        importing(flex.cancel(one, Decimal(1)))
        assert desk.position("demo") == 5
    importing(flex.trade(one), flex.trade(two), flex.cancel(one, Decimal(1)))
    assert desk.position("demo") == 5
    for _ in range(2):
        importing(flex.cancel(one, Decimal(1)), flex.cancel(two, Decimal(1)))
        assert desk.position("demo") == 0
    assert len(alerts(desk.database)) == 2


def test_of_trades_alike_the_one_that_was_taken_back_stays_so(desk: Any, importing: Import, flex: Any) -> None:
    desk.broker.fate = halves
    desk.place()
    one, two = stored(desk.database)
    importing(flex.trade(one), flex.trade(two), flex.cancel(one, Decimal(1)))
    importing(flex.cancel(one, Decimal(1)))  # as a statement of that day alone has it
    assert desk.position("demo") == 5


def test_of_trades_alike_it_is_the_one_that_is_booked_anew(desk: Any, importing: Import, flex: Any) -> None:
    desk.broker.fate = halves
    desk.place()
    before = books(desk.database)
    one, two = stored(desk.database)
    anew = flex.trade(replace(one, commission=ZERO))
    for rows in ([flex.trade(one), flex.trade(two), flex.cancel(one), anew], [flex.cancel(one), anew]):
        importing(*rows)
        assert books(desk.database) == before


def test_of_trades_alike_it_is_the_one_whose_commission_is_given_back(desk: Any, importing: Import, flex: Any) -> None:
    desk.broker.fate = halves
    desk.place()
    one, two = (
        replace(fill, commission=Decimal(paid)) for fill, paid in zip(stored(desk.database), (1, 2), strict=True)
    )
    with desk.database.write() as session:
        session.get_one(ExecutionRow, (SOURCE, two.exec_id)).commission = two.commission
    importing(flex.trade(one), flex.trade(two), flex.cancel(one, Decimal(1)))
    assert books(desk.database)[1] == {"demo": (5, Decimal(2))}


def test_a_commission_that_ibkr_keeps_is_told(desk: Any, importing: Import, flex: Any) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    (differing,) = importing(flex.cancel(fill, Decimal("0.25"))).differing
    assert differing == (
        f"flex.xml: execution {fill.exec_id}: IBKR took it back, and keeps 0.75 USD of its commission, which the books"
        " count no more"
    )


def test_what_is_not_in_the_books_is_passed_over_and_counted(desk: Any, importing: Import, flex: Any) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    before = books(desk.database)
    another = replace(fill, price=Decimal(101))
    by_hand = replace(fill, perm_id=77, order_ref="")
    found = importing(flex.cancel(another), flex.cancel(by_hand))
    assert books(desk.database) == before
    (line,) = found.unmatched
    assert line.startswith("flex.xml:4: BUY 10 SPY at 101, 2026-03-02 15:00:00 UTC, order aip-")
    assert (found.foreign_back, found.taken_back) == (1, [])
    assert "0 count no more, 0 did not already, 1 are not in the books, 1 are of other orders." in "\n".join(
        found.lines()
    )


def test_an_order_whose_permid_we_never_heard_is_known_by_its_trades(desk: Any, importing: Import, flex: Any) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    with desk.database.write() as session:
        session.query(OrderIntent).update({"perm_id": None})
    assert len(importing(flex.cancel(fill, Decimal(1))).taken_back) == 1
    with desk.database.write() as session:
        session.query(ExecutionRow).delete()
    assert len(importing(flex.trade(fill), flex.cancel(fill, Decimal(1))).taken_back) == 1


def test_a_dry_run_takes_nothing_back_and_tells_nobody(desk: Any, importing: Import, flex: Any) -> None:
    desk.place()
    before = books(desk.database)
    (fill,) = stored(desk.database)
    assert len(importing(flex.cancel(fill, Decimal(1)), dry_run=True).taken_back) == 1
    assert books(desk.database) == before
    assert alerts(desk.database) == []


def test_a_second_run_says_that_all_was_there(desk: Any, importing: Import, flex: Any) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    by_hand = replace(fill, perm_id=77, order_ref="", exec_id="0009.01")
    for booked, foreign in (
        ("0 booked, 1 were", "1 stored beside, 0 were"),
        ("0 booked, 1 were", "0 stored beside, 1 were"),
    ):
        said = "\n".join(importing(flex.trade(fill), flex.trade(by_hand)).lines())
        assert f"Fills of our orders: {booked} in the books already." in said
        assert f"Fills of other orders: {foreign} already." in said
        assert "took back" not in said
