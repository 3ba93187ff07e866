"""Whether a statement proves that nothing more can come of an order."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.market_hours import parse_hours
from airflow_ibkr_plugin.trading.orders import TimeInForce

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.flex import Period
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

# Where the hours of its market are not known: no market is closed longer than over a long weekend.
_LONGEST_CLOSE = timedelta(days=5)


def day_is_over(row: OrderIntent, period: Period) -> bool:
    """Whether an order that is good for a day has ended within the days that the statement tells everything of.

    An order that was sent while its market was closed is good for the next session. GTC orders prove nothing.
    """
    if row.tif not in (TimeInForce.DAY, TimeInForce.IOC) or row.broker_day is None or row.sent_at is None:
        return False
    return period.first <= row.broker_day and _last_day(row, row.broker_day, row.sent_at) <= period.last


def _last_day(row: OrderIntent, day: date, sent_at: datetime) -> date:
    # A simulated clock says another time than ours, and then the time of the day is not known.
    sent = sent_at if broker_day(sent_at) == day else datetime(day.year, day.month, day.day, 23, 59, tzinfo=UTC)
    instrument = Instrument.from_dict(row.instrument)
    text = instrument.trading_hours if row.outside_rth else instrument.liquid_hours
    sessions = parse_hours(text, instrument.time_zone).open if text else ()
    ends = [end for _, end in sessions if end > sent]
    return max(day, broker_day(min(ends))) if ends else day + _LONGEST_CLOSE
