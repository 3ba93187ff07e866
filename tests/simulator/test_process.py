"""The real process: its start, its end, and what it keeps through both."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator import build_parser, run
from airflow_ibkr_plugin.simulator.embedded import start_simulator

COMMAND = [sys.executable, "-m", "airflow_ibkr_plugin.simulator"]


class Process:
    """A running simulator process."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen([*COMMAND, "--port", "0", "--control-port", "0", *options],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.listening: dict[str, Any] = json.loads(line)
        self.port: int = self.listening["port"]

    def control(self, **command: Any) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self.listening["control_port"]), timeout=10) as connection:
            connection.sendall(json.dumps(command).encode() + b"\n")
            with connection.makefile() as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
        assert answer["ok"], answer
        return answer

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def launch() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def launch_one(*options: str) -> Process:
        started.append(Process(*options))
        return started[-1]

    yield launch_one
    for item in started:
        if item.process.poll() is None:
            item.end(signal.SIGKILL)


def test_it_says_where_it_listens_and_ends_cleanly(launch: Callable[..., Process]) -> None:
    process = launch("--ibc-port", "0", "--clock", "2026-11-20T16:00:00Z")
    assert process.listening["event"] == "listening"
    assert all(process.listening[name] > 0 for name in ("port", "control_port", "ibc_port"))
    taken = subprocess.run([*COMMAND, "--port", str(process.port)], capture_output=True, text=True, timeout=60)
    assert taken.returncode == 2
    assert f"Port {process.port} on 127.0.0.1 is taken" in taken.stderr
    assert "--port" in taken.stderr
    assert "Traceback" not in taken.stderr
    assert process.end(signal.SIGTERM) == 0


def test_an_acknowledged_order_survives_kill_9(
    launch: Callable[..., Process], connect: Any, until: Any, tmp_path: Path
) -> None:
    options = ("--state", str(tmp_path / "gateway.db"), "--clock", "2026-11-20T16:00:00Z")
    first = launch(*options)
    ib = connect(first)
    apple = ib.qualifyContracts(ibi.Stock("AAPL", "SMART", "USD"))[0]
    filled = ib.placeOrder(apple, ibi.MarketOrder("BUY", 100, orderRef="filled"))
    until(filled.isDone)
    resting = ib.placeOrder(apple, ibi.LimitOrder("BUY", 10, 1.0, tif="GTC", orderRef="resting"))
    until(lambda: resting.orderStatus.status == "Submitted")
    until(ib.positions)
    cash = {value.tag: value.value for value in ib.accountValues() if value.currency == "USD"}["TotalCashValue"]
    first.control(cmd="clock", advance=60)
    first.end(signal.SIGKILL)
    with pytest.raises(ConnectionError):
        until(lambda: False)

    # The same command line again: the stored clock goes on, it does not start anew.
    second = launch(*options)
    again = connect(second)
    assert [trade.order.orderRef for trade in again.reqAllOpenOrders()] == ["resting"]
    assert [trade.order.orderRef for trade in again.reqCompletedOrders(False)] == ["filled"]
    assert again.fills()[0].execution.execId == filled.fills[0].execution.execId
    assert again.positions()[0].position == 100
    assert {v.tag: v.value for v in again.accountValues() if v.currency == "USD"}["TotalCashValue"] == cash
    assert again.client.getReqId() > resting.order.orderId
    assert 60 <= (again.reqCurrentTime() - filled.fills[0].execution.time).total_seconds() < 120
    again.cancelOrder(again.openTrades()[0].order)
    until(lambda: not again.openTrades())


def test_a_half_filled_bracket_survives_kill_9(
    launch: Callable[..., Process], connect: Any, until: Any, tmp_path: Path
) -> None:
    options = ("--state", str(tmp_path / "gateway.db"), "--clock", "2026-11-20T16:00:00Z")
    first = launch(*options)
    first.control(cmd="clock", freeze=True)
    ib = connect(first)
    coke = ib.qualifyContracts(ibi.Stock("KO", "SMART", "USD"))[0]
    entry = round(ib.reqTickers(coke)[0].ask + 1, 2)
    trades = [ib.placeOrder(coke, order) for order in ib.bracketOrder("BUY", 12_000, entry, 999.0, 1.0, tif="GTC")]
    until(lambda: all(trade.orderStatus.permId for trade in trades))
    assert trades[0].orderStatus.filled == 5000
    first.end(signal.SIGKILL)
    with pytest.raises(ConnectionError):
        until(lambda: False)

    second = launch(*options)
    again = connect(second)
    parent, profit, loss = again.openTrades()
    assert [trade.orderStatus.whyHeld for trade in (parent, profit, loss)] == ["", "child", "child,trigger"]
    second.control(cmd="clock", advance=5)
    until(lambda: parent.isDone() and profit.orderStatus.status == "Submitted")
    assert sorted(fill.execution.shares for fill in again.fills()) == [2000, 5000, 5000]
    until(lambda: [position.position for position in again.positions()] == [12_000])
    again.cancelOrder(loss.order)
    until(lambda: profit.isDone() and loss.isDone())


def test_a_state_file_is_used_by_one(tmp_path: Path) -> None:
    with start_simulator(state=tmp_path / "x.db"), pytest.raises(ConfigError, match="--state"):
        start_simulator(state=tmp_path / "x.db")


def test_a_state_file_belongs_to_its_options(tmp_path: Path) -> None:
    start_simulator(state=tmp_path / "x.db").stop()
    with pytest.raises(ConfigError, match="made with"):
        start_simulator(state=tmp_path / "x.db", seed=8)
    with sqlite3.connect(tmp_path / "x.db") as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    database.close()
    with pytest.raises(ConfigError, match="format 99"):
        start_simulator(state=tmp_path / "x.db")


def test_a_file_that_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(ConfigError, match="cannot be used"):
        start_simulator(state=tmp_path / "x.db")


def test_a_full_disk_acknowledges_nothing(
    launch: Callable[..., Process], connect: Any, until: Any, tmp_path: Path
) -> None:
    process = launch("--state", str(tmp_path / "x.db"), "--clock", "2026-11-20T16:00:00Z")
    ib = connect(process)
    # What a full disk does to the process: no file of it may grow any more.
    _limit_file_size(process.process.pid)
    trade = ib.placeOrder(ibi.Stock("AAPL", "SMART", "USD"), ibi.MarketOrder("BUY", 100))
    with pytest.raises(ConnectionError):
        until(lambda: False)
    assert not trade.fills
    _, stderr = process.process.communicate(timeout=20)
    assert process.process.returncode == 1
    assert "Free some space" in stderr


def _limit_file_size(pid: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))


def test_the_wrong_clock_is_refused() -> None:
    ended = subprocess.run([*COMMAND, "--port", "0", "--clock", "noon"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "'noon' is no instant" in ended.stderr


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--clock-speed", "0", "cannot run at speed 0"),
        ("--clock-speed", "nan", "cannot run at speed nan"),
        ("--restart-at", "midnight", "'midnight' is no time of day"),
        ("--restart-seconds", "-1", "--restart-seconds -1 cannot be"),
        ("--restart-seconds", "nan", "--restart-seconds nan cannot be"),
    ],
)
def test_options_that_cannot_be(capfd: pytest.CaptureFixture[str], option: str, value: str, why: str) -> None:
    assert run(["--port", "0", option, value]) == 2
    assert why in capfd.readouterr().err


def test_a_fast_clock_and_a_nightly_restart(launch: Callable[..., Process], connect: Any, until: Any) -> None:
    # A minute before the restart, a minute a second.
    process = launch("--clock", "2026-11-21T04:44:00Z", "--clock-speed", "60", "--restart-at", "23:45")
    connect(process)
    with pytest.raises(ConnectionError):
        until(lambda: False)
    assert process.control(cmd="clock")["speed"] == 60
    assert connect(process, 2).reqCurrentTime().isoformat() >= "2026-11-21T04:45"


def test_the_process_imports_neither_airflow_nor_pandas() -> None:
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        process.terminate()
        _, imported = process.communicate(timeout=20)
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines() if "|" in line}
    assert "airflow_ibkr_plugin" in modules
    assert not modules & {"airflow", "pandas"}


def test_importing_it_is_light() -> None:
    heavy = "{'numpy', 'pandas', 'airflow', 'sqlite3'}"
    code = f"import sys, airflow_ibkr_plugin.simulator; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"
    code = (
        "import sys, airflow_ibkr_plugin.simulator.embedded; print('airflow' in sys.modules, 'pandas' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "False False"


def test_the_parser_has_its_defaults() -> None:
    options = build_parser().parse_args([])
    assert (options.port, options.seed, options.account, options.control_port) == (4002, 7, "DU1234567", None)
    assert os.fspath(build_parser().parse_args(["--state", "x"]).state) == "x"
