"""Make a one-machine installation: databases, the login, the connection, the replayed prices, the example files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from airflow_ibkr_plugin.cli.local.layout import ACCOUNT, ADMIN, Layout
from airflow_ibkr_plugin.cli.local.replay import write_replay
from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.store.schema import HEAD

_DEPENDS_ON = ("apache-airflow", "apache-airflow-providers-fab", "airflow-ibkr-plugin", "mlflow")


def prepare(layout: Layout, examples: Path, say: Callable[[str], None]) -> None:
    """Bring the installation up to date. What is there already is kept; a second call takes no time.

    :param examples: folder of workflow files that are copied on the first start.
    :raises ConfigError: a step failed; with the end of what it printed.
    """
    stamp_path = layout.home / "setup.json"
    stamp = {name: version(name) for name in _DEPENDS_ON} | {"ports": str(layout.ports), "trading_schema": HEAD}
    done = json.loads(stamp_path.read_text()) if stamp_path.exists() else {}
    for folder in (layout.logs, layout.home / "dags", layout.home / "mlflow"):
        folder.mkdir(parents=True, exist_ok=True)
    if not layout.workflows.exists():
        shutil.copytree(examples, layout.workflows)
    if done == stamp:
        return
    say("recorded prices")
    write_replay(layout.replay)
    say("Airflow database")
    _airflow(layout, "db", "migrate")
    if not done:
        say("login")
        _airflow(
            layout, "users", "create", "--username", ADMIN, "--role", "Admin", "--email", "admin@localhost",
            "--firstname", "Local", "--lastname", "Admin", "--password", layout.secrets()["password"],
        )  # fmt: skip
    say("gateway connection")
    _airflow(layout, "connections", "import", "--overwrite", str(_write_connections(layout)))
    say("trading database and pools")
    _airflow(layout, "ibkr", "setup")
    _write_environment(layout)
    stamp_path.write_text(json.dumps(stamp))


def _airflow(layout: Layout, *arguments: str) -> None:
    environment = os.environ | layout.environment()
    command = [str(Path(sys.executable).with_name("airflow")), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ConfigError(f"`airflow {' '.join(arguments[:2])}` failed:\n{tail}", remedy="Mend this and start again.")


def _write_connections(layout: Layout) -> Path:
    extra = {"account": ACCOUNT, "trading_mode": "paper", "client_ids": "10-25", "ibc_port": layout.ports.ibc}
    path = layout.home / "connections.json"
    path.write_text(
        json.dumps(
            {
                "ibkr_default": {
                    "conn_type": "ibkr",
                    "description": "Simulated IB Gateway on this machine: no real money, no real market.",
                    "host": "127.0.0.1",
                    "port": layout.ports.gateway,
                    "extra": json.dumps(extra),
                }
            },
            indent=1,
        )
    )
    return path


def _write_environment(layout: Layout) -> None:
    """For people: `set -a; . .airflow/env` makes every `airflow` command speak to this installation."""
    lines = [f"{name}='{value}'" for name, value in sorted(layout.environment().items())]
    path = layout.home / "env"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
