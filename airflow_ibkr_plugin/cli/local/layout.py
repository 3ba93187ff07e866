"""Where a one-machine installation lies, which ports it uses, and the environment its processes share."""

from __future__ import annotations

import json
import os
import secrets
import socket
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from airflow_ibkr_plugin.errors import ConfigError

ADMIN = "admin"
ACCOUNT = "DU1234567"
BUNDLE = "ibkr"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """TCP ports on the loopback interface; 0 asks for a free one."""

    airflow: int = 8080
    mlflow: int = 5500
    gateway: int = 4002
    control: int = 4003
    ibc: int = 7462  # IBC's default command server port

    #: environment variable of each port, as `make run` takes it
    VARIABLES: ClassVar[dict[str, str]] = {
        "airflow": "AIRFLOW_PORT",
        "mlflow": "MLFLOW_PORT",
        "gateway": "GATEWAY_PORT",
        "control": "GATEWAY_CONTROL_PORT",
        "ibc": "GATEWAY_IBC_PORT",
    }

    @classmethod
    def from_environment(cls) -> Ports:
        """Defaults, changed by the environment variables of `VARIABLES`.

        :raises ConfigError: a variable holds no port number.
        """
        chosen: dict[str, int] = {}
        for name, variable in cls.VARIABLES.items():
            if text := os.environ.get(variable):
                if not text.isdigit() or not 0 < int(text) < 65536:
                    raise ConfigError(f"{variable} is {text!r}.", remedy="Set it to a port number, 1 to 65535.")
                chosen[name] = int(text)
        return cls(**chosen)

    @classmethod
    def free(cls) -> Ports:
        """Five ports that nobody listens on now."""
        sockets = [socket.socket() for _ in cls.VARIABLES]
        try:
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return cls(**{name: each.getsockname()[1] for name, each in zip(cls.VARIABLES, sockets, strict=True)})
        finally:
            for each in sockets:
                each.close()

    def require_free(self) -> None:
        """:raises ConfigError: a port is taken; names every one that is, and the variable that changes it."""
        taken = []
        for name, port in asdict(self).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    taken.append((name, port))
        if taken:
            listed = ", ".join(f"{port} ({name})" for name, port in taken)
            change = " ".join(f"{self.VARIABLES[name]}={port + 1}" for name, port in taken)
            raise ConfigError(
                f"port {listed} is taken.", remedy=f"Stop what listens there, or choose another: make run {change}"
            )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One installation: its folder (AIRFLOW_HOME) and its ports."""

    home: Path
    ports: Ports

    @property
    def logs(self) -> Path:
        """Logs of the supervised processes."""
        return self.home / "logs" / "processes"

    @property
    def workflows(self) -> Path:
        """Workflow files; the examples are copied here on the first start and are yours from then on."""
        return self.home / "workflows"

    @property
    def replay(self) -> Path:
        """Recorded bars that the simulated gateway replays."""
        return self.home / "replay"

    @property
    def gateway_state(self) -> Path:
        """Orders, positions and clock of the simulated gateway."""
        return self.home / "gateway.db"

    @property
    def airflow_url(self) -> str:
        """Airflow's UI."""
        return f"http://localhost:{self.ports.airflow}"

    @property
    def mlflow_url(self) -> str:
        """MLflow's UI."""
        return f"http://localhost:{self.ports.mlflow}"

    def secrets(self) -> dict[str, str]:
        """Random secrets of this installation, made on first use, readable by the owner only."""
        path = self.home / "secrets.json"
        if not path.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            made = {
                "password": secrets.token_urlsafe(9),
                "jwt": secrets.token_urlsafe(48),
                "api": secrets.token_urlsafe(32),
                "fernet": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            }
            draft = path.with_suffix(".tmp")
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(made))
            draft.replace(path)
        loaded: dict[str, str] = json.loads(path.read_text())
        return loaded

    def environment(self) -> dict[str, str]:
        """What every process of the installation needs in its environment, besides the inherited one."""
        keys = self.secrets()
        bundle = {"name": BUNDLE, "classpath": "airflow_ibkr_plugin.workflows.bundle.IBKRDagBundle", "kwargs": {}}
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            # SQLite has one writer, and each task is a process of 200 MB and more.
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.ports.airflow}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.ports.airflow),
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": keys["api"],
            "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(self.home / "bundles"),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__IBKR__MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.ports.mlflow}",
            "AIRFLOW__IBKR__MLFLOW_UI_URL": self.mlflow_url,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "GIT_PYTHON_REFRESH": "quiet",
        }
