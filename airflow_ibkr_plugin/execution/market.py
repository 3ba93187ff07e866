"""What an order decision looks at, gathered from the broker before the transaction that decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow_ibkr_plugin.errors import NoMarketData
from airflow_ibkr_plugin.store.bookings import Bookings
from airflow_ibkr_plugin.trading.market_hours import is_open
from airflow_ibkr_plugin.trading.portfolio import Quote

if TYPE_CHECKING:
    from airflow_ibkr_plugin.broker.session import BrokerSession
    from airflow_ibkr_plugin.store.database import Database
    from airflow_ibkr_plugin.trading.instruments import Instrument
    from airflow_ibkr_plugin.trading.orders import OrderTicket
    from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot
    from airflow_ibkr_plugin.trading.risk import RiskRule
    from airflow_ibkr_plugin.trading.risk_facts import Margin

log = logging.getLogger(__name__)

#: What was gathered is asked for again when the transaction begins later than this.
EXPIRY_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Market:
    """Quote, account and hours at one moment.

    :param now: broker's clock, aware UTC.
    :param position: signed quantity of the instrument in the account, whoever bought it.
    :param booked: number of the account's last booking just before it was asked. What is booked later, its positions
        may lack.
    :param margin: the broker's what-if for the order, where a rule needs one.
    :param daily_pnl: the account's profit of the day, where a rule needs it.
    :param gathered: `time.monotonic()` when gathering began.
    """

    now: datetime
    quote: Quote
    account: AccountSnapshot
    position: Decimal
    market_open: bool | None
    booked: int
    gathered: float
    margin: Margin | None = None
    daily_pnl: Decimal | None = None

    @property
    def expired(self) -> bool:
        """Whether it is too old to decide by."""
        return time.monotonic() - self.gathered > EXPIRY_SECONDS

    def lacks(self, rules: Iterable[RiskRule]) -> bool:
        """Whether one of the rules needs what the broker was not asked for."""
        return any(
            (rule.needs_margin and self.margin is None) or (rule.needs_daily_pnl and self.daily_pnl is None)
            for rule in rules
        )


def gather(session: BrokerSession, database: Database, instrument: Instrument, *, closing: bool = False) -> Market:
    """Ask the broker for all that a decision on the instrument needs.

    :param closing: the order closes a position by a person's command, and goes out though no price is told.
    :raises NoMarketData: it has no price at all.
    """
    gathered = time.monotonic()
    account, booked = _account(session, database)
    quote = _quote(session, instrument, closing=closing)
    now = session.now()
    return Market(
        now=now,
        quote=quote,
        account=account,
        position=_held(account, instrument),
        market_open=is_open(instrument, now),
        booked=booked,
        gathered=gathered,
    )


def _quote(session: BrokerSession, instrument: Instrument, *, closing: bool) -> Quote:
    try:
        return session.quote(instrument)
    except NoMarketData as error:
        if not closing:
            raise
        log.warning("%s is closed without a price: %s", instrument.name, error)
        return Quote(con_id=instrument.con_id, at=session.now())


def ask_account_again(market: Market, session: BrokerSession, database: Database, instrument: Instrument) -> Market:
    """The same with the account as it is now, for when a fill was booked since; it grows no younger by that."""
    account, booked = _account(session, database)
    return replace(market, account=account, position=_held(account, instrument), booked=booked)


def ask_for_rules(
    market: Market, session: BrokerSession, instrument: Instrument, ticket: OrderTicket, rules: Sequence[RiskRule]
) -> Market:
    """The same with what the rules need besides: the broker's what-if for the order, the profit of the day."""
    if market.margin is None and any(rule.needs_margin for rule in rules):
        market = replace(market, margin=session.what_if(instrument, ticket))
    if market.daily_pnl is None and any(rule.needs_daily_pnl for rule in rules):
        market = replace(market, daily_pnl=session.daily_pnl())
    return market


def _account(session: BrokerSession, database: Database) -> tuple[AccountSnapshot, int]:
    with database.read() as transaction:
        booked = Bookings(transaction, session.source, session.account).last()
    return session.account_snapshot(), booked


def _held(account: AccountSnapshot, instrument: Instrument) -> Decimal:
    return sum((p.quantity for p in account.positions if p.con_id == instrument.con_id), Decimal(0))
