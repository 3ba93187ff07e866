"""Real recorded prices for the simulated gateway: the index histories that the package `arch` carries.

An index cannot be bought; the simulator trades it as a fictitious stock, and says so wherever its name is shown.
"""

from __future__ import annotations

import json
from pathlib import Path

REPLAYED = {
    "XSPX": ("sp500", "FICTITIOUS stock: S&P 500 index history, replayed"),
    "XNDX": ("nasdaq", "FICTITIOUS stock: NASDAQ Composite index history, replayed"),
}

#: When the simulated clock starts: an ordinary Wednesday inside the recorded years, an hour into the session.
FIRST_MORNING = "2018-06-13T14:30:00+00:00"


def write_replay(folder: Path) -> None:
    """Write the recorded daily bars as `catalogue.json` and one CSV a symbol, as the simulator reads them.

    :raises ConfigError: the package `arch` is not installed.
    """
    if (folder / "catalogue.json").exists():
        return
    from airflow_ibkr_plugin.errors import ConfigError

    try:
        from arch.data import nasdaq, sp500
    except ImportError as error:
        raise ConfigError(
            "the recorded prices are not installed.", remedy="pip install 'airflow-ibkr-plugin[embedded]'"
        ) from error

    folder.mkdir(parents=True, exist_ok=True)
    loaders = {"sp500": sp500.load, "nasdaq": nasdaq.load}
    catalogue = []
    for symbol, (source, long_name) in REPLAYED.items():
        frame = loaders[source]()[["Open", "High", "Low", "Close", "Volume"]].dropna()
        frame.columns = [name.lower() for name in frame.columns]
        frame.index.name = "date"
        frame.to_csv(folder / f"{symbol}.csv", date_format="%Y-%m-%d")
        catalogue.append(
            {
                "symbol": symbol,
                "longName": long_name,
                "secType": "STK",
                "currency": "USD",
                "exchange": "SMART",
                "primaryExchange": "REPLAY",
                "tz": "America/New_York",
                "calendar": "XNYS",
                "file": f"{symbol}.csv",
            }
        )
    draft = folder / "catalogue.tmp"
    draft.write_text(json.dumps(catalogue, indent=1))
    draft.replace(folder / "catalogue.json")
