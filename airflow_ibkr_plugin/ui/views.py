"""The pages. Each asks one function for its data and renders one template."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.app import API_ROOT_PATH, get_auth_manager
from flask import Response, abort, g
from flask_appbuilder import BaseView, expose, has_access, permission_name

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.analysis.chart_storage import load_chart
from airflow_ibkr_plugin.errors import ChartMissing, IBKRPluginError
from airflow_ibkr_plugin.store.charts import Charts
from airflow_ibkr_plugin.store.database import open_database
from airflow_ibkr_plugin.ui.blueprint import RESOURCE
from airflow_ibkr_plugin.ui.strategies import list_strategies


class StrategiesView(BaseView):  # type: ignore[misc]
    """Every strategy at a glance."""

    route_base = "/ibkr"
    class_permission_name = RESOURCE
    default_view = "strategies"
    base_permissions = ["can_read"]  # noqa: RUF012  FAB's own declaration

    @expose("/strategies")
    @has_access
    @permission_name("read")
    def strategies(self) -> Any:
        """The page that Airflow's navigation opens."""
        try:
            rows = list_strategies(open_database(), settings.load(), _readable_dag_ids())
        except IBKRPluginError as error:
            return self.render_template("ibkr/unavailable.html", error=error), 503
        return self.render_template("ibkr/strategies.html", strategies=rows, airflow=API_ROOT_PATH)

    @expose("/charts/<int:chart_id>.png")
    @has_access
    @permission_name("read")
    def chart(self, chart_id: int) -> Any:
        """One stored chart."""
        try:
            with open_database().read() as session:
                stored = Charts(session).get(chart_id)
                if stored is None or stored.dag_id not in _readable_dag_ids():
                    abort(404)
                url, sha256 = stored.url, stored.sha256
            picture = load_chart(url, sha256)
        except ChartMissing:
            abort(404)
        except IBKRPluginError as error:
            return Response(str(error), 503, mimetype="text/plain")
        return Response(picture, mimetype="image/png", headers={"Cache-Control": "private, max-age=86400"})


def _readable_dag_ids() -> set[str]:
    """The DAGs that Airflow lets this user see; a strategy shows no more than its DAG does."""
    return set(get_auth_manager().get_authorized_dag_ids(user=g.user, method="GET"))
