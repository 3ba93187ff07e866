"""`airflow ibkr close` against a simulated gateway; nothing else of Airflow runs."""

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

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.cli.at_broker import NOT_VERIFIED
from airflow_ibkr_plugin.cli.close import close
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, Side

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
ACCOUNT = "DU1234567"


@pytest.fixture
def gateway(trading_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The strategy demo holds ten SPY."""
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
    with start_simulator(seed=7, clock=clock, account=ACCOUNT) as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", f"ibkr://127.0.0.1:{simulator.port}")
        spec = GatewaySpec(
            conn_id="ibkr_default", host="127.0.0.1", port=simulator.port, client_ids=range(10, 20), account=ACCOUNT
        )
        with leased_session(spec, trading_database, owner="worker") as session:
            instrument = session.resolve(InstrumentSpec.parse("SPY"))
            request = OrderRequest(
                key=IntentKey(installation="t", dag_id="demo", run_id="1", task_id="o", con_id=instrument.con_id),
                strategy="demo",
                source=session.source,
                account=session.account,
                mode="paper",
                instrument=instrument,
                ticket=OrderTicket(side=Side.BUY, quantity=Decimal(10)),
            )
            assert execute(session, trading_database, request, owner="t").filled == 10
        yield simulator


def held(database: Database) -> Decimal:
    with database.read() as session:
        return sum((row.quantity for row in Positions(session).list(strategy="demo")), Decimal(0))


def run(**changes: Any) -> int:
    """Exit status of the command, in this process."""
    given = {"strategy": "demo", "symbol": "SPY", "quantity": "", "reason": "", "command_id": "", "withdraw": False}
    try:
        close(Namespace(**given | changes))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def test_typed_by_a_person_it_closes_and_is_done_exactly_once(gateway: Any, trading_database: Database) -> None:
    line = [AIRFLOW, "ibkr", "close", "--strategy", "demo", "--symbol", "SPY", "--quantity", "4", "--reason", "drill"]
    done = subprocess.run(line, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "closing: SELL 4 SPY: filled, filled 4" in done.stdout
    found = re.search(r"--command-id (\w+)", done.stdout)
    assert found is not None
    again = subprocess.run(
        [*line, "--command-id", found[1]], env=os.environ, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "closing" not in again.stdout
    assert held(trading_database) == 6


def test_with_the_gateway_down_it_is_stored_said_and_ends_with_3(
    gateway: Any, trading_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.control("logout", mode="refuse")
    assert run(command_id="c1") == NOT_VERIFIED
    said = capsys.readouterr()
    assert "left: simulator:ibkr_default: No gateway at" in said.err
    assert "A running service goes on with it" in said.err
    gateway.control("login")
    assert run(command_id="c1") == 0
    assert held(trading_database) == 0


def test_withdrawn_it_is_not_carried_on(
    gateway: Any, trading_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.control("logout", mode="refuse")
    assert run(command_id="c1") == NOT_VERIFIED
    gateway.control("login")
    assert run(command_id="c1", withdraw=True) == 0
    assert "Command c1 is not carried on." in capsys.readouterr().out
    assert run(command_id="c1") == 1
    assert held(trading_database) == 10


@pytest.mark.parametrize(
    "changes",
    [{"strategy": ""}, {"strategy": "none"}, {"quantity": "many"}, {"quantity": "-1"}, {"withdraw": True}],
)
def test_what_cannot_be_done_changes_nothing_and_ends_with_1(
    gateway: Any, trading_database: Database, changes: dict[str, Any]
) -> None:
    assert run(**changes) == 1
    assert held(trading_database) == 10
