"""Risk, where it counts: in the transaction that reserves the exposure, for the whole account at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.errors import StoreError
from airflow_ibkr_plugin.execution.context import Rules, all_rules, asked_rules, risk_context
from airflow_ibkr_plugin.execution.gate import is_closing
from airflow_ibkr_plugin.execution.intent import Job, load_row, move_unit, ticket_of
from airflow_ibkr_plugin.execution.market import Market, ask_account_again, ask_for_rules, gather
from airflow_ibkr_plugin.store.account_peaks import AccountPeaks
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.store.sources import gateway_kind
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.orders import TERMINAL, IntentState
from airflow_ibkr_plugin.trading.risk import RiskContext, RiskResult, RiskRule, evaluate

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.request import OrderRequest
    from airflow_ibkr_plugin.store.models.orders import OrderIntent
    from airflow_ibkr_plugin.trading.orders import OrderTicket

_ATTEMPTS = 10
# Denied before it was ever sent, or absent from the broker and not to be sent again.
_REFUSED = {
    IntentState.DECIDED: IntentState.DENIED,
    IntentState.RESERVED: IntentState.DENIED,
    IntentState.AMBIGUOUS: IntentState.ABANDONED,
}


def reserve(job: Job, market: Market | None = None) -> OrderIntent:
    """Check risk and reserve the exposure; store every decision. Returns the intent, reserved, refused, or over.

    An intent that is reserved already, or that was sent and never reached the broker, is checked again at today's
    prices: a reservation is no licence to send later.

    :param market: what was just gathered, if it was.
    :raises StoreError: what was gathered was too old each time that the transaction could begin.
    """
    request = job.request
    # Not by connection: several can lead to one account, and no two of them may pass its limits together.
    account_lock = f"risk:{gateway_kind(request.source)}:{request.account}"
    for attempt in range(1, _ATTEMPTS + 1):
        market = market or gather(job.session, job.database, job.instrument, closing=is_closing(request))
        with job.database.write(serialize=account_lock) as transaction:
            job.lease.renew(transaction)
            row = load_row(transaction, job.intent_id)
            if row.state in TERMINAL:
                return row
            Intents(transaction).release_unheld(row.source, row.account, now=datetime.now(UTC))
            asked = asked_rules(transaction, request)
            decided = _decide(transaction, request, row, market, asked, last=attempt == _ATTEMPTS)
            if decided is not None:
                return decided
        market = _ask_again(job, market, ticket_of(row), [rule for rule, _ in asked])
    raise StoreError(
        f"{request.instrument.name}: what the broker had said was too old before risk could be checked.",
        remedy="Try again; if it stays so, the trading database is too slow, or other transactions hold it.",
    )


def _ask_again(job: Job, market: Market, ticket: OrderTicket, rules: Sequence[RiskRule]) -> Market | None:
    """What the decision lacked: what the rules need, else the account as it is now; None where all is too old."""
    if market.expired:
        return None
    if market.lacks(rules):
        return ask_for_rules(market, job.session, job.instrument, ticket, rules)
    return ask_account_again(market, job.session, job.database, job.instrument)


def _decide(
    transaction: Session, request: OrderRequest, row: OrderIntent, market: Market, asked: Rules, *, last: bool
) -> OrderIntent | None:
    """Reserve or refuse. None where the broker must be asked again first.

    Fills that were booked since the account was asked count as if they were yet to come: the worst case, whether its
    positions have them or not. What passes so, passes. What does not is held against a fresh account, unless it is the
    `last` time.
    """
    if market.expired or market.lacks(rule for rule, _ in asked):
        return None
    context = risk_context(transaction, request, row, market, asked)
    result = evaluate(all_rules(transaction, request, row, context, asked), context)
    if result.ticket != context.ticket and _lags(context) and not last:
        return None
    at = datetime.now(UTC)
    RiskDecisions(transaction).add_all(row.id, result.decisions, at)
    AccountPeaks(transaction).record(row.source, market.account, at=at)
    return _store(transaction, row, context, result, at)


def _lags(context: RiskContext) -> bool:
    return any(order.booked for order in context.open_orders or ())


def _store(
    transaction: Session, row: OrderIntent, context: RiskContext, result: RiskResult, at: datetime
) -> OrderIntent:
    if result.ticket is None:
        denial = result.denied_by
        reason = f"{denial.rule}: {denial.verdict.reason}" if denial else "denied"
        return move_unit(transaction, row, _REFUSED[row.state], at=at, reason=reason)
    changes: dict[str, Any] = {"quantity": result.ticket.quantity, "reference_price": context.quote.reference}
    if row.state is IntentState.DECIDED:
        clamped = result.ticket.quantity < row.requested_quantity
        reason = f"clamped from {row.requested_quantity:f} to {result.ticket.quantity:f}" if clamped else "risk passed"
        day = broker_day(context.now)
        return move_unit(transaction, row, IntentState.RESERVED, at=at, reason=reason, broker_day=day, **changes)
    for one in (row, *Units(transaction).exits_of(row)):
        if one.state is row.state:
            for name, value in changes.items():  # the state stays; the decisions tell what was checked again
                setattr(one, name, value)
            one.updated_at = at
    return row
