"""Built-in risk rules about what was lost since the best day. An order that only brings its position to zero passes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.trading.broker_day import broker_day
from airflow_ibkr_plugin.trading.exposure import closes
from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule, Verdict, allow, deny
from airflow_ibkr_plugin.trading.risk_parts import CLOSES, UNKNOWN_FILLS, count, positive, schema
from airflow_ibkr_plugin.trading.sizing import careful_arithmetic

#: How far back the account's highest values are known, in days.
PEAK_DAYS = 3660
#: How far back the strategy's fills are known where a rule `needs_results`, in days.
RESULT_DAYS = 31


def drawdown(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the account is worth so much less than at its highest in the last `days`, or since the day `since`.

    An account that has no past has its peak now.
    """
    if closes(context):
        return allow(observed=CLOSES)
    days, worth = parameters.get("days", PEAK_DAYS), context.account.net_liquidation
    if context.peaks is None or not days <= PEAK_DAYS:
        return deny("what the account was worth is not known")
    first = broker_day(context.now) - timedelta(days=days)
    if "since" in parameters:
        first = max(first, date.fromisoformat(parameters["since"]))
    peak = worth
    with careful_arithmetic():
        for seen in context.peaks:
            if seen.day < first:
                continue
            if seen.currency != context.account.currency:
                return deny(f"on {seen.day} the account was kept in {seen.currency}; set `since` to a later day")
            peak = max(peak, seen.value)
        limits = [Decimal(str(parameters["max"]))] if "max" in parameters else []
        if "max_share" in parameters:
            limits.append(Decimal(str(parameters["max_share"])) * peak)
        return _held(peak - worth, limits, "the account")


def strategy_drawdown(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the strategy's fills of the last `days` have realised `max` less than at their best, commissions in."""
    if closes(context):
        return allow(observed=CLOSES)
    days, limit = parameters.get("days", RESULT_DAYS), Decimal(str(parameters["max"]))
    if context.results is None or not days <= RESULT_DAYS:
        return deny(UNKNOWN_FILLS, limit=limit)
    total = best = Decimal(0)
    with careful_arithmetic():
        for fill in reversed(context.results):
            if fill.age > days * 86400:
                continue
            if fill.profit is None:
                return deny(UNKNOWN_FILLS, limit=limit)
            rate = context.account.rate(fill.currency, context.now) if fill.profit else Decimal(1)
            if rate is None:
                return deny(f"no fresh rate from {fill.currency} to {context.account.currency}", limit=limit)
            total += fill.profit * rate
            best = max(best, total)
        return _held(best - total, [limit], "the strategy")


def _held(lost: Decimal, limits: list[Decimal], whose: str) -> Verdict:
    if all(lost < limit for limit in limits):
        return allow(limit=min(limits), observed=lost)
    return deny(f"{whose} has lost too much since its best", limit=min(limits), observed=lost)


def rules() -> list[RiskRule]:
    """The rules of this module."""
    since = {
        "type": "string",
        "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
        "description": "Nothing before this day of the broker counts; set it to the day after a withdrawal.",
    }
    return [
        RiskRule(
            name="drawdown",
            check=drawdown,
            parameters=schema(
                max=positive("Loss of the account since its peak, in its base currency."),
                max_share=positive("Loss as a fraction of the peak.", maximum=1),
                days=count(f"How far back the peak is looked for; {PEAK_DAYS} if not given.", maximum=PEAK_DAYS),
                since=since,
            )
            | {"anyOf": [{"required": ["max"]}, {"required": ["max_share"]}]},
            order=93,
            description="Denies when the account has lost too much since its highest value.",
            needs_peaks=True,
        ),
        RiskRule(
            name="strategy_drawdown",
            check=strategy_drawdown,
            parameters=schema(
                ("max",),
                max=positive("Realised loss of the strategy since its best, in the base currency."),
                days=count(f"How far back its fills count; {RESULT_DAYS} if not given.", maximum=RESULT_DAYS),
            ),
            order=95,
            description="Denies when the strategy's fills have lost too much since their best.",
            needs_results=True,
        ),
    ]
