"""`airflow ibkr reconcile` and `import-flex` against a simulated gateway; nothing else of Airflow runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.cli import books as commands
from airflow_ibkr_plugin.execution import reconcile as engine
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models import PositionRow, ReconciliationRow
from airflow_ibkr_plugin.store.reconciliations import Reconciliations
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, Side

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
ACCOUNT = "DU1234567"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.1)
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
    with start_simulator(seed=7, clock=clock, account=ACCOUNT) as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", f"ibkr://127.0.0.1:{simulator.port}")
        yield simulator


@pytest.fixture
def traded(gateway: Any, trading_database: Database) -> Database:
    """Ten SPY, bought."""
    spec = GatewaySpec(
        conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
    )
    with leased_session(spec, trading_database, owner="worker") as session:
        instrument = session.resolve(InstrumentSpec.parse("SPY"))
        request = OrderRequest(
            key=IntentKey(installation="t", dag_id="demo", run_id="1", task_id="o", con_id=instrument.con_id),
            strategy="demo",
            source=session.source,
            account=ACCOUNT,
            mode="paper",
            instrument=instrument,
            ticket=OrderTicket(side=Side.BUY, quantity=Decimal(10)),
        )
        assert execute(session, trading_database, request, owner="t").filled == 10
    return trading_database


def run(**changes: Any) -> int | str:
    """Exit status of `reconcile`, or what it says in place of one."""
    given = {
        "connection": "",
        "strategy": "",
        "format": "text",
        "accept": None,
        "split": "",
        "replay": False,
        "reason": "",
    }
    try:
        commands.reconcile(Namespace(**given | changes))
    except SystemExit as end:
        return end.code or 0
    return 0


def test_typed_by_a_person_it_tells_that_all_agrees(traded: Database) -> None:
    done = subprocess.run(
        [AIRFLOW, "ibkr", "reconcile", "--format", "json"], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout[done.stdout.index("{") :])["reconciliations"]
    assert (told["account"], told["result"], told["differences"]) == (ACCOUNT, "agree", [])


def test_a_difference_is_told_accepted_and_kept_with_who_and_why(
    traded: Database, gateway: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.control("manual_order", symbol="SPY", action="BUY", quantity=7)
    _until(lambda: run() == commands.DISAGREE)
    capsys.readouterr()
    assert run() == commands.DISAGREE
    said = capsys.readouterr().out
    assert "DU1234567 at simulator:ibkr_default: DISAGREE" in said
    assert "differs: position SPY: our book 10, broker 17" in said
    assert "[demo]" in said
    assert run(strategy="another") == 0
    assert run(strategy="demo") == commands.DISAGREE
    with traded.read() as session:
        seen = max(row.id for row in session.query(ReconciliationRow))
    capsys.readouterr()
    assert run() == commands.DISAGREE
    assert f"airflow ibkr reconcile --accept {seen + 1} --reason TEXT" in capsys.readouterr().out
    assert "--reason TEXT" in str(run(accept=seen))
    assert run(accept=seen, reason="bought by hand") == 0  # the same differs
    assert "SPY" not in str(run(accept=seen, reason="bought by hand"))
    assert run() == 0
    assert "beside the books: 7 SPY" in capsys.readouterr().out
    with traded.read() as session:
        (row,) = [row for row in session.query(ReconciliationRow) if row.accepted_by]
    assert "@" in row.accepted_by
    assert row.reason == "bought by hand"


def test_what_was_not_seen_is_not_accepted(traded: Database, gateway: Any) -> None:
    gateway.control("manual_order", symbol="SPY", action="BUY", quantity=7)
    _until(lambda: run() == commands.DISAGREE)
    with traded.read() as session:
        seen = max(row.id for row in session.query(ReconciliationRow))
    gateway.control("manual_order", symbol="SPY", action="BUY", quantity=5)
    _until(lambda: run() == commands.DISAGREE and _differs(traded) == ["22"])
    said = str(run(accept=seen, reason="bought by hand"))
    with traded.read() as session:
        rows = session.query(ReconciliationRow).order_by(ReconciliationRow.id).all()
    assert f"is not what reconciliation {seen} found; nothing is accepted. Reconciliation {rows[-1].id}: posi" in said
    assert f"airflow ibkr reconcile --accept {rows[-1].id} --reason TEXT" in said
    assert {(row.accepted_by, row.result) for row in rows[seen - 1 :]} == {("", "disagree")}  # none as not made
    assert run(accept=rows[-1].id, reason="bought by hand") == 0
    assert "There is no reconciliation 999." in str(run(accept=999, reason="x"))
    assert "State it first" in str(run(accept=seen, split="SPY=2:1", reason="x"))


def _differs(database: Database) -> list[str]:
    with database.read() as session:
        last = max(row.id for row in session.query(ReconciliationRow))
        return [row.theirs for row in Reconciliations(session, "simulator:x", ACCOUNT).differences(last)]


def test_a_gateway_that_is_away_is_another_exit_status(
    traded: Database, monkeypatch: pytest.MonkeyPatch, unused_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", f"ibkr://127.0.0.1:{unused_port}")
    assert run() == commands.NOT_MADE
    assert "ibkr_default: COULD NOT BE MADE" in capsys.readouterr().out
    with traded.read() as session:
        assert [row.result for row in session.query(ReconciliationRow)][-1] == "failed"


def test_a_split_that_a_person_states_is_booked(
    traded: Database, gateway: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.control("split", symbol="SPY", ratio=2)
    assert run() == commands.DISAGREE
    assert run(split="SPY=3:1", reason="news") == commands.DISAGREE
    assert run(split="SPY=2:1", reason="news") == 0
    assert "SPY split 2 for 1 (stated by a person): demo 10 -> 20" in capsys.readouterr().out
    for wrong in ("SPY", "SPY=2", "SPY=2:2", "=2:1", "SPY=0:1"):
        assert "Write new for old shares" in str(run(split=wrong, reason="news"))


def test_positions_are_computed_again_without_a_broker(
    traded: Database, gateway: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.stop()
    assert run(replay=True) == 0
    assert "1 positions from 1 fills\n  commissions: 1 USD" in capsys.readouterr().out
    with traded.write() as session:
        session.query(PositionRow).update({"quantity": Decimal(9)})
    assert run(replay=True, format="json") == commands.DISAGREE
    (one,) = json.loads(capsys.readouterr().out)["mismatches"]
    assert "quantity is stored as 9, and is 10 by its executions" in one
    assert "--replay asks no broker" in str(run(replay=True, accept=1))


def test_nothing_traded_yet_asks_for_a_connection(gateway: Any, trading_database: Database) -> None:
    assert "--connection ibkr_default" in str(run())
    assert run(connection="ibkr_default") == 0


def test_a_bad_statement_is_one_line_and_stores_nothing(traded: Database, tmp_path: Path) -> None:
    path = tmp_path / "flex.xml"
    path.write_text("<html></html>")
    line = [AIRFLOW, "ibkr", "import-flex", str(path), "--dry-run"]
    done = subprocess.run(line, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "flex.xml:1: <html>, not <FlexQueryResponse>. Use an Activity Flex query, as XML." in done.stderr


def _until(true: Any) -> None:
    for _ in range(100):
        if true():
            return
    raise AssertionError("it did not come about")
