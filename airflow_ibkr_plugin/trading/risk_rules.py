"""The risk rules that are built in. They reach workflows through the same hook as anyone's.

Money limits are in the account's base currency. A price, a rate or an answer that is missing denies.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Any

from airflow_ibkr_plugin.trading import risk_account_rules, risk_drawdown_rules, risk_loss_rules, risk_order_rules
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext, RiskRule, Verdict, allow, deny
from airflow_ibkr_plugin.trading.risk_parts import fit, no_value, positive, schema, unit_worth
from airflow_ibkr_plugin.trading.sizing import careful_arithmetic, usable_price, whole_increments

#: Seconds after which a reference price is stale, where a workflow says nothing else.
DEFAULT_MAX_AGE = 60

_MAX_AGE = positive(f"Seconds after which the reference price is stale; {DEFAULT_MAX_AGE} if not given.")


def market_data(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the reference price is missing, not a positive number, delayed, or stale. On for every order."""
    with careful_arithmetic():
        reference = context.quote.reference
    if not usable_price(reference):
        return deny("no reference price", observed=reference)
    if context.quote.delayed:
        return deny("the reference price is delayed", observed="delayed")
    # In either direction: a price from the future is as wrong as an old one.
    age = abs((context.now - context.quote.at).total_seconds())
    limit = float(parameters.get("max_age_seconds", DEFAULT_MAX_AGE))
    if age <= limit:
        return allow(limit=f"{limit:g} s", observed=f"{age:.1f} s")
    return deny("the reference price is stale", limit=f"{limit:g} s", observed=f"{age:.1f} s")


def short_selling(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Clamp a SELL to what the strategy holds and the account has left. On unless a workflow allows short selling."""
    if context.ticket.side is Side.BUY:
        return allow(observed=context.held)
    with careful_arithmetic():
        left = min(context.held, context.position + context.reserved)
        allowed = whole_increments(left, Decimal(1), context.instrument.size_increment)
        if context.ticket.quantity <= left:
            allowed = context.ticket.quantity  # closing an odd rest that is no multiple of the increment
        return fit(context, allowed, "the strategy would sell more than it holds", limit=left, observed=context.held)


def order_notional(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Clamp the order's value, at the highest of reference, limit and stop price, to `max`."""
    limit = Decimal(str(parameters["max"]))
    per_unit = unit_worth(context)
    if per_unit is None:
        return deny(no_value(context), limit=limit)
    with careful_arithmetic():
        observed = context.ticket.quantity * per_unit
        if observed <= limit:
            return allow(limit=limit, observed=observed)
        allowed = whole_increments(limit, per_unit, context.instrument.size_increment)
        return fit(context, allowed, "the order is worth too much", limit=limit, observed=observed)


def position_size(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Clamp so that the position cannot pass `max_quantity` or `max_notional`, whatever of the open orders fills.

    The worst case for a BUY is that all open BUYs fill and no SELL does, and the other way round. An order that
    only brings the position closer to zero passes.
    """
    with careful_arithmetic():
        sign = context.ticket.side.sign
        before = (context.position + context.reserved) * sign  # in the direction of the order
        after = before + context.ticket.quantity
        if after <= 0:
            return allow(observed=after * sign)
        limits: list[Decimal] = []
        if "max_quantity" in parameters:
            limits.append(Decimal(str(parameters["max_quantity"])))
        if "max_notional" in parameters:
            per_unit = unit_worth(context)
            if per_unit is None:
                return deny(no_value(context), observed=after * sign)
            with localcontext(rounding=ROUND_FLOOR):
                limits.append(Decimal(str(parameters["max_notional"])) / per_unit)
        limit = min(limits)
        if all(after <= each for each in limits):
            return allow(limit=limit, observed=after * sign)
        increment = context.instrument.size_increment
        allowed = min(whole_increments(each - before, Decimal(1), increment) for each in limits)
        return fit(context, allowed, "the position would be too large", limit=limit, observed=after * sign)


def price_collar(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny a limit or stop price further than `max_deviation` from the reference, and any order without a good one."""
    data = market_data(context, parameters)
    reference = context.quote.reference if data.outcome is Outcome.ALLOW else None
    if reference is None:
        return data
    limit = Decimal(str(parameters["max_deviation"]))
    observed: Decimal | str = "no limit or stop price"
    with careful_arithmetic():
        for name, price in (("limit", context.ticket.limit_price), ("stop", context.ticket.stop_price)):
            if price is None:
                continue
            deviation = abs(price - reference) / reference
            if not deviation <= limit:
                reason = f"{name} price {price} is too far from {reference}"
                return deny(reason, limit=limit, observed=round(deviation, 6))
            observed = round(deviation, 6) if isinstance(observed, str) else max(observed, round(deviation, 6))
    return allow(limit=limit, observed=observed)


def trading_hours(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny unless the instrument's market is open, by the broker's clock and its liquid hours."""
    if context.market_open is True:
        return allow(observed="open")
    if context.market_open is None:
        return deny("whether the market is open could not be told", observed="unknown")
    return deny("the market is closed", observed="closed")


MARKET_DATA = RiskRule(
    name="market_data",
    check=market_data,
    parameters=schema(max_age_seconds=_MAX_AGE),
    order=1,
    description="Denies when the reference price is missing, delayed or stale. On for every order.",
)
SHORT_SELLING = RiskRule(
    name="short_selling",
    check=short_selling,
    parameters=schema(),
    order=5,
    description="Clamps a SELL to what the strategy holds. On for every order that does not allow short selling.",
)


def rules() -> list[RiskRule]:
    """The built-in rules; those that clamp run before those that only deny."""
    return [
        MARKET_DATA,
        SHORT_SELLING,
        *risk_order_rules.rules(),
        *risk_account_rules.rules(),
        *risk_loss_rules.rules(),
        *risk_drawdown_rules.rules(),
        RiskRule(
            name="order_notional",
            check=order_notional,
            parameters=schema(("max",), max=positive("Largest value of one order, in the base currency.")),
            order=10,
            description="Clamps an order to the largest value that is allowed.",
        ),
        RiskRule(
            name="position_size",
            check=position_size,
            parameters=schema(
                max_quantity=positive("Largest position, long or short, in units."),
                max_notional=positive("Largest position, long or short, in the base currency."),
            )
            | {"minProperties": 1},
            order=20,
            description="Clamps an order so that the account's position stays within the limit, open orders counted.",
        ),
        RiskRule(
            name="price_collar",
            check=price_collar,
            parameters=schema(
                ("max_deviation",),
                max_deviation=positive(
                    "Largest distance of the limit and the stop price, as a fraction of the reference price."
                ),
                max_age_seconds=_MAX_AGE,
            ),
            order=50,
            description="Denies a limit or stop price too far from the market.",
        ),
        RiskRule(
            name="trading_hours",
            check=trading_hours,
            parameters=schema(),
            order=70,
            description="Denies outside the liquid hours of the instrument.",
        ),
    ]
