"""`airflow ibkr orders ...` on orders that a simulated gateway filled; nothing else of Airflow runs."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.cli import orders as commands
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.simulator.embedded import start_simulator
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, OrderTicket, Side
from airflow_ibkr_plugin.trading.risk_rules import rules

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
ACCOUNT = "DU1234567"
DAY = timedelta(days=1)
RULES = {rule.name: rule for rule in rules()}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    clock = datetime.fromisoformat("2026-03-02T15:00:00+00:00")
    with start_simulator(seed=7, clock=clock, account=ACCOUNT) as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_IBKR_DEFAULT", f"ibkr://127.0.0.1:{simulator.port}")
        monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.2)
        yield simulator


def trade(gateway: Any, database: Database, run_id: str, quantity: int = 10) -> str:
    """Buys SPY at the market, ten units at most; returns the orderRef."""
    spec = GatewaySpec(
        conn_id="ibkr_default", host="127.0.0.1", port=gateway.port, client_ids=range(10, 20), account=ACCOUNT
    )
    with leased_session(spec, database, owner="worker") as session:
        instrument = session.resolve(InstrumentSpec.parse("SPY"))
        key = IntentKey(installation="t", dag_id="demo", run_id=run_id, task_id="o", con_id=instrument.con_id)
        request = OrderRequest(
            key=key,
            strategy="demo",
            source=session.source,
            account=session.account,
            mode="paper",
            instrument=instrument,
            ticket=OrderTicket(side=Side.BUY, quantity=Decimal(quantity)),
            rules=((RULES["order_quantity"], {"max": 10}),),
        )
        execute(session, database, request, owner="t")
    return key.order_ref


def run(command: Any, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[int, str]:
    """Exit status of a command in this process, and what it said."""
    given = {"open": False, "ambiguous": False, "run": "", "strategy": "", "symbol": "", "limit": 50, "output": "json"}
    status = 0
    try:
        command(Namespace(**given | changes))
    except SystemExit as end:
        status = 1
        print(end.code)
    return status, capsys.readouterr().out


def test_they_are_listed_the_newest_first_and_by_what_is_asked_for(
    gateway: Any, trading_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = trade(gateway, trading_database, "1"), trade(gateway, trading_database, "2", 12)
    gateway.control("drop_before_accept")
    with pytest.raises(Exception, match="connection"):
        trade(gateway, trading_database, "3")
    _, said = run(commands.show_list, capsys)
    listed = json.loads(said)
    assert [line["run_id"] for line in listed] == ["3", "2", "1"]
    assert listed[1:] == [
        listed[1] | {"order_ref": second, "side": "BUY", "quantity": "10", "filled": "10", "state": "filled"},
        listed[2] | {"order_ref": first, "symbol": "SPY", "strategy": "demo", "leg": "entry"},
    ]
    assert {name: listed[0][name] for name in ("order_type", "limit_price", "stop_price", "tif")} == {
        "order_type": "MKT",
        "limit_price": None,
        "stop_price": None,
        "tif": "DAY",
    }
    asked_at = datetime.now(UTC)
    assert all(timedelta(0) <= asked_at - datetime.fromisoformat(line["created_at"]) < DAY for line in listed)
    assert all(line["created_at"].endswith("Z") for line in listed)
    for given, runs in (
        ({"open": True}, ["3"]),
        ({"ambiguous": True}, ["3"]),
        ({"run": "2"}, ["2"]),
        ({"limit": 1}, ["3"]),
        ({"symbol": "AAPL"}, []),
        ({"strategy": "other"}, []),
    ):
        assert [line["run_id"] for line in json.loads(run(commands.show_list, capsys, **given)[1])] == runs, given


def test_all_of_one_is_shown(gateway: Any, trading_database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    order_ref = trade(gateway, trading_database, "1", 12)
    (shown,) = json.loads(run(commands.show, capsys, order_ref=order_ref)[1])
    assert (shown["state"], shown["requested_quantity"], shown["quantity"]) == ("filled", "12", "10")
    states = [move["to_state"] for move in shown["transitions"]]
    assert (states[:2], states[-1]) == (["reserved", "sending"], "filled")
    assert shown["transitions"][0]["reason"] == "clamped from 12 to 10"
    assert {"order_quantity", "market_data"} <= {decision["rule"] for decision in shown["risk_decisions"]}
    (order,), (fill,) = shown["broker_orders"], shown["fills"]
    assert (order["status"], order["perm_id"], fill["quantity"]) == ("Filled", shown["perm_id"], "10")
    assert Decimal(fill["commission"]) > 0
    _, text = run(commands.show, capsys, order_ref=order_ref, output="table")
    for heading in ("Transitions", "Risk decisions", "Broker orders", "Fills"):
        assert f"\n{heading}\n" in text
    assert "Notes" not in text
    assert order_ref in text


def test_an_order_that_is_not_there(trading_database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(commands.show, capsys, order_ref="aip-none")
    assert (status, said) == (1, "There is no order aip-none. See: airflow ibkr orders list\n")


def airflow(*line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AIRFLOW, "ibkr", "orders", *line], env=os.environ, capture_output=True, text=True, check=False
    )


def test_typed_by_a_person(gateway: Any, trading_database: Database) -> None:
    order_ref = trade(gateway, trading_database, "1")
    listed = airflow("list", "--run", "1", "-o", "json")
    assert listed.returncode == 0, listed.stderr
    assert [line["order_ref"] for line in json.loads(listed.stdout)] == [order_ref]
    raised = airflow("again", "demo", "1", "o", "--reason", "bad price")
    assert raised.returncode == 0, raised.stderr
    assert f"SPY of task o in run 1: generation 0 -> 1, by {getpass.getuser()}@" in raised.stdout
    twice = airflow("again", "demo", "1", "o", "--symbol", "SPY", "--reason", "bad price")
    assert twice.returncode == 1
    assert "raised SPY of o to generation 1 at" in twice.stderr
    shown = airflow("show", order_ref)
    assert shown.returncode == 0, shown.stderr
    assert "Generation raised" in shown.stdout
    refused = airflow("settle", order_ref, "--as", "never-sent", "--reason", "drill")
    assert refused.returncode == 1
    assert "is filled, and not ambiguous" in refused.stderr


def test_an_ambiguous_one_is_settled(
    gateway: Any, trading_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.control("drop_before_accept")
    with pytest.raises(Exception, match="connection"):
        trade(gateway, trading_database, "1")
    ((line),) = json.loads(run(commands.show_list, capsys, ambiguous=True)[1])
    given = {"order_ref": line["order_ref"], "outcome": "never-sent", "reason": "looked in TWS"}
    status, said = run(commands.settle, capsys, **given)
    assert status == 0
    assert f"{line['order_ref']}: abandoned. {getpass.getuser()}@" in said
    (shown,) = json.loads(run(commands.show, capsys, order_ref=line["order_ref"])[1])
    assert shown["notes"][0]["text"] == "never-sent: looked in TWS (the broker, asked now, does not know it)"
