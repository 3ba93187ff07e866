"""Whether a strategy may trade: the trading state, and the rule that every order is held against. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule, Verdict, allow, clamp, deny
from airflow_ibkr_plugin.trading.sizing import whole_increments

#: In place of a strategy's name: the installation as a whole.
INSTALLATION = ""
#: Leg of the orders that close positions by a person's command.
FLATTEN_LEG = "flatten"
_COMMAND = "command:"


class TradingState(StrEnum):
    """What may be sent."""

    ACTIVE = "active"  # whatever risk lets pass
    REDUCING = "reducing"  # only what brings a position closer to zero
    HALTED = "halted"  # nothing, but the closing orders of a person's command

    def stricter_than(self, other: TradingState) -> bool:
        """Whether less may be sent than in the other state."""
        return _STRICTNESS[self] > _STRICTNESS[other]


class CommandKind(StrEnum):
    """What a person's command is."""

    STATE = "state"  # it sets the trading state of a scope, and cancels what works there
    CLOSE = "close"  # it closes a strategy's position and leaves the trading state as it is


_STRICTNESS = {TradingState.ACTIVE: 0, TradingState.REDUCING: 1, TradingState.HALTED: 2}


def command_run_id(command_id: str) -> str:
    """What stands in the place of the DAG run in the orderRefs of a command's orders."""
    return f"{_COMMAND}{command_id}"


def command_id_of(run_id: str) -> str:
    """Inverse of :func:`command_run_id`; '' for the run of a DAG."""
    return run_id.removeprefix(_COMMAND) if run_id.startswith(_COMMAND) else ""


def scope_name(strategy: str) -> str:
    """The scope of a trading state in people's words."""
    return f"strategy {strategy}" if strategy != INSTALLATION else "the installation"


@dataclass(frozen=True, kw_only=True)
class EffectiveState:
    """The stricter of the installation's state and the strategy's.

    :param scope: the strategy whose state it is, or `INSTALLATION`. :param reason: that was given for it.
    :param mark: equal in two readings if neither of the two states was changed in between.
    """

    state: TradingState
    scope: str = INSTALLATION
    reason: str = ""
    mark: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.state.upper()} for {scope_name(self.scope)}{f': {self.reason}' if self.reason else ''}"


def closable(side: Side, *holdings: Decimal) -> Decimal:
    """How many units an order of this side may have without taking any of the signed holdings through zero."""
    return max(min(-side.sign * held for held in holdings), Decimal(0))


def check(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny in HALTED; otherwise clamp to what brings the holdings closer to zero.

    :param parameters: `state` and `why`; `closing`: the order closes a position by a person's command; `holdings`: the
        signed quantities that must come closer to zero, open orders of the ticket's side counted as filled.
    """
    state, why = TradingState(parameters["state"]), str(parameters["why"])
    if state is TradingState.HALTED and not parameters["closing"]:
        return deny(f"trading is {why}", limit=state)
    allowed = closable(context.ticket.side, *parameters["holdings"])
    allowed = whole_increments(allowed, Decimal(1), context.instrument.size_increment)
    observed = " and ".join(f"{held:f}" for held in parameters["holdings"])
    if context.ticket.quantity <= allowed:
        return allow(limit=state, observed=observed)
    if allowed < context.instrument.min_size or allowed <= 0:
        return deny(f"it closes nothing, and trading is {why}", limit=state, observed=observed)
    return clamp(allowed, f"it would close more than is held, and trading is {why}", limit=state, observed=observed)


TRADING_STATE = RiskRule(
    name="trading_state",
    check=check,
    parameters={"type": "object", "required": ["state", "why", "closing", "holdings"]},
    order=0,
    description="Holds every order against the trading state; always on, and in no workflow.",
)

RECONCILIATION = replace(
    TRADING_STATE,
    name="reconciliation",
    description="Lets an order only close where the account is not reconciled with the broker; always on.",
)
