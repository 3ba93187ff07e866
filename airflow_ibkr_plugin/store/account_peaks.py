"""The highest net liquidation value of an account on each of the broker's days, as far as anyone looked."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.database import lock
from airflow_ibkr_plugin.store.models.limits import AccountPeak
from airflow_ibkr_plugin.store.sources import gateway_kind
from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot
from airflow_ibkr_plugin.trading.risk_facts import Peak


class AccountPeaks:
    """Peaks by account, by every connection to it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def record(self, source: str, snapshot: AccountSnapshot, *, at: datetime) -> None:
        """Raise the peak of the snapshot's day if it is higher. What is no number is no peak.

        :param at: UTC now.
        """
        kind, value = gateway_kind(source), snapshot.net_liquidation
        if not value.is_finite():
            return
        key = (kind, snapshot.account, broker_day(snapshot.at), snapshot.currency)
        row = self._session.get(AccountPeak, key)
        if row is not None and row.value >= value:
            return
        lock(self._session, f"peak:{kind}:{snapshot.account}")  # two may have found it lower than theirs
        row = self._session.get(AccountPeak, key, populate_existing=True)
        if row is None:
            kind, account, day, currency = key
            self._session.add(AccountPeak(kind=kind, account=account, day=day, currency=currency, value=value, at=at))
        elif row.value < value:
            row.value, row.at = value, at
        self._session.flush()

    def since(self, source: str, account: str, first: date) -> tuple[Peak, ...]:
        """The peaks of that day and later."""
        rows = self._session.execute(_SINCE, {"kind": gateway_kind(source), "account": account, "first": first})
        return tuple(Peak(day=row.day, value=row.value, currency=row.currency) for row in rows)


# Made once, as orders ask.
_SINCE = (
    select(AccountPeak.day, AccountPeak.value, AccountPeak.currency)
    .where(
        AccountPeak.kind == bindparam("kind"),
        AccountPeak.account == bindparam("account"),
        AccountPeak.day >= bindparam("first"),
    )
    .order_by(AccountPeak.day)
)
