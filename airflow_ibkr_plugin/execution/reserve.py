"""Risk, where it counts: in the transaction that reserves the exposure, for the whole account at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import StoreError
from airflow_ibkr_plugin.execution.gate import closing_rules, is_closing, state_rules
from airflow_ibkr_plugin.execution.intent import Job, load_row, ticket_of
from airflow_ibkr_plugin.execution.market import Market, ask_account_again, ask_for_rules, book_mark, broker_day, gather
from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.executions import Executions
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.store.sources import gateway_kind
from airflow_ibkr_plugin.trading.orders import IntentState
from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule, evaluate
from airflow_ibkr_plugin.trading.risk_facts import Fill, open_quantity
from airflow_ibkr_plugin.trading.risk_loss_rules import FILLS, FILLS_SECONDS
from airflow_ibkr_plugin.trading.risk_order_rules import HISTORY_ORDERS, HISTORY_SECONDS, OPEN_ORDERS
from airflow_ibkr_plugin.trading.risk_rules import MARKET_DATA, SHORT_SELLING

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.request import OrderRequest
    from airflow_ibkr_plugin.store.models.orders import OrderIntent

_ATTEMPTS = 10
# Denied before it was ever sent, or absent from the broker and not to be sent again.
_REFUSED = {
    IntentState.DECIDED: IntentState.DENIED,
    IntentState.RESERVED: IntentState.DENIED,
    IntentState.AMBIGUOUS: IntentState.ABANDONED,
}


def reserve(job: Job, market: Market | None = None) -> OrderIntent:
    """Check risk and reserve the exposure; store every decision. Returns the intent, reserved or refused.

    An intent that is reserved already, or that was sent and never reached the broker, is checked again at today's
    prices: a reservation is no licence to send later.

    :param market: what was just gathered, if it was.
    :raises StoreError: the books kept changing under the check.
    """
    request = job.request
    # Not by connection: several can lead to one account, and no two of them may pass its limits together.
    account_lock = f"risk:{gateway_kind(request.source)}:{request.account}"
    for _ in range(_ATTEMPTS):
        market = market or gather(job.session, job.database, job.instrument)
        if curious := [rule for rule, _ in request.rules if rule.needs_margin or rule.needs_daily_pnl]:
            market = ask_for_rules(market, job.session, job.instrument, ticket_of(job.load()), curious)
        with job.database.write(serialize=account_lock) as transaction:
            job.lease.renew(transaction)
            row = load_row(transaction, job.intent_id)
            Intents(transaction).release_unheld(row.source, row.account, now=datetime.now(UTC))
            context = _context(transaction, request, row, market)
            # Read last: a fill booked while the context was read may be missing from position and reserved alike.
            current = book_mark(transaction, row.source, row.account)
            if current == market.mark and not market.expired:
                return _decide(transaction, request, row, context)
        market = None if market.expired else ask_account_again(market, job.session, job.database, job.instrument)
    raise StoreError(
        f"{request.instrument.name}: fills were booked faster than risk could be checked, {_ATTEMPTS} times.",
        remedy="Try again.",
    )


def _context(transaction: Session, request: OrderRequest, row: OrderIntent, market: Market) -> RiskContext:
    orders = AccountOrders(transaction, row.source, row.account, excluding=row.id)
    open_orders = orders.open()
    booked = Positions(transaction).of_strategies(row.source, row.account, row.con_id)
    held = sum((own.quantity for own in booked if own.strategy == row.strategy), Decimal(0))
    return RiskContext(
        now=market.now,
        strategy=row.strategy,
        instrument=request.instrument,
        ticket=ticket_of(row),
        quote=market.quote,
        account=market.account,
        position=market.position,
        reserved=open_quantity(open_orders, row.con_id, side=row.side),
        held=held + open_quantity(open_orders, row.con_id, side=row.side, strategy=row.strategy),
        orders_today=Intents(transaction).count_on_day(row.strategy, broker_day(market.now), excluding=row.id),
        market_open=market.market_open,
        signal=request.signal,
        requested=row.requested_quantity,
        open_orders=open_orders,
        margin=market.margin,
        daily_pnl=market.daily_pnl,
        fills=_fills(transaction, row, market.now),
        history=orders.history(now=datetime.now(UTC), seconds=HISTORY_SECONDS, most=HISTORY_ORDERS),
    )


def _fills(transaction: Session, row: OrderIntent, now: datetime) -> tuple[Fill, ...] | None:
    """What the strategy's fills of the last day have realised; None where they are too many to look at."""
    since = now - timedelta(seconds=FILLS_SECONDS)
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


def _decide(transaction: Session, request: OrderRequest, row: OrderIntent, context: RiskContext) -> OrderIntent:
    at = datetime.now(UTC)
    result = evaluate(_rules(transaction, request, row, context), context)
    RiskDecisions(transaction).add_all(row.id, result.decisions, at)
    intents = Intents(transaction)
    if result.ticket is None:
        denial = result.denied_by
        reason = f"{denial.rule}: {denial.verdict.reason}" if denial else "denied"
        return intents.transition(row, _REFUSED[row.state], at=at, reason=reason)
    changes = {"quantity": result.ticket.quantity, "reference_price": context.quote.reference}
    if row.state is IntentState.DECIDED:
        clamped = result.ticket.quantity < row.requested_quantity
        reason = f"clamped from {row.requested_quantity:f} to {result.ticket.quantity:f}" if clamped else "risk passed"
        day = broker_day(context.now)
        return intents.transition(row, IntentState.RESERVED, at=at, reason=reason, broker_day=day, **changes)
    for name, value in changes.items():  # the state stays; the decisions tell what was checked again
        setattr(row, name, value)
    row.updated_at = at
    return row


def _rules(
    transaction: Session, request: OrderRequest, row: OrderIntent, context: RiskContext
) -> list[tuple[RiskRule, Mapping[str, Any]]]:
    """The request's rules and those that are on for every order; of a closing order, that it closes."""
    if is_closing(request):
        return closing_rules(transaction, row, context)
    rules = [*request.rules, *state_rules(transaction, row, context)]
    names = {rule.name for rule, _ in rules}
    always = [MARKET_DATA, OPEN_ORDERS] if request.allow_short else [MARKET_DATA, OPEN_ORDERS, SHORT_SELLING]
    return rules + [(rule, {}) for rule in always if rule.name not in names]
