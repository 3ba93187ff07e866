"""The trading state on the order path: read with the risk check, and again in the transaction that begins to send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from airflow_ibkr_plugin.execution.intent import Job, load_row, move_unit
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.models.orders import OrderIntent
from airflow_ibkr_plugin.store.positions import Positions
from airflow_ibkr_plugin.store.sql import current_time
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.brackets import CLOSE_LEG, is_exit
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
    """Whether the order only closes: by a person's command, for a task that closes, or as an exit of a bracket."""
    return request.key.leg in (FLATTEN_LEG, CLOSE_LEG) or is_exit(request.key.leg)


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
    # A task asks while trading is not halted; a person, and what a bracket's entry was sent with, in any state.
    closing = row.leg != CLOSE_LEG
    return [_rule(TradingStates(transaction).effective(row.strategy), holdings, closing=closing)]


def _rule(
    effective: EffectiveState, holdings: tuple[Decimal, ...], *, closing: bool
) -> tuple[RiskRule, Mapping[str, Any]]:
    given = {"state": effective.state, "why": str(effective), "closing": closing, "holdings": holdings}
    return TRADING_STATE, given


def state_now(job: Job) -> EffectiveState:
    """The trading state as it is now, to be held against when sending begins; the account's limits are in its mark."""
    with job.database.read() as transaction:
        return _marked(transaction, job)


def _marked(transaction: Session, job: Job) -> EffectiveState:
    effective = TradingStates(transaction).effective(job.request.strategy)
    limits = Limits(transaction).in_force(job.request.account, current_time(transaction))
    return replace(effective, mark=effective.mark + tuple((f"limit {limit.rule}", limit.id) for limit in limits))


def begin_sending(
    job: Job, seen: EffectiveState, reason: str, *, order_ids: Mapping[int, int] | None = None, **changes: Any
) -> OrderIntent | None:
    """Move the intent to SENDING, unless trading state or limits were changed since `seen`, before the risk check.

    No such change commits while this transaction does: after a halt is committed, nothing begins to be sent. Where
    there was one, the reservation is released and risk must be checked again under what holds now.

    The exits of its bracket move with it.

    :param order_ids: of the exits, by intent id.
    :returns: the intent, or None where it must be checked again.
    :raises IntentBusy: the lease was lost.
    """
    with job.database.write() as transaction:
        job.lease.renew(transaction)
        TradingStates(transaction).hold()
        row, now = load_row(transaction, job.intent_id), _marked(transaction, job)
        at = datetime.now(UTC)
        if now.mark == seen.mark:
            return move_unit(
                transaction, row, IntentState.SENDING, at=at, reason=reason, order_ids=order_ids, **changes
            )
        if row.state is IntentState.RESERVED:
            why = f"trading is {now}" if now.state is not seen.state else "the trading state or a limit was changed"
            move_unit(transaction, row, IntentState.DECIDED, at=at, reason=f"not sent: {why}")
        return None


def cancel_wanted(job: Job) -> str:
    """Why a working order of this intent is to be cancelled now; '' where nobody wants that."""
    with job.database.read() as transaction:
        command = TradingCommands(transaction).wants_cancelled(job.intent_id)
    return f"command {command.id} of {command.requested_by}: {command.reason or command.state}" if command else ""
