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
        "config": {SECTION: {"description": "Interactive Brokers plugin.", "options": OPTIONS}},
    }
