"""Where a gateway listens and what may be done through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GatewaySpec:
    """One IB Gateway or TWS, and the account that is traded through it.

    :param conn_id: Airflow connection that it comes from; part of the `source` of every record.
    :param client_ids: API client ids that sessions may lease, never 0 (it would adopt orders made by hand).
    :param account: such as DU1234567; '' means the only one that the login manages.
    :param live: whether real money may be traded. A paper spec refuses a live account and the other way round.
    :param ibc_port: port of IBC's command server on the gateway's host, None where there is none.
    :param timeout: seconds to wait for any one answer of the gateway.
    """

    conn_id: str
    host: str
    port: int
    client_ids: range
    account: str
    live: bool = False
    ibc_port: int | None = None
    timeout: float = 10.0

    @property
    def address(self) -> str:
        """`host:port`. Client ids and order ids belong to it, whichever connection they were used through."""
        return f"{self.host}:{self.port}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for a trigger's arguments. Nothing in it is secret."""
        return {**asdict(self), "client_ids": [self.client_ids.start, self.client_ids.stop]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> GatewaySpec:
        """Inverse of :meth:`to_dict`."""
        return cls(**{**value, "client_ids": range(*value["client_ids"])})
