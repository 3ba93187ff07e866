"""A Flex statement brings the books to where they would be had nothing been missed; twice changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.flex import read_statement
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ConfigError, IntentBusy
from airflow_ibkr_plugin.execution.flex import import_statement
from airflow_ibkr_plugin.execution.flex_fills import Imported
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import ExecutionRow, OrderIntent, OrderRow, PositionRow
from airflow_ibkr_plugin.store.replay import replay
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import Execution, IntentKey, IntentState, OrderTicket, Side, TimeInForce

NEW_YORK = ZoneInfo("America/New_York")
ACCOUNT = "DU1234567"


def trade_of(fill: Execution, **changes: str) -> str:
    """An execution as IBKR's statement has it."""
    local = fill.time.astimezone(NEW_YORK)
    fields = {
        "accountId": fill.account,
        "currency": "USD",
        "assetCategory": "STK",
        "symbol": fill.symbol,
        "conid": str(fill.con_id),
        "dateTime": f"{local:%Y%m%d;%H%M%S}",
        "quantity": f"{fill.side.sign * fill.quantity:f}",
        "tradePrice": f"{fill.price:f}",
        "ibCommission": f"{-(fill.commission or Decimal(0)):f}",
        "ibCommissionCurrency": fill.commission_currency or "USD",
        "openCloseIndicator": "O" if fill.realized_pnl is None else "C",
        "fifoPnlRealized": f"{fill.realized_pnl or Decimal(0):f}",
        "buySell": str(fill.side),
        "ibOrderID": str(fill.perm_id),
        "ibExecID": fill.exec_id,
        "orderReference": fill.order_ref,
        "levelOfDetail": "EXECUTION",
    } | changes
    return "<Trade " + " ".join(f"{name}={quoteattr(value)}" for name, value in fields.items()) + " />"


def write(path: Path, trades: Sequence[str], first: str = "20260302", last: str = "20260302") -> Path:
    made = f"{(datetime.strptime(last, '%Y%m%d').replace(tzinfo=UTC) + timedelta(days=1)):%Y%m%d};040000"
    path.write_text(
        f'<FlexQueryResponse type="AF"><FlexStatements>\n<FlexStatement accountId="{ACCOUNT}" fromDate="{first}"'
        f' toDate="{last}" whenGenerated="{made}">\n<Trades>\n'
        + "\n".join(trades)
        + "\n</Trades></FlexStatement></FlexStatements></FlexQueryResponse>"
    )
    return path


Import = Callable[..., Imported]


@pytest.fixture
def importing(database: Database, tmp_path: Path) -> Import:
    def run(*trades: str, last: str = "20260302", **options: Any) -> Imported:
        return import_statement(database, read_statement(write(tmp_path / "flex.xml", trades, last=last)), **options)

    return run


def books(database: Database) -> Any:
    """All that the books say, but for when they were told."""
    with database.read() as session:
        assert replay(session).mismatches == ()
        positions = {
            (row.strategy, row.con_id): (row.quantity, row.average_cost, row.realized_pnl)
            for row in session.query(PositionRow)
        }
        fills = {
            row.exec_id: (row.intent_id, row.quantity, row.price, row.commission, row.time.replace(microsecond=0))
            for row in session.query(ExecutionRow)
        }
    return positions, fills


def forget(database: Database, kept: Sequence[str] = ()) -> None:
    with database.write() as session:
        session.query(PositionRow).delete()
        session.query(ExecutionRow).where(ExecutionRow.exec_id.not_in(kept)).delete()


def stored(database: Database) -> list[Execution]:
    with database.read() as session:
        rows = session.query(ExecutionRow).order_by(ExecutionRow.exec_id).all()
        return [Execution(**{n: getattr(row, n) for n in Execution.__dataclass_fields__}) for row in rows]


def state(database: Database) -> list[tuple[IntentState, str]]:
    with database.read() as session:
        return [(row.state, row.reason) for row in session.query(OrderIntent).order_by(OrderIntent.id)]


def put(desk: Any, to: IntentState, **changes: Any) -> None:
    """The only order as it was before it was known to be over."""
    with desk.database.write() as session:
        for row in session.query(OrderIntent):
            row.state = to
            for name, value in changes.items():
                setattr(row, name, value)


# --- executions --------------------------------------------------------------------------------------------


def test_a_missing_fill_is_booked_once_with_its_position_and_its_order_ends(desk: Any, importing: Import) -> None:
    desk.place()
    before = books(desk.database)
    trades = [trade_of(fill) for fill in stored(desk.database)]
    forget(desk.database)
    put(desk, IntentState.WORKING)
    with desk.database.write() as session:
        order = session.query(OrderRow).one()
        order.status, order.filled, order.remaining = "Submitted", Decimal(0), Decimal(10)
    found = importing(*trades)
    assert len(found.booked) == 1
    assert "BUY 10 SPY at 100" in found.booked[0]
    with desk.database.read() as session:
        order = session.query(OrderRow).one()
    assert (order.status, order.filled, order.remaining) == ("Filled", 10, 0)
    assert books(desk.database) == before
    assert state(desk.database) == [(IntentState.FILLED, "Flex statement flex.xml: filled 10")]
    again = importing(*trades)
    assert (again.booked, again.known, again.ended) == ([], 1, [])
    assert books(desk.database) == before


def test_a_dry_run_says_it_and_stores_nothing(desk: Any, importing: Import) -> None:
    desk.place()
    trades = [trade_of(fill) for fill in stored(desk.database)]
    forget(desk.database)
    put(desk, IntentState.WORKING)
    found = importing(*trades, dry_run=True)
    assert (len(found.booked), len(found.ended)) == (1, 1)
    assert books(desk.database) == ({}, {})
    assert state(desk.database)[0][0] is IntentState.WORKING


def test_a_fill_without_our_reference_is_ours_by_its_permid(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    forget(desk.database)
    assert len(importing(trade_of(fill, orderReference="")).booked) == 1


def test_fills_whose_ids_are_written_otherwise_are_not_booked_twice(desk: Any, importing: Import) -> None:
    def in_two(broker: Any, perm_id: int) -> None:
        broker.fill(perm_id, Decimal(5))
        broker.fill(perm_id, Decimal(5))

    desk.broker.fate = in_two
    desk.place()
    before = books(desk.database)
    fills = stored(desk.database)
    assert len(fills) == 2
    found = importing(*(trade_of(fill, ibExecID=f"flex-{number}") for number, fill in enumerate(fills)))
    assert (found.booked, found.known) == ([], 2)
    assert books(desk.database) == before


def test_of_two_fills_alike_that_are_written_otherwise_the_one_that_is_lacking_is_booked(
    desk: Any, importing: Import
) -> None:
    def in_halves(broker: Any, perm_id: int) -> None:
        broker.fill(perm_id, Decimal(5))
        broker.fill(perm_id, Decimal(5))

    desk.broker.fate = in_halves
    desk.place()
    one, two = stored(desk.database)
    forget(desk.database, kept=[one.exec_id])
    put(desk, IntentState.WORKING)
    statement = [trade_of(replace(fill, exec_id=f"other.{fill.exec_id}")) for fill in (one, two)]
    for booked, known in ((1, 1), (0, 2)):
        found = importing(*statement)
        assert (len(found.booked), found.known) == (booked, known)
        assert desk.position("demo") == 10


def test_a_commission_that_never_came_is_filled_in_and_another_is_told(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    with desk.database.write() as session:
        session.query(ExecutionRow).update({"commission": None})
    assert importing(trade_of(fill, ibCommission="-1.25")).differing == []
    (stored_now,) = stored(desk.database)
    assert stored_now.commission == Decimal("1.25")
    (differing,) = importing(trade_of(fill, ibCommission="-2")).differing
    assert differing == f"flex.xml:4: execution {fill.exec_id}: commission 2, in the books 1.25"


def test_a_correction_takes_the_place_of_what_it_corrects(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    corrected = fill.exec_id.removesuffix(".01") + ".02"
    found = importing(trade_of(fill, ibExecID=corrected, quantity="9", tradePrice="101"))
    assert len(found.booked) == 1
    (positions, _) = books(desk.database)
    assert positions["demo", fill.con_id][0] == Decimal(9)


def test_fills_of_others_are_stored_beside_and_belong_to_no_strategy(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    by_hand = trade_of(fill, ibExecID="0009.01", orderReference="", ibOrderID="77")
    assert importing(by_hand).foreign == 1
    assert importing(by_hand).foreign == 0
    with desk.database.read() as session:
        row = session.get_one(ExecutionRow, ("simulator:ibkr_default", "0009.01"))
        assert (row.strategy, row.intent_id) == ("", None)


@pytest.mark.parametrize(
    "changes", [{"buySell": "SELL", "quantity": "-10"}, {"buySell": "SELL (Ca.)", "quantity": "10", "ibExecID": ""}]
)
def test_what_contradicts_our_order_stores_nothing_of_the_file(
    desk: Any, importing: Import, changes: dict[str, str]
) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    forget(desk.database)
    said = r"flex\.xml:5: SELL of conId 756733, and order aip-\w+ is BUY"
    with pytest.raises(ConfigError, match=said):
        importing(trade_of(fill), trade_of(fill, **({"ibExecID": "0002.01"} | changes)))
    assert books(desk.database) == ({}, {})


def test_an_account_that_was_never_traded_here_is_refused(importing: Import) -> None:
    with pytest.raises(ConfigError, match="has no order of account DU1234567"):
        importing()


def test_an_order_that_a_worker_is_at_is_waited_for(desk: Any, importing: Import) -> None:
    desk.place()
    (fill,) = stored(desk.database)
    put(desk, IntentState.WORKING, lease_owner="worker", lease_until=datetime.now(UTC) + timedelta(minutes=1))
    with pytest.raises(IntentBusy, match="is being worked on by worker"):
        importing(trade_of(fill))


def test_an_exit_is_waited_for_while_a_worker_is_at_its_entry(desk: Any, importing: Import) -> None:
    desk.place()
    desk.broker.fate = lambda broker, perm_id: None
    desk.place(run_id="run-2", side=Side.SELL)
    with desk.database.write() as session:
        entry, its_exit = session.query(OrderIntent).order_by(OrderIntent.id)
        entry.lease_owner, entry.lease_until = "worker", datetime.now(UTC) + timedelta(minutes=1)
        its_exit.parent_id, its_exit.state = entry.id, IntentState.WORKING
    (fill,) = stored(desk.database)
    sold = replace(fill, exec_id="1.1.01", order_ref=its_exit.order_ref, side=Side.SELL, perm_id=1)
    with pytest.raises(IntentBusy, match="is being worked on by worker"):
        importing(trade_of(sold))
    assert importing(last="20260305").ended == []
    desk.let_leases_run_out()
    assert len(importing(trade_of(sold)).ended) == 1


# --- ends --------------------------------------------------------------------------------------------------


def test_a_day_order_without_fills_has_ended_once_its_session_is_told_of(desk: Any, importing: Import) -> None:
    desk.broker.fate = lambda broker, perm_id: None
    desk.place()
    put(desk, IntentState.AMBIGUOUS)
    assert importing().ended == []  # by our clock it was sent in another year: at the end of its day, for all we know
    assert len(importing(last="20260303").ended) == 1
    assert state(desk.database) == [
        (IntentState.CANCELLED, "Flex statement flex.xml: filled 0 of 10 by the end of its day")
    ]


def test_one_that_was_never_acknowledged_is_abandoned(desk: Any, importing: Import) -> None:
    desk.broker.fate = lambda broker, perm_id: None
    desk.place()
    put(desk, IntentState.AMBIGUOUS, perm_id=None)
    assert len(importing(last="20260303").ended) == 1
    assert state(desk.database)[0][0] is IntentState.ABANDONED


def test_a_gtc_order_without_fills_goes_on(desk: Any, importing: Import) -> None:
    desk.broker.fate = lambda broker, perm_id: None
    desk.place()
    put(desk, IntentState.WORKING, tif=TimeInForce.GTC)
    assert importing(last="20260310").ended == []


def test_an_order_of_a_later_day_is_left_alone(desk: Any, importing: Import) -> None:
    desk.broker.fate = lambda broker, perm_id: None
    desk.place()
    put(desk, IntentState.WORKING)
    assert importing(last="20260301").ended == []


# --- from the simulator to a statement and back ------------------------------------------------------------


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[tuple[Database, list[str]]]:
    """Books of ten orders of two strategies in two stocks at the simulated gateway, and the statement of their day."""
    import shutil

    copy = shutil.copy(migrated_sqlite, tmp_path_factory.mktemp("flex"))
    database = Database(f"sqlite:///{copy}")
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
    with start_simulator(seed=7, clock=clock, account=ACCOUNT) as gateway:
        spec = GatewaySpec(
            conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
        )
        with leased_session(spec, database, owner="test") as broker:
            for number in range(10):
                strategy, symbol = ("one", "two")[number % 2], ("SPY", "AAPL")[number // 2 % 2]
                instrument = broker.resolve(InstrumentSpec.parse(symbol))
                side = Side.SELL if number % 3 == 2 else Side.BUY
                key = IntentKey(
                    installation="t", dag_id=strategy, run_id=f"r{number}", task_id="o", con_id=instrument.con_id
                )
                request = OrderRequest(
                    key=key,
                    strategy=strategy,
                    source=broker.source,
                    account=ACCOUNT,
                    mode="paper",
                    instrument=instrument,
                    ticket=OrderTicket(side=side, quantity=Decimal(7 + 13 * number)),
                    allow_short=True,
                )
                assert execute(broker, database, request, owner="t").state is IntentState.FILLED
            statement = [trade_of(fill) for fill in broker.executions()]
    yield database, statement
    database.dispose()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_was_missed_the_statement_brings_the_same_books(
    traded: tuple[Database, list[str]], tmp_path: Path, data: st.DataObject
) -> None:
    database, statement = traded
    import_statement(database, read_statement(write(tmp_path / "all.xml", statement)))
    before = books(database)
    assert len(before[1]) == len(statement)
    kept = data.draw(st.lists(st.sampled_from(sorted(before[1])), unique=True), label="kept")
    forget(database, kept)
    told = data.draw(st.permutations(statement), label="order")
    told += data.draw(st.lists(st.sampled_from(statement), max_size=3), label="repeated")
    half = data.draw(st.integers(0, len(told)), label="first file")
    for name, part in (("first.xml", told[:half]), ("second.xml", told[half:]), ("again.xml", told)):
        import_statement(database, read_statement(write(tmp_path / name, part)))
    assert books(database) == before


def test_records_of_intents_and_executions_agree(traded: tuple[Database, list[str]]) -> None:
    with traded[0].read() as session:
        for row in session.query(OrderIntent):
            filled = sum(fill.quantity for fill in Executions(session).for_intent(row.id))
            assert (row.state, filled) == (IntentState.FILLED, row.quantity)
            assert Intents(session).by_order_ref(row.order_ref) is row
