"""What Airflow's provider manager learns about this distribution."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider metadata (schema: Airflow's provider_info.schema.json)."""
    from airflow_ibkr_plugin import __version__
    from airflow_ibkr_plugin.settings import OPTIONS, SECTION

    return {
        "package-name": "airflow-ibkr-plugin",
        "name": "Interactive Brokers",
        "description": "Interactive Brokers trading workflows: YAML to DAG, risk, exactly-once orders, MLflow.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "Interactive Brokers",
                "external-doc-url": "https://www.interactivebrokers.com/campus/ibkr-api-page/",
                "tags": ["service"],
            }
        ],
        "connection-types": [_connection_type()],
        "cli": ["airflow_ibkr_plugin.cli.definition.get_ibkr_cli_commands"],
        "config": {SECTION: {"description": "Interactive Brokers plugin.", "options": OPTIONS}},
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "ibkr",
        "hook-class-name": "airflow_ibkr_plugin.hooks.ibkr.IBKRHook",
        "hook-name": "Interactive Brokers",
        "ui-field-behaviour": {
            "hidden-fields": ["login", "password", "schema", "extra"],
            "relabeling": {"host": "Gateway host", "port": "API port"},
            "placeholders": {"host": "127.0.0.1", "port": "4002 (IB Gateway paper), 4001 (live), 7497, 7496 (TWS)"},
        },
        "conn-fields": {
            "account": {
                "label": "Account",
                "description": "Account to trade, such as DU1234567; empty means the only one the login manages.",
                "schema": {"type": ["string", "null"]},
            },
            "trading_mode": {
                "label": "Trading mode",
                "description": "paper, or live. Live needs the consent of the installation and the workflow as well.",
                "schema": {"type": "string", "enum": ["paper", "live"], "default": "paper"},
            },
            "client_ids": {
                "label": "Client ids",
                "description": "API client ids that tasks may lease, such as 10-25; each open session holds one.",
                "schema": {"type": "string", "default": "10-25"},
            },
            "ibc_port": {
                "label": "IBC command port",
                "description": "Port of IBC's command server on the gateway's host; empty where there is none.",
                "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 65535},
            },
            "timeout": {
                "label": "Time-out (s)",
                "description": "Seconds to wait for any one answer of the gateway.",
                "schema": {"type": "number", "default": 10, "minimum": 1, "maximum": 120},
            },
        },
    }
