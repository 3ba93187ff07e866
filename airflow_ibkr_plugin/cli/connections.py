"""Airflow connections, read outside of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.spec import GatewaySpec


def gateway_of(conn_id: str) -> GatewaySpec:
    """The gateway of a connection, from the environment, a secrets backend or Airflow's own database.

    :raises ConfigError: there is no such connection, or it has a field that cannot be used.
    """
    from airflow.models import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_ibkr_plugin.hooks import ibkr

    try:
        # Not the hook: outside of a task it asks neither the api-server nor Airflow's database.
        return ibkr.gateway_of(conn_id, Connection.get_connection_from_secrets(conn_id))
    except AirflowNotFoundException as error:
        raise ConfigError(
            f"There is no Airflow connection {conn_id!r}, and orders that went through it are not finished.",
            remedy="Make it again, until they are.",
        ) from error
