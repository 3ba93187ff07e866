"""`airflow ibkr halt|reduce|resume` against a simulated gateway; nothing else of Airflow runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.cli import at_broker
from airflow_ibkr_plugin.cli import halt as commands
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.models.trading_state import TradingStateChange, TradingStateRow
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, OrderType, Side
from airflow_ibkr_plugin.trading.trading_state import TradingState

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
ACCOUNT = "DU1234567"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
    with start_simulator(seed=7, clock=clock, account=ACCOUNT) as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", f"ibkr://127.0.0.1:{simulator.port}")
        yield simulator


@pytest.fixture
def workflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one workflow, `demo`, that has never run."""
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "demo.yaml").write_text("id: demo\nsymbols: [SPY]\ntasks: {}\n")
    monkeypatch.setenv("AIRFLOW__IBKR__WORKFLOWS_FOLDER", str(folder))
    return folder


class Crash(BaseException):
    """Ends a worker at once."""


def trade(gateway: Any, database: Database, run_id: str, limit: Decimal | None = None) -> None:
    """Ten SPY: bought, or with a limit left working by a worker that dies."""

    def crash(*_: Any, **__: Any) -> Any:
        raise Crash

    spec = GatewaySpec(
        conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
    )
    with leased_session(spec, database, owner="worker") as session:
        instrument = session.resolve(InstrumentSpec.parse("SPY"))
        kind = OrderType.LIMIT if limit else OrderType.MARKET
        request = OrderRequest(
            key=IntentKey(installation="t", dag_id="demo", run_id=run_id, task_id="o", con_id=instrument.con_id),
            strategy="demo",
            source=session.source,
            account=session.account,
            mode="paper",
            instrument=instrument,
            ticket=OrderTicket(side=Side.BUY, quantity=Decimal(10), order_type=kind, limit_price=limit),
        )
        if limit is None:
            assert execute(session, database, request, owner="t").filled == 10
            return
        dying: Any = session
        dying.wait_terminal = crash
        with pytest.raises(Crash):
            execute(session, database, request, owner="t")


def run(command: Any, **changes: Any) -> int:
    """Exit status of a command, in this process."""
    given = {"strategy": "", "reason": "drill", "cancel_working": False, "flatten": False, "command_id": ""}
    try:
        command(Namespace(**given | changes))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def state(database: Database, strategy: str = "demo") -> TradingState:
    with database.read() as session:
        return TradingStates(session).effective(strategy).state


def test_typed_by_a_person_it_cancels_closes_and_is_done_exactly_once(gateway: Any, trading_database: Database) -> None:
    trade(gateway, trading_database, "1")
    trade(gateway, trading_database, "2", Decimal(100))
    line = [AIRFLOW, "ibkr", "halt", "--strategy", "demo", "--flatten", "--reason", "drill"]
    done = subprocess.run(line, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "strategy demo: ACTIVE -> HALTED, by " in done.stdout
    assert "cancelled: BUY 10 of conId" in done.stdout
    assert "nothing of it is left working" in done.stdout
    assert "closing: SELL 10 SPY: filled, filled 10" in done.stdout
    assert "All that it was to close is closed." in done.stdout
    found = re.search(r"--command-id (\w+)", done.stdout)
    assert found is not None
    again = subprocess.run(
        [*line, "--command-id", found[1]], env=os.environ, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "HALTED already since" in again.stdout
    assert "closing" not in again.stdout
    with trading_database.read() as session:
        assert [row.quantity for row in Positions(session).list(strategy="demo")] == [0]
    assert sorted(order["status"] for order in gateway.control("orders")["orders"]) == ["Cancelled", "Filled", "Filled"]


def test_with_the_gateway_down_it_halts_says_so_and_ends_with_3(
    gateway: Any, trading_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    trade(gateway, trading_database, "2", Decimal(100))
    gateway.control("logout", mode="refuse")
    assert run(commands.halt, cancel_working=True, command_id="c1") == at_broker.NOT_VERIFIED == 3
    said = capsys.readouterr()
    assert "the installation: ACTIVE -> HALTED" in said.out
    assert "NOT VERIFIED: the command is stored" in said.err
    assert "left: simulator:ibkr_default: No gateway at" in said.err
    assert state(trading_database) is TradingState.HALTED
    gateway.control("login")
    assert run(commands.halt, cancel_working=True, command_id="c1") == 0
    assert [order["status"] for order in gateway.control("orders")["orders"]] == ["Cancelled"]


def test_it_waits_for_what_may_be_on_its_way_and_no_longer_than_its_patience(
    gateway: Any, trading_database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.control("drop_before_accept")
    with pytest.raises(Exception, match="connection"):
        trade(gateway, trading_database, "1")
    with monkeypatch.context() as patch:
        patch.setattr(at_broker, "PATIENCE_SECONDS", 0.0)
        assert run(commands.halt, cancel_working=True, command_id="c1") == 3
        assert "may be on its way to the broker" in capsys.readouterr().err
    assert run(commands.halt, cancel_working=True, command_id="c1") == 0


@pytest.mark.usefixtures("workflows")
def test_reduce_and_resume(trading_database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands.halt) == 0
    assert run(commands.resume, reason="") == 1
    assert run(commands.reduce, reason="") == 1
    assert state(trading_database) is TradingState.HALTED
    assert run(commands.reduce, strategy="demo", reason="") == 0
    said = capsys.readouterr()
    assert "strategy demo: ACTIVE -> REDUCING" in said.out
    assert "It stays HALTED for the installation: drill" in said.out
    assert run(commands.resume, reason="over") == 0
    assert state(trading_database) is TradingState.REDUCING
    assert run(commands.resume, strategy="demo", reason="over") == 0
    assert state(trading_database) is TradingState.ACTIVE
    assert run(commands.resume, strategy="demo", reason="") == 0  # nothing is changed
    with trading_database.read() as session:
        changes = TradingStates(session).changes("demo")
    assert [(change.new_state, change.reason) for change in changes] == [
        (TradingState.REDUCING, ""),
        (TradingState.ACTIVE, "over"),
    ]
    assert all("@" in change.changed_by for change in changes)


@pytest.mark.parametrize("command", [commands.halt, commands.reduce, commands.resume])
def test_a_strategy_that_nothing_knows_is_refused(
    command: Any, trading_database: Database, workflows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A halt that halts nothing would be believed."""
    assert run(command, strategy="dem", cancel_working=True) == 1
    with trading_database.read() as session:
        assert TradingStates(session).get("dem") is None
    with pytest.raises(SystemExit) as refused:
        command(Namespace(strategy="dem", reason="drill", cancel_working=False, flatten=False, command_id=""))
    assert "There is no strategy 'dem': no order, run, position or trading state in the trading database, and no " in (
        said := str(refused.value)
    )
    assert f"workflow in {workflows}. Nothing was changed. Check its name: is it demo?" in said
    assert capsys.readouterr().out == ""


def test_a_strategy_is_known_by_its_orders_and_by_its_state_though_its_file_is_broken_or_away(
    gateway: Any, trading_database: Database, workflows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(commands.halt, strategy="demo") == 0  # by its file, before its first run
    (workflows / "demo.yaml").write_text("id: [")
    assert run(commands.resume, strategy="demo") == 0  # by its state
    trade(gateway, trading_database, "1")
    with trading_database.write() as session:
        session.execute(delete(TradingStateChange))
        session.execute(delete(TradingStateRow))
    (workflows / "demo.yaml").unlink()
    workflows.rmdir()
    assert run(commands.halt, strategy="demo") == 0  # by its order
    assert state(trading_database) is TradingState.HALTED
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"the workflows folder .* cannot be read"):
        commands.halt(Namespace(strategy="dem", reason="", cancel_working=False, flatten=False, command_id=""))


@pytest.mark.usefixtures("workflows")
def test_what_cannot_be_done_changes_nothing_and_ends_with_1(
    trading_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(commands.halt, command_id="c1") == 1
    assert run(commands.halt, strategy="demo", cancel_working=True, command_id="c1") == 0
    assert run(commands.halt, cancel_working=True, command_id="c1") == 1  # another command's id
    assert state(trading_database, "other") is TradingState.ACTIVE
    monkeypatch.setenv("AIRFLOW__IBKR__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/none.db")
    assert run(commands.halt) == 1
