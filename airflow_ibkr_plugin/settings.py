"""All `[ibkr]` options in one frozen value. Nothing else in the package reads that section.

The options, their defaults and their descriptions are declared once, in :data:`OPTIONS`; the provider shows
them to Airflow from there. `{AIRFLOW_HOME}` in a default is filled in by Airflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ibkr_plugin.errors import ConfigError

SECTION = "ibkr"


def _option(type_: str, default: str, description: str, *, sensitive: bool = False) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": type_,
        "example": None,
        "default": default,
        "sensitive": sensitive,
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "sql_alchemy_conn": _option(
        "string",
        "sqlite:///{AIRFLOW_HOME}/ibkr/trading.db",
        "SQLAlchemy URL of the trading database (SQLite or PostgreSQL). Never Airflow's own database.",
        sensitive=True,
    ),
    "workflows_folder": _option(
        "string",
        "{AIRFLOW_HOME}/workflows",
        "Folder with one workflow per YAML file, read by the DAG bundle.",
    ),
    "charts_url": _option(
        "string",
        "file://{AIRFLOW_HOME}/ibkr/charts",
        "Where charts are stored: any URL of Airflow's ObjectStorage, such as s3://aws_default@charts.",
    ),
    "mlflow_tracking_uri": _option("string", "http://127.0.0.1:5500", "URL of the MLflow server."),
    "mlflow_ui_url": _option("string", "", "URL under which people open MLflow; empty means mlflow_tracking_uri."),
    "allow_live": _option(
        "boolean",
        "False",
        "The installation's consent to live money. The connection and the workflow must say live too.",
    ),
    "alert_urls": _option(
        "string",
        "",
        "Apprise URLs that alerts of this installation go to, separated by spaces.",
        sensitive=True,
    ),
    "reconcile_seconds": _option(
        "integer", "300", "Seconds between two reconciliations of each account with the broker by the service."
    ),
    "reconcile_max_age": _option(
        "integer",
        "900",
        "Seconds after which an order that opens exposure reconciles its account first; if that fails, it is denied.",
    ),
    "packages_blocked": _option(
        "string", "", "Names of strategy packages (entry points) that are not loaded, separated by commas."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The `[ibkr]` section, typed. See :data:`OPTIONS` for what each field means."""

    sql_alchemy_conn: str
    workflows_folder: Path
    charts_url: str
    mlflow_tracking_uri: str
    mlflow_ui_url: str
    allow_live: bool
    alert_urls: tuple[str, ...]
    reconcile_seconds: int
    reconcile_max_age: int
    packages_blocked: tuple[str, ...]
    airflow_base_url: str


def load() -> Settings:
    """Read the settings from Airflow's configuration (files, then environment).

    :raises ConfigError: an option has a value that cannot be used.
    """
    from airflow.configuration import conf

    def text(key: str) -> str:
        return str(conf.get(SECTION, key, fallback=OPTIONS[key]["default"])).strip()

    def seconds(key: str) -> int:
        value = text(key)
        if not (value.isascii() and value.isdigit() and 0 < int(value) <= 86400):
            raise ConfigError(f"[{SECTION}] {key} is {value!r}.", remedy="Set it to whole seconds, from 1 to 86400.")
        return int(value)

    tracking = text("mlflow_tracking_uri").rstrip("/")
    if not tracking.startswith(("http://", "https://")):
        raise ConfigError(
            f"[{SECTION}] mlflow_tracking_uri is {tracking!r}, not an http(s) URL.",
            remedy="Set it to the address of an MLflow server, such as http://127.0.0.1:5500.",
        )
    consent = text("allow_live").lower()
    if consent not in ("true", "false"):
        raise ConfigError(f"[{SECTION}] allow_live is {consent!r}.", remedy="Set it to True or False.")
    return Settings(
        sql_alchemy_conn=text("sql_alchemy_conn"),
        workflows_folder=Path(text("workflows_folder")),
        charts_url=text("charts_url").rstrip("/"),
        mlflow_tracking_uri=tracking,
        mlflow_ui_url=text("mlflow_ui_url").rstrip("/") or tracking,
        allow_live=consent == "true",
        alert_urls=tuple(text("alert_urls").split()),
        reconcile_seconds=seconds("reconcile_seconds"),
        reconcile_max_age=seconds("reconcile_max_age"),
        packages_blocked=tuple(name.strip() for name in text("packages_blocked").split(",") if name.strip()),
        airflow_base_url=str(conf.get("api", "base_url", fallback="http://localhost:8080")).rstrip("/"),
    )
