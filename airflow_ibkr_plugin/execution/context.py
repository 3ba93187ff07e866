"""What the rules of a decision look at, read in the transaction that decides, and which rules they are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.execution.gate import closing_rules, is_closing, state_rules
from airflow_ibkr_plugin.execution.intent import ticket_of
from airflow_ibkr_plugin.execution.reconciled import reconciled_rules
from airflow_ibkr_plugin.registry import get_registry
from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.account_peaks import AccountPeaks
from airflow_ibkr_plugin.store.bookings import Bookings
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.account_limits import limit_rules
from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule
from airflow_ibkr_plugin.trading.risk_drawdown_rules import PEAK_DAYS, RESULT_DAYS
from airflow_ibkr_plugin.trading.risk_facts import Fill, OrderHistory, open_quantity
from airflow_ibkr_plugin.trading.risk_loss_rules import FILLS, FILLS_SECONDS
from airflow_ibkr_plugin.trading.risk_order_rules import HISTORY_ORDERS, HISTORY_SECONDS, OPEN_ORDERS
from airflow_ibkr_plugin.trading.risk_rules import MARKET_DATA, SHORT_SELLING

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.market import Market
    from airflow_ibkr_plugin.execution.request import OrderRequest
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

Rules = list[tuple[RiskRule, Mapping[str, Any]]]


def asked_rules(transaction: Session, request: OrderRequest) -> Rules:
    """The request's rules and the limits of its account, as they are now; none of a person's closing order."""
    if is_closing(request):
        return []
    limits = Limits(transaction).in_force(request.account)
    return [*request.rules, *(limit_rules(limits, get_registry().risk_rules) if limits else ())]


def all_rules(
    transaction: Session, request: OrderRequest, row: OrderIntent, context: RiskContext, asked: Rules
) -> Rules:
    """Those asked for, and those that are on for every order; of a closing order, that it closes."""
    if is_closing(request):
        return closing_rules(transaction, row, context)
    rules = [*asked, *state_rules(transaction, row, context), *reconciled_rules(transaction, row, context)]
    names = {rule.name for rule, _ in rules}
    always = [MARKET_DATA, OPEN_ORDERS] if request.allow_short else [MARKET_DATA, OPEN_ORDERS, SHORT_SELLING]
    return rules + [(rule, {}) for rule in always if rule.name not in names]


def risk_context(
    transaction: Session, request: OrderRequest, row: OrderIntent, market: Market, asked: Rules
) -> RiskContext:
    """All that the rules may look at, as it is in this transaction."""
    orders = AccountOrders(transaction, row.source, row.account, excluding=row.id)
    working = orders.open()
    open_orders = working + Bookings(transaction, row.source, row.account).since(market.booked)
    booked = Positions(transaction).of_strategies(row.source, row.account, row.con_id)
    held = sum((own.quantity for own in booked if own.strategy == row.strategy), Decimal(0))
    today = broker_day(market.now)
    return RiskContext(
        now=market.now,
        strategy=row.strategy,
        instrument=request.instrument,
        ticket=ticket_of(row),
        quote=market.quote,
        account=market.account,
        position=market.position,
        reserved=open_quantity(open_orders, row.con_id, side=row.side),
        held=held + open_quantity(working, row.con_id, side=row.side, strategy=row.strategy),
        orders_today=Intents(transaction).count_on_day(row.strategy, today, excluding=row.id),
        account_orders_today=orders.count_on_day(today) if _needed(asked, "account_day") else None,
        market_open=market.market_open,
        signal=request.signal,
        requested=row.requested_quantity,
        open_orders=open_orders,
        exits=len(Units(transaction).exits_of(row)),
        margin=market.margin,
        daily_pnl=market.daily_pnl,
        fills=_fills(transaction, row, market.now, _reach(asked, "fills", FILLS_SECONDS)),
        results=_fills(transaction, row, market.now, _reach(asked, "results", RESULT_DAYS * 86400.0)),
        peaks=AccountPeaks(transaction).since(row.source, row.account, today - timedelta(days=PEAK_DAYS))
        if _needed(asked, "peaks")
        else None,
        history=_history(orders, _reach(asked, "history", HISTORY_SECONDS)),
    )


def _needed(asked: Rules, fact: str) -> Rules:
    """The rules that say that they need it."""
    return [(rule, parameters) for rule, parameters in asked if getattr(rule, f"needs_{fact}")]


def _reach(asked: Rules, fact: str, most: float) -> float:
    """How many seconds back the rules look for it: as far as their parameter `seconds` says, or as far as can be."""
    return max((min(parameters.get("seconds", most), most) for _, parameters in _needed(asked, fact)), default=0.0)


def _history(orders: AccountOrders, seconds: float) -> OrderHistory | None:
    return orders.history(now=datetime.now(UTC), seconds=seconds, most=HISTORY_ORDERS) if seconds else None


def _fills(transaction: Session, row: OrderIntent, now: datetime, seconds: float) -> tuple[Fill, ...] | None:
    """What the strategy's latest fills have realised, the youngest first; None where nobody asks, or they are too many.

    :param seconds: how far back; 0 where nobody asks.
    """
    if not seconds:
        return None
    since = now - timedelta(seconds=seconds)
    found = Executions(transaction).results(row.source, row.account, row.strategy, since=since, most=FILLS + 1)
    if len(found) > FILLS:
        return None
    return tuple(
        Fill(
            age=(now - fill.time).total_seconds(),
            today=broker_day(fill.time) == broker_day(now),
            profit=None if fill.commission is None else fill.realized_pnl or Decimal(0),
            currency=fill.commission_currency,
        )
        for fill in found
    )
