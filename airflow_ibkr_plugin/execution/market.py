"""What an order decision looks at, gathered from the broker before the transaction that decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.trading.market_hours import is_open

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.instruments import Instrument
    from airflow_ibkr_plugin.trading.orders import OrderTicket
    from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Quote
    from airflow_ibkr_plugin.trading.risk import RiskRule
    from airflow_ibkr_plugin.trading.risk_facts import Margin

#: What was gathered is asked for again when the transaction begins later than this.
EXPIRY_SECONDS = 15.0

# IBKR's servers keep their days by New York's time.
_BROKER_ZONE = ZoneInfo("America/New_York")

#: Changes with every fill that is booked in an account.
Mark = tuple[tuple[str, str, int, Decimal, datetime], ...]


@dataclass(frozen=True, kw_only=True)
class Market:
    """Quote, account and hours at one moment.

    :param now: broker's clock, aware UTC.
    :param position: signed quantity of the instrument in the account, whoever bought it.
    :param mark: the account's booked positions just before it was asked. While they stay the same, every fill that
        its positions lack is still counted as reserved.
    :param margin: the broker's what-if for the order, where a rule needs one.
    :param daily_pnl: the account's profit of the day, where a rule needs it.
    :param gathered: `time.monotonic()` when gathering began.
    """

    now: datetime
    quote: Quote
    account: AccountSnapshot
    position: Decimal
    market_open: bool | None
    mark: Mark
    gathered: float
    margin: Margin | None = None
    daily_pnl: Decimal | None = None

    @property
    def expired(self) -> bool:
        """Whether it is too old to decide by."""
        return time.monotonic() - self.gathered > EXPIRY_SECONDS


def gather(session: BrokerSession, database: Database, instrument: Instrument) -> Market:
    """Ask the broker for all that a decision on the instrument needs.

    :raises NoMarketData: it has no price at all.
    """
    gathered = time.monotonic()
    account, mark = _account(session, database)
    quote = session.quote(instrument)
    now = session.now()
    return Market(
        now=now,
        quote=quote,
        account=account,
        position=_held(account, instrument),
        market_open=is_open(instrument, now),
        mark=mark,
        gathered=gathered,
    )


def ask_account_again(market: Market, session: BrokerSession, database: Database, instrument: Instrument) -> Market:
    """The same with the account as it is now, for when a fill was booked since; it grows no younger by that."""
    account, mark = _account(session, database)
    return replace(market, account=account, position=_held(account, instrument), mark=mark)


def ask_for_rules(
    market: Market, session: BrokerSession, instrument: Instrument, ticket: OrderTicket, rules: Sequence[RiskRule]
) -> Market:
    """The same with what the rules need besides: the broker's what-if for the order, the profit of the day."""
    if market.margin is None and any(rule.needs_margin for rule in rules):
        market = replace(market, margin=session.what_if(instrument, ticket))
    if market.daily_pnl is None and any(rule.needs_daily_pnl for rule in rules):
        market = replace(market, daily_pnl=session.daily_pnl())
    return market


def _account(session: BrokerSession, database: Database) -> tuple[AccountSnapshot, Mark]:
    with database.read() as transaction:
        mark = book_mark(transaction, session.source, session.account)
    return session.account_snapshot(), mark


def _held(account: AccountSnapshot, instrument: Instrument) -> Decimal:
    return sum((p.quantity for p in account.positions if p.con_id == instrument.con_id), Decimal(0))


def book_mark(transaction: Session, source: str, account: str) -> Mark:
    """The booked positions of all strategies of an account, by every connection to it."""
    held = Positions(transaction).of_strategies(source, account)
    return tuple((row.source, row.strategy, row.con_id, row.quantity, row.updated_at) for row in held)


def broker_day(now: datetime) -> date:
    """The broker's calendar day: IBKR returns executions of the current one only."""
    return now.astimezone(_BROKER_ZONE).date()
