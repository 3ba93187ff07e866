"""Splits as prices show them: cached bars held against the broker's, which follow a split."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.broker.pacing import Pacing
from airflow_ibkr_plugin.store.bars import Bars
from airflow_ibkr_plugin.store.reconciliations import NoticedSplits
from airflow_ibkr_plugin.trading.bar_checks import split_ratio
from airflow_ibkr_plugin.trading.pacing import HistoryRequest

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.instruments import Instrument

_SIZE = "1 day"
_DAYS = 10


def split_factors(
    session: BrokerSession, database: Database, instrument: Instrument, *, since: datetime | None
) -> list[float]:
    """By how much prices were higher before: as market data have noticed it since, or as the cache shows it now.

    :param since: aware UTC; None for all times.
    :returns: such as 4.0 after a split of four for one; empty where prices show none, or no daily bars are cached.
    :raises BrokerError: the broker could not be asked for bars, or its pace is used up.
    """
    with database.read() as transaction:
        noticed = NoticedSplits(transaction).since(session.source, instrument.con_id, since)
        cached_as = Bars(transaction).latest_series(session.source, instrument.con_id, _SIZE)
        if noticed or cached_as is None:
            return noticed
        what, use_rth, last = cached_as
        series = (session.source, instrument.con_id, _SIZE, what, use_rth)
        cached = Bars(transaction).load(*series, last - timedelta(days=_DAYS), last)
    request = HistoryRequest(
        con_id=instrument.con_id, what=what, bar_size=_SIZE, duration=f"{2 * _DAYS} D", end=None, use_rth=use_rth
    )
    fetched = Pacing(database, session.spec.address).history(session, instrument, request)
    factor = split_ratio(cached, fetched)
    return [] if factor is None else [factor]
