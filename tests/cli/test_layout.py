from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from airflow_ibkr_plugin.cli.local.layout import Layout, Ports
from airflow_ibkr_plugin.errors import ConfigError


def test_a_taken_port_is_named_with_the_variable_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = Ports.free()
        ports = Ports(airflow=free.airflow, mlflow=port, gateway=free.gateway, control=free.control, ibc=free.ibc)
        with pytest.raises(ConfigError, match=rf"port {port} \(mlflow\) is taken.*MLFLOW_PORT={port + 1}"):
            ports.require_free()


def test_ports_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_PORT", "8181")
    assert Ports.from_environment() == Ports(airflow=8181)
    monkeypatch.setenv("AIRFLOW_PORT", "65535")
    assert Ports.from_environment() == Ports(airflow=65535)


@pytest.mark.parametrize("text", ["80 80", "0", "65536", "-1"])
def test_what_is_no_port_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AIRFLOW_PORT", text)
    with pytest.raises(ConfigError, match="AIRFLOW_PORT"):
        Ports.from_environment()


def test_free_ports_differ_and_are_free() -> None:
    ports = Ports.free()
    assert len(set(vars(ports).values())) == len(Ports.VARIABLES)
    ports.require_free()


def test_secrets_are_made_once_and_are_the_owners_only(tmp_path: Path) -> None:
    layout = Layout(home=tmp_path, ports=Ports())
    first = layout.secrets()
    assert layout.secrets() == first
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert Layout(home=tmp_path / "other", ports=Ports()).secrets()["fernet"] != first["fernet"]
