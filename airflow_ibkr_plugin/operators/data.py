"""Reading back, by its summary, what an earlier task stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.bars import Bar


def load_bars(database: Database, summary: Mapping[str, Any]) -> list[Bar]:
    """The bars that a `MarketDataOperator` summary speaks of, oldest first.

    :raises NoMarketData: they are no longer in the database.
    """
    from airflow_ibkr_plugin.errors import NoMarketData
    from airflow_ibkr_plugin.store.bars import Bars

    with database.read() as session:
        bars = Bars(session).load(
            summary["source"],
            summary["instrument"]["con_id"],
            summary["bar_size"],
            summary["what"],
            summary["use_rth"],
            datetime.fromisoformat(summary["first"]),
            datetime.fromisoformat(summary["last"]),
        )
    if not bars:
        raise NoMarketData(
            f"the bars of {summary['symbol']} are no longer in the trading database.",
            remedy="Clear the market-data task of this run, so that they are fetched again.",
        )
    return bars


def chart_label(summary: Mapping[str, Any]) -> str:
    """What is printed on a chart whose prices are no market's."""
    if not str(summary["source"]).startswith("simulator"):
        return ""
    return f"SIMULATED · {summary['instrument']['long_name']}"
