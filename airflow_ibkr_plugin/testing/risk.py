"""What every risk rule must keep, for those who write one; needs pytest and hypothesis. See docs/risk.md.

from airflow_ibkr_plugin.testing.risk import RiskRuleConformance

class TestCalm(RiskRuleConformance):
    rule = CALM
    parameters = {"min": 0.6}
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from types import FrameType
from typing import Any, ClassVar

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ibkr_plugin.testing.risk_contexts import contexts, risk_context
from airflow_ibkr_plugin.trading.orders import Side
from airflow_ibkr_plugin.trading.portfolio import Position, Quote
from airflow_ibkr_plugin.trading.risk import Outcome, RiskContext, RiskRule, Verdict, evaluate
from airflow_ibkr_plugin.trading.risk_facts import Fill, OpenOrder, OrderHistory, PastOrder, Peak

__all__ = ["RiskRuleConformance", "contexts", "risk_context"]

#: Lines of Python that one check may run, for an account with a thousand orders.
MOST_LINES = 200_000
# hypothesis asks whether one test may run in several classes; these are meant to.
_SETTINGS = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class RiskRuleConformance:
    """Subclass it as `Test...`, name a rule and parameters with numbers that bind.

    :cvar example: an order that the rule allows with these parameters, and that each of their numbers bears on.
    """

    rule: ClassVar[RiskRule]
    parameters: ClassVar[Mapping[str, Any]] = {}
    example: ClassVar[RiskContext] = risk_context(limit="100", stop="100")

    def test_its_schema_takes_the_parameters_and_no_others(self) -> None:
        jsonschema.Draft202012Validator.check_schema(self.rule.parameters)
        jsonschema.validate(self.parameters, self.rule.parameters)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**self.parameters, "no such parameter": 1}, self.rule.parameters)

    def test_it_allows_its_example(self) -> None:
        assert self._check(self.example).outcome is Outcome.ALLOW

    @_SETTINGS
    @given(context=contexts())
    def test_it_answers_and_answers_again_the_same(self, context: RiskContext) -> None:
        given_parameters = copy.deepcopy(dict(self.parameters))
        first = self._check(context)
        assert isinstance(first, Verdict)
        assert isinstance(first.outcome, Outcome)
        assert self._check(context) == first
        assert self.parameters == given_parameters

    @_SETTINGS
    @given(context=contexts())
    def test_a_clamp_is_smaller_and_passes(self, context: RiskContext) -> None:
        verdict = self._check(context)
        if verdict.outcome is Outcome.CLAMP:
            assert verdict.quantity is not None
            assert 0 < verdict.quantity < context.ticket.quantity
            assert self._check(_resized(context, verdict.quantity)).outcome is Outcome.ALLOW

    @_SETTINGS
    @given(context=contexts(), more=st.decimals("0.0001", "1e9", places=4))
    def test_a_larger_order_gets_no_more(self, context: RiskContext, more: Decimal) -> None:
        allowed = self._allowed(context)
        if allowed < context.ticket.quantity:
            assert self._allowed(_resized(context, context.ticket.quantity + more)) <= allowed

    @_SETTINGS
    @given(context=contexts())
    def test_knowing_less_allows_no_more(self, context: RiskContext) -> None:
        allowed = self._allowed(context)
        for blind in _blinded(context):
            assert self._allowed(blind) <= allowed

    def test_a_parameter_that_is_no_number_denies(self) -> None:
        for name, value in self.parameters.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                parameters = {**self.parameters, name: math.nan}
                assert evaluate([(self.rule, parameters)], self.example).ticket is None, name

    def test_its_work_is_bounded(self) -> None:
        """Counted, not timed: how many lines run for an account with a thousand orders."""
        lines = 0

        def count(_frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal lines
            lines += event == "line"
            return count

        crowd = _crowded(self.example)
        before = sys.gettrace()
        sys.settrace(count)
        try:
            self._check(crowd)
        finally:
            sys.settrace(before)
        assert lines <= MOST_LINES

    def _check(self, context: RiskContext) -> Verdict:
        return self.rule.check(context, self.parameters)

    def _allowed(self, context: RiskContext) -> Decimal:
        """How much of the order passes the rule."""
        ticket = evaluate([(self.rule, self.parameters)], context).ticket
        return ticket.quantity if ticket else Decimal(0)


def _resized(context: RiskContext, quantity: Decimal) -> RiskContext:
    return replace(context, ticket=replace(context.ticket, quantity=quantity))


def _blinded(context: RiskContext) -> Iterator[RiskContext]:
    """The context with one thing less that is known."""
    quote, nan = context.quote, Decimal("NaN")
    yield replace(context, quote=Quote(con_id=quote.con_id, at=quote.at))
    yield replace(context, quote=Quote(con_id=quote.con_id, at=quote.at, last=nan))
    yield replace(context, quote=replace(quote, delayed=True))
    yield replace(context, quote=replace(quote, at=datetime(1970, 1, 1, tzinfo=UTC)))
    yield replace(context, account=replace(context.account, net_liquidation=nan))
    yield replace(context, account=replace(context.account, values_at=None))
    yield replace(context, account=replace(context.account, rates={}))
    unpriced = tuple(replace(position, market_price=None) for position in context.account.positions)
    yield replace(context, account=replace(context.account, positions=unpriced))
    yield replace(context, margin=None)
    yield replace(context, daily_pnl=None)
    yield replace(context, daily_pnl=nan)
    yield replace(context, fills=None)
    yield replace(context, results=None)
    yield replace(context, peaks=None)
    if context.results is not None:
        yield replace(context, results=tuple(replace(fill, profit=None) for fill in context.results))
    if context.fills is not None:
        yield replace(context, fills=tuple(replace(fill, profit=None) for fill in context.fills))
    if context.margin is not None:
        yield replace(context, margin=replace(context.margin, initial_after=None))
        yield replace(context, margin=replace(context.margin, initial_before=nan))
        yield replace(context, margin=replace(context.margin, equity_after=nan))
    if context.signal is not None:
        yield replace(context, signal=replace(context.signal, confidence=math.nan))
    yield replace(context, market_open=None)
    yield replace(context, signal=None)
    yield replace(context, requested=None)
    yield replace(context, open_orders=None)
    yield replace(context, history=None)
    yield replace(context, account_orders_today=None)


def _crowded(context: RiskContext) -> RiskContext:
    """The same order in an account with a thousand others."""
    other = replace(context.instrument, symbol="OTHER", con_id=context.instrument.con_id + 1)
    working = OpenOrder(strategy="other", instrument=other, side=Side.BUY, remaining=Decimal(1), price=Decimal(1))
    past = PastOrder(
        strategy=context.strategy,
        con_id=other.con_id,
        side=Side.BUY,
        quantity=Decimal(1),
        limit_price=None,
        stop_price=None,
        age=1.0,
    )
    held = Position(
        account="", con_id=0, symbol="X", quantity=Decimal(1), average_cost=Decimal(1), market_price=Decimal(1)
    )
    positions = tuple(replace(held, con_id=-number) for number in range(1, 501))
    peak = Peak(day=context.now.date(), value=Decimal(1), currency=context.account.currency)
    fill = Fill(age=1.0, today=True, profit=Decimal(0), currency="USD")
    return replace(
        context,
        fills=(fill,) * 2000,
        results=(fill,) * 2000,
        peaks=(peak,) * 3660,
        account=replace(context.account, positions=positions),
        open_orders=(working,) * 1000,
        history=OrderHistory(orders=(past,) * 1000, seconds=3600.0),
    )
