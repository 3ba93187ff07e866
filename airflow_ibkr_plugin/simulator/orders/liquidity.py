"""How much of an order a second takes.

A second offers each order five seconds' worth of the day's volume, at the price of its quote, and 5,000 shares at
least: small orders fill whole, at once. Forex and days without a volume offer any quantity. Orders do not compete with
each other, and do not move the price.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.simulator.market.catalogue import Instrument
from airflow_ibkr_plugin.simulator.market.hours import Session
from airflow_ibkr_plugin.simulator.market.prices import volume_until

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.market.days import DayBar

_LEAST = 5_000
_SECONDS = 5
_ANY = Decimal(10) ** 15


def offered(instrument: Instrument, bar: DayBar, session: Session, second: int) -> Decimal:
    """Whole shares that an order may get in that second of the session."""
    if instrument.is_forex or not bar.volume:
        return _ANY
    traded = volume_until(bar, session, second + _SECONDS) - volume_until(bar, session, second)
    return Decimal(max(traded, _LEAST))
