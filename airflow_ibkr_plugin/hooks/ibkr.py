"""Connection type `ibkr`: where a gateway listens and which account is traded through it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_ibkr_plugin.errors import ConfigError, IBKRPluginError

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.spec import GatewaySpec

DEFAULT_PORT = 4002  # IB Gateway, paper. Source: IBKR's documentation of IB Gateway's API settings.
DEFAULT_CLIENT_IDS = "10-25"


def parse_client_ids(text: str) -> range:
    """Read `10-25` (both ends included) or `7`.

    :raises ConfigError: it is neither, or contains client id 0, which would adopt orders made by hand.
    """
    first, _, last = text.strip().partition("-")
    try:
        ids = range(int(first), int(last or first) + 1)
    except ValueError:
        ids = range(0)
    if not ids or ids.start < 1:
        raise ConfigError(f"client ids {text!r} are no range.", remedy="Write two numbers from 1 up, such as 10-25.")
    return ids


def gateway_of(conn_id: str, connection: Any) -> GatewaySpec:
    """The gateway that an Airflow connection names, wherever the connection was read from.

    :raises ConfigError: the connection has a field that cannot be used.
    """
    from airflow_ibkr_plugin.broker.spec import GatewaySpec

    extra = connection.extra_dejson
    mode = extra.get("trading_mode") or "paper"
    where = f"connection {conn_id!r}"
    if mode not in ("paper", "live"):
        raise ConfigError(f"{where}: trading_mode is {mode!r}.", remedy="Set it to paper or live.")
    try:
        ibc_port = int(extra["ibc_port"]) if extra.get("ibc_port") else None
        timeout = float(extra.get("timeout") or 10)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}.", remedy="ibc_port and timeout are numbers.") from error
    if not (0 < timeout < math.inf):
        raise ConfigError(f"{where}: timeout is {timeout}.", remedy="Set it to seconds above zero, such as 10.")
    return GatewaySpec(
        conn_id=conn_id,
        host=connection.host or "127.0.0.1",
        port=connection.port or DEFAULT_PORT,
        client_ids=parse_client_ids(str(extra.get("client_ids") or DEFAULT_CLIENT_IDS)),
        account=extra.get("account") or "",
        live=mode == "live",
        ibc_port=ibc_port,
        timeout=timeout,
    )


class IBKRHook(BaseHook):
    """Reads an `ibkr` connection. The broker itself is reached through `airflow_ibkr_plugin.broker`."""

    conn_name_attr = "ibkr_conn_id"
    default_conn_name = "ibkr_default"
    conn_type = "ibkr"
    hook_name = "Interactive Brokers"

    def __init__(self, ibkr_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ibkr_conn_id = ibkr_conn_id

    def get_conn(self) -> GatewaySpec:
        """Return the gateway that the connection names.

        :raises ConfigError: the connection has a field that cannot be used.
        """
        return gateway_of(self.ibkr_conn_id, self.get_connection(self.ibkr_conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Airflow's *Test* button: log in to the gateway and ask for the time and the accounts."""
        from airflow_ibkr_plugin.broker.auth import check_session

        try:
            status = check_session(self.get_conn())
        except IBKRPluginError as error:
            return False, str(error)
        return status.valid, status.detail
