"""Commands about market data: what the account may see, and at which pace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.control.fields import Answer, Command, Field, Kind, choice, flag
from airflow_ibkr_plugin.simulator.market.access import Access
from airflow_ibkr_plugin.simulator.market.catalogue import Instrument

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.server import Simulator


def _market_data(simulator: Simulator, values: dict[str, Any]) -> Answer:
    gateway, wanted = simulator.gateway, values["symbols"]
    found: list[Instrument] = [item for item in gateway.catalogue if wanted is None or item.symbol in wanted]
    if unknown := set(wanted or ()) - {item.symbol for item in found}:
        raise ConfigError(f"market_data: no contract has the symbol {', '.join(sorted(unknown))}.")
    gateway.access.set(found, values["access"])
    return {"access": {str(con_id): access for con_id, access in gateway.access.state().items()}}


def _pacing_rules(simulator: Simulator, values: dict[str, Any]) -> Answer:
    access = simulator.gateway.access
    if values["on"] is not None:
        for rules in (access.history, access.real_time_bars):
            rules.switch(on=values["on"])
    return {"on": access.history.on, "counted": access.history.counted, "refused": access.history.refused}


def _texts(value: Any) -> list[str]:
    if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise TypeError(value)
    return [item.upper() for item in value]


DATA = (
    Command(
        "market_data",
        "the account's subscription to some contracts' data; streams that run go on as they are",
        {"symbols": ["AAPL"], "access": "delayed"},
        _market_data,
        (
            Field("symbols", Kind("a list of symbols", _texts), "of these contracts; left out: all", None),
            Field(
                "access",
                choice(*Access),
                "live; delayed: 354, or 10167 and delayed data; no_api: 10089 instead of 354; partial: 10090, no bid"
                " and ask; none: 354, or 10168; competing: 10197",
            ),
        ),
    ),
    Command(
        "pacing_rules",
        "whether history, ticks and real-time bars are refused for their pace (162, 420); requests for history so far",
        {"on": False},
        _pacing_rules,
        (Field("on", flag(), "they are, as from the start; counting starts anew; left out: as it is", None),),
    ),
)
