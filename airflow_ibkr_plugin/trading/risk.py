"""The risk engine: pure rules over one frozen context, in a defined order. A rule can allow, clamp or deny."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Quote
from airflow_ibkr_plugin.trading.risk_facts import Fill, Margin, OpenOrder, OrderHistory, Peak
from airflow_ibkr_plugin.trading.signals import Signal

log = logging.getLogger(__name__)

#: A rule that runs longer is logged: other orders of the account wait meanwhile.
SLOW_SECONDS = 0.1


class Outcome(StrEnum):
    """What a rule says."""

    ALLOW = "allow"
    CLAMP = "clamp"
    DENY = "deny"


@dataclass(frozen=True, kw_only=True)
class RiskContext:
    """All that a rule may look at. Gathered before the reservation; counts are read inside its transaction.

    :param now: broker's clock, aware UTC.
    :param quote: reference quote; a rule that needs a price denies when it is missing or delayed.
    :param position: signed quantity of the instrument that the account holds, all strategies together.
    :param reserved: signed quantity that is reserved or working on the ticket's side and not yet filled, all
        strategies together. The other side is not counted: it may never fill.
    :param held: signed quantity that the strategy itself holds, with its own open orders of the ticket's side counted
        as filled.
    :param orders_today: orders of this strategy that are reserved, or were sent, on the broker's day.
    :param account_orders_today: the same, of all strategies of the account; only where a rule says `needs_account_day`.
    :param market_open: whether the instrument's market is open at `now`; None if that could not be told.
    :param requested: quantity that was asked for, before any rule made it smaller.
    :param exits: orders of the other side that go out with it, which only close what it brings.
    :param open_orders: the account's other orders that are reserved or may be at the broker, all strategies together.
    :param history: the account's other orders of late; read only where a rule says `needs_history`.
    :param margin: the broker's what-if for the order as it was before any rule made it smaller; asked for only where a
        rule says `needs_margin`.
    :param daily_pnl: profit of the account on the broker's day, realised and unrealised, in its base currency, < 0 for
        a loss; asked for only where a rule says `needs_daily_pnl`.
    :param fills: the strategy's fills of late; read only where a rule says `needs_fills`.
    :param results: the strategy's fills of the last 31 days, the youngest first; read only where a rule says
        `needs_results`.
    :param peaks: the account's highest values by day, of ten years; read only where a rule says `needs_peaks`.

    What is None is not known: a rule that needs it denies.
    """

    now: datetime
    strategy: str
    instrument: Instrument
    ticket: OrderTicket
    quote: Quote
    account: AccountSnapshot
    position: Decimal
    reserved: Decimal
    orders_today: int
    market_open: bool | None
    held: Decimal = Decimal(0)
    signal: Signal | None = None
    requested: Decimal | None = None
    open_orders: tuple[OpenOrder, ...] | None = None
    exits: int = 0
    history: OrderHistory | None = None
    margin: Margin | None = None
    daily_pnl: Decimal | None = None
    fills: tuple[Fill, ...] | None = None
    account_orders_today: int | None = None
    results: tuple[Fill, ...] | None = None
    peaks: tuple[Peak, ...] | None = None

    @property
    def price(self) -> Decimal | None:
        """Price that the exposure of the ticket is measured with: the highest of reference, limit and stop.

        None without a reference.
        """
        reference = self.quote.reference
        if reference is None:
            return None
        # The reference stands first: as NaN it then stays, and denies. A ticket's own prices are finite.
        given = (self.ticket.limit_price, self.ticket.stop_price)
        return max([reference, *(price for price in given if price is not None)])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one rule concluded.

    :param quantity: with CLAMP, the quantity that is allowed, > 0 and below the ticket's.
    :param limit, observed: the limit and what was held against it, as text for the record.
    """

    outcome: Outcome
    reason: str = ""
    limit: str = ""
    observed: str = ""
    quantity: Decimal | None = None


def allow(*, limit: object = "", observed: object = "") -> Verdict:
    """The order passes this rule."""
    return Verdict(outcome=Outcome.ALLOW, limit=str(limit), observed=str(observed))


def deny(reason: str, *, limit: object = "", observed: object = "") -> Verdict:
    """The order must not be sent."""
    return Verdict(outcome=Outcome.DENY, reason=reason, limit=str(limit), observed=str(observed))


def clamp(quantity: Decimal, reason: str, *, limit: object = "", observed: object = "") -> Verdict:
    """The order passes with a smaller quantity."""
    return Verdict(outcome=Outcome.CLAMP, reason=reason, limit=str(limit), observed=str(observed), quantity=quantity)


Check = Callable[[RiskContext, Mapping[str, Any]], Verdict]


@dataclass(frozen=True, kw_only=True)
class RiskRule:
    """A risk rule as a package registers it.

    :param name: unique, `snake_case`; third parties prefix it with their package: `momentum.conviction`.
    :param check: pure and bounded: `(context, parameters) -> Verdict`.
    :param parameters: JSON Schema (2020-12) of the rule's parameters, an object schema.
    :param order: rules run by ascending order, then name; clamping rules come before those that only deny.
    :param needs_margin: the broker is asked what the order would do to the account's margin (`RiskContext.margin`).
    :param needs_daily_pnl: the broker is asked for the account's profit of the day (`RiskContext.daily_pnl`).
    :param needs_history: the account's latest orders are read (`RiskContext.history`): those of the last hour, or of
        the rule's parameter `seconds` where it has one.
    :param needs_fills: the strategy's fills are read (`RiskContext.fills`): those of a day, or of `seconds`.
    :param needs_account_day: the account's orders of the day are counted (`RiskContext.account_orders_today`).
    :param needs_results: the strategy's fills of a month are read (`RiskContext.results`).
    :param needs_peaks: the account's highest values are read (`RiskContext.peaks`).
    """

    name: str
    check: Check
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "additionalProperties": False})
    order: int = 100
    description: str = ""
    needs_margin: bool = False
    needs_daily_pnl: bool = False
    needs_history: bool = False
    needs_fills: bool = False
    needs_account_day: bool = False
    needs_results: bool = False
    needs_peaks: bool = False


@dataclass(frozen=True, kw_only=True)
class RiskDecision:
    """One rule's verdict, named, for the record."""

    rule: str
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class RiskResult:
    """The engine's answer: the ticket to send (perhaps smaller), or None; and each rule's decision."""

    ticket: OrderTicket | None
    decisions: tuple[RiskDecision, ...]

    @property
    def denied_by(self) -> RiskDecision | None:
        """The first denial."""
        return next((d for d in self.decisions if d.verdict.outcome is Outcome.DENY), None)


def evaluate(rules: Iterable[tuple[RiskRule, Mapping[str, Any]]], context: RiskContext) -> RiskResult:
    """Run every rule in order; each sees the ticket as clamped so far. One denial denies.

    A rule that raises, answers with anything but a Verdict, or clamps to a quantity that is not smaller and positive,
    denies: money paths fail closed.
    """
    decisions: list[RiskDecision] = []
    denied = False
    for rule, parameters in sorted(rules, key=lambda pair: (pair[0].order, pair[0].name)):
        verdict = _checked(rule, context, parameters)
        decisions.append(RiskDecision(rule=rule.name, verdict=verdict))
        if verdict.outcome is Outcome.DENY:
            denied = True
        elif verdict.outcome is Outcome.CLAMP and verdict.quantity is not None:
            context = replace(context, ticket=replace(context.ticket, quantity=verdict.quantity))
    return RiskResult(ticket=None if denied else context.ticket, decisions=tuple(decisions))


def _checked(rule: RiskRule, context: RiskContext, parameters: Mapping[str, Any]) -> Verdict:
    begun = time.perf_counter()
    try:
        verdict: object = rule.check(context, parameters)
        if (seconds := time.perf_counter() - begun) > SLOW_SECONDS:
            log.warning("risk rule %s took %.2f s, and the account waited for it", rule.name, seconds)
        if not (isinstance(verdict, Verdict) and isinstance(verdict.outcome, Outcome)):
            return deny(f"rule {rule.name} answered {verdict!r}, not a Verdict")
        if verdict.outcome is Outcome.CLAMP and not _is_smaller(verdict.quantity, context.ticket.quantity):
            return deny(f"rule {rule.name} clamped {context.ticket.quantity} to {verdict.quantity}")
    except Exception as error:  # noqa: BLE001  third-party code; whatever it raises must deny, not pass
        return deny(f"rule {rule.name} failed: {type(error).__name__}: {error}")
    return verdict


def _is_smaller(quantity: object, than: Decimal) -> bool:
    return isinstance(quantity, Decimal) and quantity.is_finite() and 0 < quantity < than
