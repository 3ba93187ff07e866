"""Wait until the market is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ibkr_plugin.sensors.base import BrokerSensor
from airflow_ibkr_plugin.triggers.market_open import MarketOpenTrigger


class MarketOpenSensor(BrokerSensor):
    """True when the market of every symbol is open by the broker's clock, False when one is closed.

    IBKR's own liquidHours of each contract decide; a calendar named here must agree as well.

    :param symbols: instruments as in the workflow.
    :param calendar: name of an exchange calendar, such as XNYS; empty means liquidHours alone.
    """

    template_fields: Sequence[str] = ("symbols",)
    ui_color = "#e8f1d4"

    def __init__(self, *, symbols: Sequence[str | Mapping[str, Any]], calendar: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.symbols = symbols
        self.calendar = calendar

    def poke(self, context: Any) -> bool:
        """Look once: is every market open now?"""
        from airflow_ibkr_plugin.execution.waiting import market_status
        from airflow_ibkr_plugin.operators.base import TaskRun

        owner = TaskRun.from_context(context).owner
        status = market_status(self.gateway(), list(self.symbols), self.calendar, owner=owner)
        self.log.info("%s", status.detail)
        return status.ready

    def trigger(self, owner: str) -> MarketOpenTrigger:
        """See the base class."""
        return MarketOpenTrigger(
            gateway=self.gateway().to_dict(),
            poke_interval=self.poke_interval,
            owner=owner,
            symbols=list(self.symbols),
            calendar=self.calendar,
        )
