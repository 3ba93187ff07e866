"""Built-in risk rules about all that the account holds and has ordered, in its base currency.

They count the worst case of the open orders, see `exposure.py`. A price or a rate that is missing or old denies.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Any

from airflow_ibkr_plugin.trading.exposure import UnknownWorth, elsewhere, open_growth, own_units
from airflow_ibkr_plugin.trading.risk import RiskContext, RiskRule, Verdict, allow, deny
from airflow_ibkr_plugin.trading.risk_parts import fit, no_value, positive, schema, unit_worth
from airflow_ibkr_plugin.trading.sizing import careful_arithmetic, whole_increments


def gross_exposure(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Clamp so that long and short positions of the account, added up, stay within the limit.

    An order that only brings its position closer to zero passes.
    """
    return _absolute(context, parameters, whole_account=True, reason="the account would hold too much")


def concentration(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Clamp so that the account's position in the instrument stays below a share of its net liquidation value.

    An order that only brings its position closer to zero passes.
    """
    return _absolute(context, parameters, whole_account=False, reason="too much would be in one instrument")


def net_exposure(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Clamp so that long less short, or short less long, stays within the limit: the account's bet on the market.

    To close a position is a bet in the other direction, and counts as one.
    """
    with careful_arithmetic():
        limits, unit = _limits(context, parameters), unit_worth(context)
        if unit is None:
            return deny(no_value(context))
        try:
            before = elsewhere(context).ahead + own_units(context).ahead * unit
        except UnknownWorth as error:
            return deny(str(error))
        after = before + context.ticket.quantity * unit
        if all(after <= limit for limit in limits):
            return allow(limit=min(limits), observed=after)
        allowed = min(_room(context, limit, before, unit) for limit in limits)
        return fit(context, allowed, "the account would lean too far", limit=min(limits), observed=after)


def buying_power(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny what would leave less than `min_excess` between the account's equity and its initial margin.

    The broker says what the order would do; other open orders count with all that they are worth, margin or not. An
    order that does not raise the margin passes.
    """
    margin, limit = context.margin, Decimal(str(parameters.get("min_excess", 0)))
    if margin is None:
        return deny("the broker was not asked for the margin", limit=limit)
    if margin.refused:
        return deny(f"the broker would refuse it: {margin.refused}", limit=limit)
    before, after, equity = margin.initial_before, margin.initial_after, margin.equity_after
    if before is None or after is None or equity is None:
        return deny("the broker did not say what margin the order needs", limit=limit)
    with careful_arithmetic():
        if after <= before:
            return allow(limit=limit, observed=equity - after)
        unit = unit_worth(context)
        if unit is None:
            return deny(no_value(context), limit=limit)
        try:
            left = equity - after - open_growth(context, unit)
        except UnknownWorth as error:
            return deny(str(error), limit=limit)
        if left >= limit:
            return allow(limit=limit, observed=left)
        return deny("the account's margin would not allow it", limit=limit, observed=left)


def _absolute(context: RiskContext, parameters: Mapping[str, Any], *, whole_account: bool, reason: str) -> Verdict:
    with careful_arithmetic():
        try:
            own = own_units(context)
            largest = max(own.ahead + context.ticket.quantity, own.behind, Decimal(0))
            if largest <= max(own.ahead, own.behind, Decimal(0)):
                return allow(observed="the position comes closer to zero")
            unit = unit_worth(context)
            if unit is None:
                return deny(no_value(context))
            others = elsewhere(context).gross if whole_account else Decimal(0)
        except UnknownWorth as error:
            return deny(str(error))
        limits = _limits(context, parameters)
        observed = others + largest * unit
        if all(observed <= limit for limit in limits):
            return allow(limit=min(limits), observed=observed)
        back = whole_increments(own.behind - own.ahead, Decimal(1), context.instrument.size_increment)
        room = min(_room(context, limit, others + own.ahead * unit, unit) for limit in limits)
        return fit(context, max(room, back), reason, limit=min(limits), observed=observed)


def _limits(context: RiskContext, parameters: Mapping[str, Any]) -> list[Decimal]:
    """In the base currency; a net liquidation value that is no number leaves no room."""
    limits = [Decimal(str(parameters["max"]))] if "max" in parameters else []
    if "max_share" in parameters:
        worth = context.account.net_liquidation
        limits.append(Decimal(str(parameters["max_share"])) * worth if worth.is_finite() else Decimal(0))
    return limits


def _room(context: RiskContext, limit: Decimal, before: Decimal, unit: Decimal) -> Decimal:
    with localcontext(rounding=ROUND_FLOOR):
        left = limit - before
    return whole_increments(left, unit, context.instrument.size_increment)


_MAX = positive("In the account's base currency.")
_MAX_SHARE = positive("As a fraction of the account's net liquidation value, such as 1.5.")


def rules() -> list[RiskRule]:
    """The rules of this module."""
    either = schema(max=_MAX, max_share=_MAX_SHARE) | {"minProperties": 1}
    return [
        RiskRule(
            name="concentration",
            check=concentration,
            parameters=schema(("max_share",), max_share=_MAX_SHARE),
            order=25,
            description="Clamps an order so that no more than a share of the account is in one instrument.",
        ),
        RiskRule(
            name="gross_exposure",
            check=gross_exposure,
            parameters=either,
            order=30,
            description="Clamps an order so that all positions of the account, long and short, stay within the limit.",
        ),
        RiskRule(
            name="net_exposure",
            check=net_exposure,
            parameters=either,
            order=35,
            description="Clamps an order so that the account's long less its short positions stay within the limit.",
        ),
        RiskRule(
            name="buying_power",
            check=buying_power,
            parameters=schema(
                min_excess={
                    "type": "number",
                    "minimum": 0,
                    "description": "What must be left, in the base currency; 0.",
                }
            ),
            order=90,
            description="Denies what the account's margin does not allow, by the broker's what-if.",
            needs_margin=True,
        ),
    ]
