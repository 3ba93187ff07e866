"""Built-in risk rules about one order, its signal, and the orders around it. Money is in `risk_rules.py`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext, RiskRule, Verdict, allow, deny
from airflow_ibkr_plugin.trading.risk_facts import OrderHistory
from airflow_ibkr_plugin.trading.risk_parts import count, fit, positive, schema
from airflow_ibkr_plugin.trading.sizing import careful_arithmetic, whole_increments

#: Working orders of one contract, side and account that IBKR takes. Source: TWS API, "Order Limits".
IBKR_OPEN_ORDERS = 20
#: How far back the rules about earlier orders can look, in seconds.
HISTORY_SECONDS = 3600.0
#: How many earlier orders they can tell apart.
HISTORY_ORDERS = 1000

_UNKNOWN_ORDERS = "the account's other orders are not known"
_INSTRUMENTS = {
    "type": "array",
    "minItems": 1,
    "maxItems": 10_000,
    "uniqueItems": True,
    "items": {"type": ["string", "integer"]},
    "description": "Names as in `symbols`, such as SPY or EUR.USD, or IBKR's contract ids.",
}


def order_quantity(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Clamp the order to `max` units."""
    limit = Decimal(str(parameters["max"]))
    with careful_arithmetic():
        asked = context.ticket.quantity
        if asked <= limit:
            return allow(limit=limit, observed=asked)
        allowed = whole_increments(limit, Decimal(1), context.instrument.size_increment)
        return fit(context, allowed, "the order is too large", limit=limit, observed=asked)


def open_orders(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny above IBKR's 20 open orders of a contract and side, and above the strategy's own `max`.

    The exits of a bracket count on their side.
    """
    if context.open_orders is None:
        return deny(_UNKNOWN_ORDERS)
    working = [order for order in context.open_orders if not order.booked]
    of_contract = [order for order in working if order.instrument.con_id == context.instrument.con_id]
    alike = sum(order.side is context.ticket.side for order in of_contract)
    if context.exits and not len(of_contract) - alike + context.exits <= IBKR_OPEN_ORDERS:
        reason = f"IBKR takes {IBKR_OPEN_ORDERS} open orders of a contract and side, its {context.exits} exits included"
        return deny(reason, limit=IBKR_OPEN_ORDERS, observed=len(of_contract) - alike)
    if not alike < IBKR_OPEN_ORDERS:
        reason = f"IBKR takes {IBKR_OPEN_ORDERS} open orders of a contract and side"
        return deny(reason, limit=IBKR_OPEN_ORDERS, observed=alike)
    own = sum(order.strategy == context.strategy for order in working)
    counts = {"max": own, "max_account": len(working)}
    if not counts.keys() & parameters.keys():
        return allow(limit=IBKR_OPEN_ORDERS, observed=alike)
    return _counted(counts, parameters, "has too many open orders")


def orders_per_day(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the strategy (`max`) or the account (`max_account`) has had its orders of the broker's day."""
    counts = {"max": context.orders_today, "max_account": context.account_orders_today}
    return _counted(counts, parameters, "has had its orders of the day")


def _counted(counts: Mapping[str, int | None], parameters: Mapping[str, Any], reason: str) -> Verdict:
    """Hold what the strategy (`max`) and the account (`max_account`) have had against those limits that are given."""
    chosen = [name for name in ("max", "max_account") if name in parameters]
    for name in chosen:
        limit, observed = parameters[name], counts[name]
        if observed is None:
            return deny(_UNKNOWN_ORDERS, limit=limit)
        if not observed < limit:
            whose = "strategy" if name == "max" else "account"
            return deny(f"the {whose} {reason}", limit=limit, observed=observed)
    said = ", ".join(f"{counts[name]} of the {'strategy' if name == 'max' else 'account'}" for name in chosen)
    return allow(limit=min(parameters[name] for name in chosen), observed=said)


def order_rate(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the strategy (`max`) or the account (`max_account`) had its orders of the last `seconds`."""
    history = context.history
    if history is None:
        return deny(_UNKNOWN_ORDERS)
    seconds = parameters["seconds"]
    own, every = len(history.since(seconds, strategy=context.strategy)), len(history.since(seconds))
    verdict = _counted({"max": own, "max_account": every}, parameters, f"has had its orders of {seconds} s")
    if verdict.outcome is Outcome.ALLOW and not _reaches(history, seconds):
        return deny(f"the orders of the last {seconds} s are too many to know", observed=f"{history.seconds:.0f} s")
    return verdict


def duplicate_order(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny what the strategy has ordered in the last `seconds`: the instrument, side, quantity and prices are equal.

    Quantities are compared as they were asked for: two orders that were clamped to different sizes may be the same.
    """
    history, seconds = context.history, parameters["seconds"]
    if history is None or context.requested is None:
        return deny(_UNKNOWN_ORDERS)
    if not _reaches(history, seconds):
        return deny(f"the orders of the last {seconds} s are too many to know", observed=f"{history.seconds:.0f} s")
    ticket = context.ticket
    mine = (context.instrument.con_id, ticket.side, context.requested, ticket.limit_price, ticket.stop_price)
    for order in history.since(seconds, strategy=context.strategy):
        if mine == (order.con_id, order.side, order.quantity, order.limit_price, order.stop_price):
            return deny("the strategy has just ordered the same", limit=f"{seconds} s", observed=f"{order.age:.1f} s")
    return allow(limit=f"{seconds} s")


def _reaches(history: OrderHistory, seconds: float) -> bool:
    return seconds <= history.seconds


def allow_list(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny an instrument that is not one of `instruments`."""
    name = context.instrument.name
    if _listed(context.instrument, parameters):
        return allow(observed=name)
    return deny("the instrument is not on the list of those allowed", observed=name)


def restricted_list(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny an instrument that is one of `instruments`."""
    name = context.instrument.name
    if _listed(context.instrument, parameters):
        return deny("the instrument is restricted", observed=name)
    return allow(observed=name)


def _listed(instrument: Instrument, parameters: Mapping[str, Any]) -> bool:
    named = {entry.upper() if isinstance(entry, str) else entry for entry in parameters["instruments"]}
    return instrument.name.upper() in named or instrument.con_id in named


def minimum_confidence(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the signal's confidence is below `min`, or when there is no signal."""
    limit = parameters["min"]
    if context.signal is None:
        return deny("there is no signal", limit=limit)
    observed = context.signal.confidence
    if observed >= limit:
        return allow(limit=limit, observed=observed)
    return deny("the signal is not confident enough", limit=limit, observed=observed)


def signal_age(context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    """Deny when the last bar that the signal was made from is older than `max_seconds`, by the broker's clock."""
    limit = float(parameters["max_seconds"])
    if context.signal is None:
        return deny("there is no signal", limit=f"{limit:g} s")
    # In either direction: a bar of the future is as wrong as an old one.
    age = (context.now - context.signal.as_of).total_seconds()
    if abs(age) <= limit:
        return allow(limit=f"{limit:g} s", observed=f"{age:.0f} s")
    return deny("the signal is too old", limit=f"{limit:g} s", observed=f"{age:.0f} s")


_RECENT = positive(f"How far back it looks, at most {HISTORY_SECONDS:g} s.", maximum=HISTORY_SECONDS)

OPEN_ORDERS = RiskRule(
    name="open_orders",
    check=open_orders,
    parameters=schema(
        max=count("Open orders of the strategy, all instruments together."),
        max_account=count("Open orders of the account, all strategies and instruments together."),
    ),
    order=66,
    description="Denies above IBKR's 20 open orders of a contract, side and account. On for every order.",
)


def rules() -> list[RiskRule]:
    """The rules of this module; the one that clamps runs before those that only deny."""
    return [
        RiskRule(
            name="order_quantity",
            check=order_quantity,
            parameters=schema(("max",), max=positive("Largest order, in units.")),
            order=8,
            description="Clamps an order to the largest quantity that is allowed.",
        ),
        RiskRule(
            name="orders_per_day",
            check=orders_per_day,
            parameters=schema(
                max=count("Orders of the strategy a day."),
                max_account=count("Orders of the account a day, all strategies together."),
            )
            | {"minProperties": 1},
            order=60,
            description="Denies when the strategy or the account has had its orders of the day.",
            needs_account_day=True,
        ),
        RiskRule(
            name="order_rate",
            check=order_rate,
            parameters=schema(
                ("seconds",),
                seconds=_RECENT,
                max=count("Orders of the strategy in that time.", maximum=HISTORY_ORDERS),
                max_account=count("Orders of the account in that time, all strategies.", maximum=HISTORY_ORDERS),
            )
            | {"minProperties": 2},
            order=62,
            description="Denies when the strategy or the account orders too fast.",
            needs_history=True,
        ),
        RiskRule(
            name="duplicate_order",
            check=duplicate_order,
            parameters=schema(("seconds",), seconds=_RECENT),
            order=64,
            description="Denies what the strategy has just ordered: same instrument, side, quantity and prices.",
            needs_history=True,
        ),
        OPEN_ORDERS,
        RiskRule(
            name="allow_list",
            check=allow_list,
            parameters=schema(("instruments",), instruments=_INSTRUMENTS),
            order=72,
            description="Denies an instrument that is not on the list.",
        ),
        RiskRule(
            name="restricted_list",
            check=restricted_list,
            parameters=schema(("instruments",), instruments=_INSTRUMENTS),
            order=74,
            description="Denies an instrument that is on the list.",
        ),
        RiskRule(
            name="minimum_confidence",
            check=minimum_confidence,
            parameters=schema(
                ("min",),
                min={"type": "number", "minimum": 0, "maximum": 1, "description": "Lowest confidence that trades."},
            ),
            order=80,
            description="Denies a signal that is not confident enough.",
        ),
        RiskRule(
            name="signal_age",
            check=signal_age,
            parameters=schema(("max_seconds",), max_seconds=positive("Age of the last bar that the analyst saw.")),
            order=82,
            description="Denies a signal that was made from old bars.",
        ),
    ]
