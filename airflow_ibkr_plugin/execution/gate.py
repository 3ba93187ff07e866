"""The trading state on the order path: read with the risk check, and again in the transaction that begins to send."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.execution.intent import Job, load_row
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.orders import IntentState
from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule
from airflow_ibkr_plugin.trading.trading_state import (
    FLATTEN_LEG,
    TRADING_STATE,
    EffectiveState,
    TradingState,
    command_id_of,
)

if TYPE_CHECKING:
    from airflow_ibkr_plugin.execution.request import OrderRequest

Rules = list[tuple[RiskRule, Mapping[str, Any]]]


def is_closing(request: OrderRequest) -> bool:
    """Whether the order closes a position by a person's command, and may go out in any trading state."""
    return request.key.leg == FLATTEN_LEG


def state_rules(transaction: Session, row: OrderIntent, context: RiskContext) -> Rules:
    """The trading state as a rule for an order of a strategy; none in ACTIVE."""
    effective = TradingStates(transaction).effective(row.strategy)
    if effective.state is TradingState.ACTIVE:
        return []
    holdings = (context.held, context.position + context.reserved)
    return [_rule(effective, holdings, closing=False)]


def closing_rules(transaction: Session, row: OrderIntent, context: RiskContext) -> Rules:
    """The one rule for a closing order: no more than the strategy holds, than the account has, than was asked for.

    What other strategies hold on the other side, by their books, is no part of what the account has of this one. With
    the strategy '', what no strategy's book explains is closed, as far as the account itself comes closer to zero.
    """
    booked: dict[str, Decimal] = {}
    for own in Positions(transaction).of_strategies(row.source, row.account, row.con_id):
        booked[own.strategy] = booked.get(own.strategy, Decimal(0)) + own.quantity
    others = (quantity for strategy, quantity in booked.items() if strategy != row.strategy)
    opposite = sum((quantity for quantity in others if quantity * row.side.sign > 0), Decimal(0))
    account = context.position + context.reserved
    holdings: tuple[Decimal, ...] = (context.held, account - opposite)
    if not row.strategy:
        holdings = (context.held + context.position - sum(booked.values(), Decimal(0)), account - opposite, account)
    left = TradingCommands(transaction).left_to_close(command_id_of(row.run_id), may_fill=True, excluding=row.id)
    if left is not None:
        holdings = (*holdings, -row.side.sign * left)
    return [_rule(TradingStates(transaction).effective(row.strategy), holdings, closing=True)]


def _rule(
    effective: EffectiveState, holdings: tuple[Decimal, ...], *, closing: bool
) -> tuple[RiskRule, Mapping[str, Any]]:
    given = {"state": effective.state, "why": str(effective), "closing": closing, "holdings": holdings}
    return TRADING_STATE, given


def state_now(job: Job) -> EffectiveState:
    """The trading state as it is now, to be held against when sending begins."""
    with job.database.read() as transaction:
        return TradingStates(transaction).effective(job.request.strategy)


def begin_sending(job: Job, seen: EffectiveState, reason: str, **changes: Any) -> OrderIntent | None:
    """Move the intent to SENDING, unless the trading state was changed since it was `seen`, before the risk check.

    No change of the trading state commits while this transaction does: after a halt is committed, nothing begins to
    be sent. Where it was changed, the reservation is released and risk must be checked again under the new state.

    :returns: the intent, or None where it must be checked again.
    :raises IntentBusy: the lease was lost.
    """
    with job.database.write() as transaction:
        job.lease.renew(transaction)
        states = TradingStates(transaction)
        states.hold()
        row, now = load_row(transaction, job.intent_id), states.effective(job.request.strategy)
        intents, at = Intents(transaction), datetime.now(UTC)
        if now.mark == seen.mark:
            return intents.transition(row, IntentState.SENDING, at=at, reason=reason, **changes)
        if row.state is IntentState.RESERVED:
            intents.transition(row, IntentState.DECIDED, at=at, reason=f"not sent: trading is {now}")
        return None


def cancel_wanted(job: Job) -> str:
    """Why a working order of this intent is to be cancelled now; '' where nobody wants that."""
    with job.database.read() as transaction:
        command = TradingCommands(transaction).wants_cancelled(job.intent_id)
    return f"command {command.id} of {command.requested_by}: {command.reason or command.state}" if command else ""
