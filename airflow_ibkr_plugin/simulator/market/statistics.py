"""Highs, lows and the average volume of the weeks before a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.prices import Market

_AVERAGE_DAYS = 90


@dataclass(frozen=True, slots=True)
class Statistics:
    """:param prices: low and high of 13, 26 and 52 weeks. :param average_volume: shares a session, of 90 days."""

    prices: tuple[float, ...]
    average_volume: int


def year_statistics(market: Market, instrument: Instrument, day: date) -> Statistics:
    """Of the complete sessions before that day, or of the day itself where there are none."""
    days = [day - timedelta(days=n) for n in range(1, 365)]
    known = [bar for one in days if instrument.hours.session(one) and (bar := market.day_bar(instrument, one))]
    known = known or [bar for bar in [market.day_bar(instrument, day)] if bar]
    prices: list[float] = []
    for weeks in (13, 26, 52):
        span = [bar for bar in known if day - bar.day <= timedelta(weeks=weeks)] or known
        prices += [min(bar.low for bar in span), max(bar.high for bar in span)]
    volumes = [bar.volume for bar in known if day - bar.day <= timedelta(days=_AVERAGE_DAYS)] or [0]
    return Statistics(tuple(prices), sum(volumes) // len(volumes))
