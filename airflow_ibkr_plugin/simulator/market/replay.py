"""Recorded daily bars that the gateway replays.

The folder holds `catalogue.json`, a list of `{symbol, longName, secType, currency, exchange, primaryExchange, tz,
calendar, file}`, and for each entry a CSV file with the columns `date,open,high,low,close,volume`.
"""

from __future__ import annotations

import csv
import json
import math
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.market.catalogue import STOCK, Instrument, stable_con_id, stock
from airflow_ibkr_plugin.simulator.market.days import DayBar
from airflow_ibkr_plugin.simulator.market.hours import ExchangeHours, RecordedHours

_KEYS = ("symbol", "longName", "secType", "currency", "exchange", "primaryExchange", "tz", "calendar", "file")


def load_replay(folder: Path, last_year: int) -> list[tuple[Instrument, dict[date, DayBar]]]:
    """The recorded instruments and their days.

    :raises ConfigError: a file is missing or wrong; names the file and the line.
    """
    path = folder / "catalogue.json"
    try:
        entries = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", remedy="Check --replay.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}.", remedy="Correct the file.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path} is not a list of instruments.", remedy="See docs/simulator-market.md for its form.")
    return [_load(folder, path, entry, last_year) for entry in entries]


def _load(folder: Path, path: Path, entry: dict[str, Any], last_year: int) -> tuple[Instrument, dict[date, DayBar]]:
    missing = [key for key in _KEYS if not isinstance(entry.get(key), str)]
    if missing:
        raise ConfigError(f"{path}: an instrument lacks {', '.join(missing)}.", remedy="Add them as texts.")
    if entry["secType"] != STOCK:
        raise ConfigError(
            f"{path}: {entry['symbol']} is {entry['secType']!r}; only STK is replayed.", remedy="Set secType to STK."
        )
    try:
        exchange = ExchangeHours(entry["calendar"], entry["tz"], last_year)
    except (ConfigError, ZoneInfoNotFoundError, ValueError) as error:
        why = error.message if isinstance(error, ConfigError) else str(error)
        raise ConfigError(
            f"{path}: {entry['symbol']} has the calendar {entry['calendar']!r} and zone {entry['tz']!r}: {why}",
            remedy="Use a calendar code of exchange_calendars and an IANA time zone.",
        ) from error
    days = _read_days(folder / entry["file"], exchange)
    instrument = stock(
        stable_con_id(entry["symbol"], entry["primaryExchange"], entry["currency"]),
        entry["symbol"].upper(),
        entry["longName"],
        entry["primaryExchange"],
        RecordedHours(sorted(days), exchange),
        currency=entry["currency"],
        recorded=True,
    )
    return instrument, days


def _read_days(path: Path, exchange: ExchangeHours) -> dict[date, DayBar]:
    days: dict[date, DayBar] = {}
    try:
        with path.open(newline="") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                bar = _day(f"{path}, line {line}", row)
                if exchange.session(bar.day) is None:
                    raise ConfigError(
                        f"{path}, line {line}: {bar.day} is no session of {exchange.calendar}.",
                        remedy="Correct the date or the calendar.",
                    )
                if bar.day in days:
                    raise ConfigError(
                        f"{path}, line {line}: {bar.day} is there twice.", remedy="Remove one of the two rows."
                    )
                days[bar.day] = bar
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", remedy="Check `file` in its catalogue."
        ) from error
    if not days:
        raise ConfigError(f"{path} holds no bars.", remedy="Add rows of date,open,high,low,close,volume.")
    return days


def _day(where: str, row: dict[str, Any]) -> DayBar:
    try:
        day = date.fromisoformat(row["date"][:10])
        first, high, low, last = (float(row[key]) for key in ("open", "high", "low", "close"))
        volume = int(float(row["volume"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where} is no daily bar: {error!r}.", remedy="Use date,open,high,low,close,volume."
        ) from error
    sound = all(map(math.isfinite, (first, high, low, last))) and 0 < low <= min(first, last)
    if not sound or max(first, last) > high or volume < 0:
        raise ConfigError(f"{where}: low <= open, close <= high does not hold.", remedy="Correct the recorded bar.")
    return DayBar(day, first, high, low, last, volume)
