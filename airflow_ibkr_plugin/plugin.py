"""The Airflow plugin: what appears in Airflow's own UI."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class IBKRPlugin(AirflowPlugin):
    """Registered through the `airflow.plugins` entry point."""

    name = "ibkr"
