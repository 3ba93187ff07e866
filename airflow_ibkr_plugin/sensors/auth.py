"""Wait until the broker session is valid."""

from __future__ import annotations

from typing import Any

from airflow_ibkr_plugin.sensors.base import BrokerSensor
from airflow_ibkr_plugin.triggers.auth import AuthTrigger


class AuthSensor(BrokerSensor):
    """True when the gateway's session with IBKR is valid, False when not.

    An invalid session is re-authenticated: reconnect, then IBC's command server where the connection names one,
    then an alert that a human is needed, once a day, while the sensor goes on waiting.
    """

    ui_color = "#e8f1d4"

    def poke(self, context: Any) -> bool:
        """Look once, and reconnect if needed; restarting the gateway takes minutes and is left to the triggerer."""
        from airflow_ibkr_plugin.execution.waiting import Effort, session_status

        status = session_status(self.gateway(), strategy=self.strategy, effort=Effort.RECONNECT)
        self.log.info("%s", status.detail)
        return status.ready

    def trigger(self, owner: str) -> AuthTrigger:
        """See the base class."""
        return AuthTrigger(
            gateway=self.gateway().to_dict(), poke_interval=self.poke_interval, owner=owner, strategy=self.strategy
        )
