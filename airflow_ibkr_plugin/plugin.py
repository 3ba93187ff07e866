"""The Airflow plugin: what appears in Airflow's own UI.

Every process of Airflow imports this module, and only the api-server needs the pages: all of them are made lazily.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

# Relative to the page's base, which is the path of [api] base_url.
PAGE_URL = "pluginsv2/ibkr/strategies"


class IBKRPlugin(AirflowPlugin):
    """Registered through the `airflow.plugins` entry point."""

    name = "ibkr"
    external_views = [  # noqa: RUF012  Airflow's own declaration
        {
            "name": "IBKR strategies",
            "href": PAGE_URL,
            "destination": "nav",
            "url_route": "ibkr-strategies",
        }
    ]

    @cached_property
    def flask_blueprints(self) -> list[Any]:  # type: ignore[override]
        """Templates, static files and the login bridge of the pages."""
        from airflow_ibkr_plugin.ui.blueprint import blueprint

        return [blueprint]

    @cached_property
    def appbuilder_views(self) -> list[Any]:  # type: ignore[override]
        """The Flask-AppBuilder pages."""
        from airflow_ibkr_plugin.ui.views import StrategiesView

        return [{"view": StrategiesView()}]

    @cached_property
    def global_operator_extra_links(self) -> list[Any]:  # type: ignore[override]
        """The link from a task instance to its MLflow run."""
        from airflow_ibkr_plugin.links import MLflowRunLink

        return [MLflowRunLink()]
