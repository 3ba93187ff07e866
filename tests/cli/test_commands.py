"""`airflow ibkr ...` as a person types it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from airflow_ibkr_plugin.cli import commands, definition

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
EXAMPLES = Path(__file__).parents[2] / "example_configs"


def airflow(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [AIRFLOW, "ibkr", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_the_examples_are_sound() -> None:
    done = airflow("validate", str(EXAMPLES))
    assert done.returncode == 0, done.stderr
    assert "4 strategies: no fault found." in done.stdout


def test_every_fault_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("id: broken\nsymbols: [SPY]\ntasks:\n  a:\n    type: no_such_type\n    needs: [b]\n")
    done = airflow("validate", str(file))
    assert done.returncode == 1
    assert f"{file}:5:" in done.stderr
    assert f"{file}:6:" in done.stderr


def test_a_name_that_two_files_have_is_told_once_for_each(tmp_path: Path) -> None:
    sound = (EXAMPLES / "momentum_replay.yaml").read_text()
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for file in files:
        file.write_text(sound)
    for paths in ([tmp_path], files, [tmp_path, *files]):
        with pytest.raises(SystemExit) as refused:
            commands.validate(Namespace(paths=list(map(str, paths))))
        assert str(refused.value).count("is in ") == 2, refused.value


def test_packages_and_what_they_offer_are_listed() -> None:
    done = airflow("packages")
    assert done.returncode == 0, done.stderr
    lines = {line.partition(" ")[0]: line for line in done.stdout.splitlines()}
    assert "risk_rule order_notional" in lines["builtin"]
    assert "prompt momentum.breakout" in lines["momentum"]


def test_what_a_command_logs_is_no_part_of_its_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Namespace) -> None:
        logging.getLogger("airflow_ibkr_plugin").warning("a warning")
        print("the answer")

    monkeypatch.setattr(commands, "packages", answer)
    handler = logging.StreamHandler(sys.stdout)
    logging.getLogger().addHandler(handler)
    try:
        definition._command("airflow_ibkr_plugin.cli.commands.packages")(Namespace())
    finally:
        logging.getLogger().removeHandler(handler)
    said = capsys.readouterr()
    assert said.out == "the answer\n"
    assert "a warning" in said.err


def test_the_simulator_starts_and_stops() -> None:
    command = [AIRFLOW, "ibkr", "simulator", "--port", "0", "--control-port", "0", "--account", "DU7654321"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        listening = json.loads(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", listening["control_port"]), timeout=10) as control:
            control.sendall(b'{"cmd": "status"}\n')
            status = json.loads(control.makefile().readline())
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert status["accounts"] == ["DU7654321"]


def test_setup_migrates_and_makes_a_pool_for_each_gateway_connection(
    airflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from airflow.models import Connection, Pool
    from airflow.utils.session import create_session

    from airflow_ibkr_plugin.cli.commands import setup
    from airflow_ibkr_plugin.store.database import Database

    url = f"sqlite:///{tmp_path / 'trading.db'}"
    monkeypatch.setenv("AIRFLOW__IBKR__SQL_ALCHEMY_CONN", url)
    with create_session() as session:
        session.add(Connection(conn_id="desk", conn_type="ibkr", extra='{"client_ids": "3-7"}'))
    try:
        setup(Namespace())
        setup(Namespace())  # a second time changes nothing
        pool = Pool.get_pool("ibkr_desk")
        assert pool is not None
        assert pool.slots == 5
        with Database(url).read():  # the schema is there
            pass
    finally:
        with create_session() as session:
            session.query(Connection).filter_by(conn_id="desk").delete()
            session.query(Pool).filter_by(pool="ibkr_desk").delete()


def test_the_service_starts_and_stops(migrated_sqlite: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path)}"
    command, environment = [AIRFLOW, "ibkr", "service"], os.environ | {"AIRFLOW__IBKR__SQL_ALCHEMY_CONN": url}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert any(b"leading" in line for line in process.stdout)
        process.terminate()
        assert b"lease given back" in process.stdout.read()
        assert process.wait(timeout=60) == 0


def test_the_service_does_not_start_on_a_database_without_tables(tmp_path: Path) -> None:
    done = airflow("service", AIRFLOW__IBKR__SQL_ALCHEMY_CONN=f"sqlite:///{tmp_path / 'none.db'}")
    assert done.returncode == 2
    assert "The service cannot run: There is no trading database" in done.stderr


def test_the_service_reads_connections_without_an_api_server(
    airflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models import Connection
    from airflow.utils.session import create_session

    from airflow_ibkr_plugin.cli.connections import gateway_of
    from airflow_ibkr_plugin.errors import ConfigError

    with create_session() as session:
        session.add(Connection(conn_id="stored", conn_type="ibkr", host="gateway", extra='{"client_ids": "3-7"}'))
    try:
        stored = gateway_of("stored")
        assert (stored.conn_id, stored.host, stored.client_ids) == ("stored", "gateway", range(3, 8))
        monkeypatch.setenv("AIRFLOW_CONN_GIVEN", json.dumps({"conn_type": "ibkr", "host": "other"}))
        assert gateway_of("given").host == "other"
        with pytest.raises(ConfigError, match="no Airflow connection 'none'"):
            gateway_of("none")
    finally:
        with create_session() as session:
            session.query(Connection).filter(Connection.conn_id == "stored").delete()
