"""The waiting half of MarketOpenSensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.triggers.poll import PollTrigger

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.waiting import Status


class MarketOpenTrigger(PollTrigger):
    """Fires when the market of every symbol is open by the broker's clock."""

    def __init__(self, *, symbols: Sequence[Any], calendar: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.symbols = list(symbols)
        self.calendar = calendar

    def parameters(self) -> dict[str, Any]:
        """See the base class."""
        return {"symbols": self.symbols, "calendar": self.calendar}

    def look(self) -> Status:
        """See the base class."""
        from airflow_ibkr_plugin.broker.spec import GatewaySpec
        from airflow_ibkr_plugin.execution.waiting import market_status

        return market_status(GatewaySpec.from_dict(self.gateway), self.symbols, self.calendar, owner=self.owner)
