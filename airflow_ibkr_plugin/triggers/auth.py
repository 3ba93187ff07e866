"""The waiting half of AuthSensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.triggers.poll import PollTrigger

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.waiting import Status


class AuthTrigger(PollTrigger):
    """Fires when the gateway's session with IBKR is valid; re-authenticates on the way."""

    def __init__(self, *, strategy: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strategy = strategy

    def parameters(self) -> dict[str, Any]:
        """See the base class."""
        return {"strategy": self.strategy}

    def look(self) -> Status:
        """See the base class."""
        from airflow_ibkr_plugin.broker.spec import GatewaySpec
        from airflow_ibkr_plugin.execution.waiting import session_status

        return session_status(GatewaySpec.from_dict(self.gateway), strategy=self.strategy)
