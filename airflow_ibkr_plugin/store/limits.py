"""The limits of accounts: what is in force, every change of it, and that a time is over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.models.limits import LimitChange
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.store.sql import current_time
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.account_limits import EVERY_ACCOUNT, AccountLimit

_EXPIRY = "expiry"  # who changed it, where a time was over


class Limits:
    """Limits by account and rule. `at` is UTC now by the database's clock, see `current_time`.

    In force is the newest change whose time is not over. One without an end hides all that came before it for good.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def in_force(self, account: str | None, at: datetime | None = None) -> tuple[AccountLimit, ...]:
        """What holds for the account, by its own limits and by those of every account; None: all there is.

        :param at: now, where it is not told.
        """
        query = _LIVE if account is None else _LIVE_FOR
        rows = self._session.scalars(query, {"account": account}).all()
        if at is None and any(row.until for row in rows):
            at = current_time(self._session)
        newest = {(row.account, row.rule): row for row in rows if at is None or _runs(row, at)}
        return tuple(_limit(newest[key]) for key in sorted(newest))

    def change(
        self,
        account: str,
        rule: str,
        parameters: Mapping[str, Any] | None,
        *,
        by: str,
        reason: str,
        at: datetime,
        until: datetime | None = None,
    ) -> LimitChange | None:
        """Set a limit, or with None take it away, and record who did it and why. None where it was so already.

        Waits until every order that is about to begin to be sent has done so; those after it see the change.

        :param until: when it reverts to what was before, aware UTC.
        """
        TradingStates(self._session).hold_alone()
        self.record_ends(at)
        old = self._in_force(account, rule, at)
        old_parameters = dict(old.parameters) if old and old.parameters is not None else None
        new_parameters = None if parameters is None else dict(parameters)
        if (old_parameters, old.until if old else None) == (new_parameters, until):
            return None
        if until is None:
            self._bury(account, rule)
        row = LimitChange(
            account=account,
            rule=rule,
            old_parameters=old_parameters,
            new_parameters=new_parameters,
            until=until,
            changed_by=by,
            reason=reason,
            at=at,
            live=until is not None or new_parameters is not None,
        )
        self._session.add(row)
        self._session.flush()
        return row

    def record_ends(self, at: datetime) -> list[LimitChange]:
        """Record the changes whose time is over by now, where that changed something; returns the new records."""
        query = select(LimitChange).where(LimitChange.live, LimitChange.until <= at)
        ended = list(self._session.scalars(query.order_by(LimitChange.until, LimitChange.id).with_for_update()))
        records = [record for row in ended if (record := self._end(row))]
        self._session.add_all(records)
        self._session.flush()
        return records

    def _end(self, row: LimitChange) -> LimitChange | None:
        assert row.until is not None
        hidden = self._newer(row)
        row.live = False
        self._session.flush()
        if hidden:
            return None
        now = self._in_force(row.account, row.rule, row.until)
        return LimitChange(
            account=row.account,
            rule=row.rule,
            old_parameters=row.new_parameters,
            new_parameters=None if now is None or now.parameters is None else dict(now.parameters),
            until=now.until if now else None,
            changed_by=_EXPIRY,
            reason=f"the time of change {row.id} by {row.changed_by} was over",
            at=row.until,
            live=False,
            ended_id=row.id,
        )

    def _newer(self, row: LimitChange) -> bool:
        """Whether a later change was in force until this one's time was over."""
        query = select(LimitChange.id).where(
            LimitChange.live,
            LimitChange.account == row.account,
            LimitChange.rule == row.rule,
            LimitChange.id > row.id,
            or_(LimitChange.until.is_(None), LimitChange.until >= row.until),
        )
        return self._session.scalar(query.limit(1)) is not None

    def _in_force(self, account: str, rule: str, at: datetime) -> AccountLimit | None:
        found = (limit for limit in self.in_force(account, at) if (limit.account, limit.rule) == (account, rule))
        return next(found, None)

    def _bury(self, account: str, rule: str) -> None:
        self._session.execute(
            update(LimitChange)
            .where(LimitChange.live, LimitChange.account == account, LimitChange.rule == rule)
            .values(live=False)
        )

    def history(self, account: str | None = None, rule: str | None = None) -> list[LimitChange]:
        """Every change, of an account ('' for every account) and of a rule where given, by its time."""
        query = select(LimitChange)
        if account is not None:
            query = query.where(LimitChange.account == account)
        if rule is not None:
            query = query.where(LimitChange.rule == rule)
        return list(self._session.scalars(query.order_by(LimitChange.at, LimitChange.id)))

    def knows(self, account: str) -> bool:
        """Whether any order of the account is on record; always of every account."""
        query = select(OrderIntent.id).where(OrderIntent.account == account).limit(1)
        return account == EVERY_ACCOUNT or self._session.scalar(query) is not None


# Made once, as every order asks. As it is now: the session may have read it before it waited for a lock.
_LIVE = select(LimitChange).where(LimitChange.live).order_by(LimitChange.id)
_LIVE = _LIVE.execution_options(populate_existing=True)
_LIVE_FOR = _LIVE.where(or_(LimitChange.account == EVERY_ACCOUNT, LimitChange.account == bindparam("account")))


def _runs(row: LimitChange, at: datetime) -> bool:
    return row.until is None or row.until > at


def _limit(row: LimitChange) -> AccountLimit:
    return AccountLimit(
        id=row.id,
        account=row.account,
        rule=row.rule,
        parameters=row.new_parameters,
        until=row.until,
        changed_by=row.changed_by,
        reason=row.reason,
    )
