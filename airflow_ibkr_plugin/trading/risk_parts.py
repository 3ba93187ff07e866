"""What several built-in risk rules are made of."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.trading.risk import RiskContext, Verdict, allow, clamp, deny
from airflow_ibkr_plugin.trading.sizing import careful_arithmetic, unit_value, usable_price

#: What rules say that let closing orders pass.
CLOSES = "the position comes closer to zero"
UNKNOWN_FILLS = "what the strategy's fills have won or lost is not known"


def schema(required: tuple[str, ...] = (), **properties: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of a rule's parameters."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def positive(description: str, **more: Any) -> dict[str, Any]:
    """JSON Schema of a number above zero."""
    return {"type": "number", "exclusiveMinimum": 0, "description": description, **more}


def count(description: str, **more: Any) -> dict[str, Any]:
    """JSON Schema of a whole number, at least 1."""
    return {"type": "integer", "minimum": 1, "description": description, **more}


def fit(context: RiskContext, allowed: Decimal, reason: str, *, limit: object, observed: object) -> Verdict:
    """Allow what fits; else clamp to `allowed` (a multiple of the size increment), or deny where that is too small."""
    if context.ticket.quantity <= allowed:
        return allow(limit=limit, observed=observed)
    if allowed > 0 and allowed >= context.instrument.min_size:
        return clamp(allowed, reason, limit=limit, observed=observed)
    return deny(reason, limit=limit, observed=observed)


def unit_worth(context: RiskContext) -> Decimal | None:
    """Value of a unit in the base currency; None where the price cannot be used, or a rate is missing or too old."""
    with careful_arithmetic():
        price = context.price
        if context.quote.delayed or price is None or not usable_price(price):
            return None
        return unit_value(context.instrument, price, context.account, context.now)


def no_value(context: RiskContext) -> str:
    """Why :func:`unit_worth` is None."""
    if context.quote.delayed:
        return "the reference price is delayed"
    if context.instrument.currency == context.account.currency:
        return "no reference price"
    return f"no usable price, or no fresh rate from {context.instrument.currency} to {context.account.currency}"
