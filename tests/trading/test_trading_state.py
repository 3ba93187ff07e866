from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import OrderTicket, Side
from airflow_ibkr_plugin.trading.portfolio import AccountSnapshot, Quote
from airflow_ibkr_plugin.trading.risk import RiskContext, evaluate
from airflow_ibkr_plugin.trading.trading_state import TRADING_STATE, EffectiveState, TradingState, closable

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
quantities = st.integers(1, 1000).map(Decimal)
holdings = st.integers(-1000, 1000).map(Decimal)


def context(side: Side, quantity: Decimal, increment: str = "1") -> RiskContext:
    return RiskContext(
        now=NOW,
        strategy="demo",
        instrument=Instrument(
            symbol="SPY", con_id=1, min_tick=Decimal("0.01"), size_increment=Decimal(increment), min_size=Decimal(1)
        ),
        ticket=OrderTicket(side=side, quantity=quantity),
        quote=Quote(con_id=1, at=NOW),
        account=AccountSnapshot(
            account="DU1", at=NOW, currency="USD", net_liquidation=Decimal(1), cash=Decimal(1), buying_power=Decimal(1)
        ),
        position=Decimal(0),
        reserved=Decimal(0),
        orders_today=0,
        market_open=True,
    )


def parameters(state: TradingState, *held: Decimal, closing: bool = False) -> dict[str, Any]:
    return {"state": state, "why": str(EffectiveState(state=state)), "closing": closing, "holdings": held}


@given(st.sampled_from(Side), quantities, st.lists(holdings, min_size=1, max_size=3))
def test_what_passes_in_reducing_brings_every_holding_closer_to_zero_and_takes_none_through_it(
    side: Side, quantity: Decimal, held: list[Decimal]
) -> None:
    rule = (TRADING_STATE, parameters(TradingState.REDUCING, *held))
    result = evaluate([rule], context(side, quantity))
    room = min(max(-side.sign * each, Decimal(0)) for each in held)
    assert closable(side, *held) == room
    if result.ticket is None:
        assert room == 0
        return
    assert result.ticket.quantity == min(quantity, room)
    for each in held:
        after = each + side.sign * result.ticket.quantity
        assert abs(after) < abs(each)
        assert after * each >= 0


@given(st.sampled_from(Side), quantities, holdings)
def test_in_halted_only_a_closing_order_passes(side: Side, quantity: Decimal, held: Decimal) -> None:
    halted = TradingState.HALTED
    assert evaluate([(TRADING_STATE, parameters(halted, held))], context(side, quantity)).ticket is None
    closing = evaluate([(TRADING_STATE, parameters(halted, held, closing=True))], context(side, quantity)).ticket
    assert (closing.quantity if closing else 0) == min(quantity, closable(side, held))


def test_a_clamp_keeps_to_the_size_increment_and_the_smallest_order() -> None:
    rule = (TRADING_STATE, parameters(TradingState.REDUCING, Decimal(17)))
    result = evaluate([rule], context(Side.SELL, Decimal(20), "5"))
    assert result.ticket is not None
    assert result.ticket.quantity == 15
    rule = (TRADING_STATE, parameters(TradingState.REDUCING, Decimal(4)))
    result = evaluate([rule], context(Side.SELL, Decimal(20), "5"))
    assert result.denied_by is not None
    assert result.denied_by.verdict.reason == "it closes nothing, and trading is REDUCING for the installation"


def test_each_state_is_stricter_than_those_before_it() -> None:
    states = list(TradingState)
    for index, state in enumerate(states):
        assert [state.stricter_than(other) for other in states] == [place < index for place in range(3)]
