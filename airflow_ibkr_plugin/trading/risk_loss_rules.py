"""Built-in risk rules that stop after losses. An order that only brings its position closer to zero passes them all."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.trading.exposure import closes
from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule, Verdict, allow, deny
from airflow_ibkr_plugin.trading.risk_parts import CLOSES, UNKNOWN_FILLS, positive, schema
from airflow_ibkr_plugin.trading.sizing import careful_arithmetic

#: How far back the strategy's fills are known, in seconds: a day, and the hour that one in autumn is longer.
FILLS_SECONDS = 25 * 3600.0
#: How many of its fills are looked at; of more, nothing is known.
FILLS = 1000


def daily_loss(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the account has lost the limit on the broker's day, realised and unrealised."""
    if closes(context):
        return allow(observed=CLOSES)
    if context.daily_pnl is None:
        return deny("the broker did not say what the account has won or lost today")
    limits = [Decimal(str(parameters["max"]))] if "max" in parameters else []
    with careful_arithmetic():
        if "max_share" in parameters:
            # Of what the account was worth before it lost.
            worth = context.account.net_liquidation - context.daily_pnl
            limits.append(Decimal(str(parameters["max_share"])) * worth if worth.is_finite() else Decimal(0))
        loss = -context.daily_pnl
        if all(loss < limit for limit in limits):
            return allow(limit=min(limits), observed=loss)
        return deny("the account has lost too much today", limit=min(limits), observed=loss)


def strategy_loss(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the strategy's fills of the broker's day have realised a loss of `max`, commissions included."""
    if closes(context):
        return allow(observed=CLOSES)
    limit = Decimal(str(parameters["max"]))
    if context.fills is None:
        return deny(UNKNOWN_FILLS, limit=limit)
    loss = Decimal(0)
    with careful_arithmetic():
        for fill in context.fills:
            if not fill.today:
                continue
            if fill.profit is None:
                return deny(UNKNOWN_FILLS, limit=limit)
            rate = context.account.rate(fill.currency, context.now) if fill.profit else Decimal(1)
            if rate is None:
                return deny(f"no fresh rate from {fill.currency} to {context.account.currency}", limit=limit)
            loss -= fill.profit * rate
        if loss < limit:
            return allow(limit=limit, observed=loss)
        return deny("the strategy has lost too much today", limit=limit, observed=loss)


def cooldown(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny for `seconds` after a fill of the strategy that realised a loss, by the broker's clock."""
    if closes(context):
        return allow(observed=CLOSES)
    seconds = parameters["seconds"]
    if context.fills is None or not seconds <= FILLS_SECONDS:
        return deny(UNKNOWN_FILLS, limit=f"{seconds} s")
    for fill in context.fills:
        if fill.age > seconds:
            continue
        if fill.profit is None or fill.profit.is_nan():
            return deny(UNKNOWN_FILLS, limit=f"{seconds} s")
        if fill.profit < 0:
            return deny("the strategy has just lost", limit=f"{seconds} s", observed=f"{fill.age:.0f} s")
    return allow(limit=f"{seconds} s")


def rules() -> list[RiskRule]:
    """The rules of this module."""
    return [
        RiskRule(
            name="daily_loss",
            check=daily_loss,
            parameters=schema(
                max=positive("Loss of the account, in its base currency."),
                max_share=positive("Loss as a fraction of what the account was worth when the day began."),
            )
            | {"minProperties": 1},
            order=92,
            description="Denies when the account has lost too much today, realised and unrealised.",
            needs_daily_pnl=True,
        ),
        RiskRule(
            name="strategy_loss",
            check=strategy_loss,
            parameters=schema(("max",), max=positive("Realised loss of the strategy, in the base currency.")),
            order=94,
            description="Denies when the strategy's fills of the day have lost too much.",
            needs_fills=True,
        ),
        RiskRule(
            name="cooldown",
            check=cooldown,
            parameters=schema(("seconds",), seconds=positive("How long; at most a day.", maximum=86400)),
            order=96,
            description="Denies for a while after the strategy has realised a loss.",
            needs_fills=True,
        ),
    ]
