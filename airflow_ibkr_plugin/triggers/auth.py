"""The waiting half of AuthSensor."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.triggers.poll import PollTrigger

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.waiting import Status


class AuthTrigger(PollTrigger):
    """Fires when the gateway's session with IBKR is valid; re-authenticates on the way.

    Once a person is needed it only looks, so as not to disturb that person's login; the next day (UTC) it tries
    everything again.
    """

    def __init__(self, *, strategy: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strategy = strategy
        self._human_needed_on: date | None = None

    def parameters(self) -> dict[str, Any]:
        """See the base class."""
        return {"strategy": self.strategy}

    def look(self) -> Status:
        """See the base class."""
        from airflow_ibkr_plugin.broker.spec import GatewaySpec
        from airflow_ibkr_plugin.execution.waiting import Effort, session_status

        today = datetime.now(UTC).date()
        effort = Effort.CHECK if self._human_needed_on == today else Effort.RESTART
        status = session_status(GatewaySpec.from_dict(self.gateway), strategy=self.strategy, effort=effort)
        if status.needs_human:
            self._human_needed_on = today
        return status
