"""Closing what a strategy holds, over sockets: never through zero, and never without the stop of what is left."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.execution.halt import set_state
from airflow_ibkr_plugin.execution.outcome import OrderOutcome
from airflow_ibkr_plugin.execution.reduce import Closing, Reduction, close_position
from airflow_ibkr_plugin.store.units import Units
from airflow_ibkr_plugin.trading.brackets import CLOSE_LEG
from airflow_ibkr_plugin.trading.instruments import Instrument
from airflow_ibkr_plugin.trading.orders import BracketState, IntentState, OrderTicket, Side
from airflow_ibkr_plugin.trading.trading_state import TradingState

KO = Instrument(symbol="KO", con_id=8894, min_tick=Decimal("0.01"))


def close(
    floor: Any, session: BrokerSession, run_id: str = "close-1", strategy: str = "demo", **reduction: Any
) -> OrderOutcome | None:
    request = floor.request(session, run_id, strategy=strategy)
    closing = Closing(
        key=replace(request.key, leg=CLOSE_LEG),
        strategy=request.strategy,
        source=request.source,
        account=request.account,
        mode=request.mode,
        instrument=request.instrument,
        reduction=Reduction(**{name: Decimal(str(value)) for name, value in reduction.items()}),
        wait_seconds=10.0,
    )
    return close_position(session, floor.database, closing, owner="t")


def test_a_strategy_that_holds_nothing_closes_nothing(floor: Any) -> None:
    with floor.session() as session:
        assert close(floor, session) is None
    assert floor.orders() == []


def test_what_another_strategy_holds_is_not_closed_and_keeps_its_exits(floor: Any) -> None:
    floor.bracket()
    with floor.session() as session:
        assert close(floor, session, strategy="other") is None
    assert floor.held() == 10
    assert floor.working() == {"target": ("10", "LMT"), "stop": ("10", "STP")}


@pytest.mark.parametrize("allow_short", [False, True])
def test_a_sell_gets_what_the_exits_leave_unless_it_may_go_short(floor: Any, allow_short: bool) -> None:
    floor.bracket()
    with floor.session() as session:
        ticket = OrderTicket(side=Side.SELL, quantity=Decimal(10))
        request = replace(floor.request(session, "sell"), ticket=ticket, allow_short=allow_short)
        outcome = floor.execute(session, request)
    if allow_short:
        assert (outcome.state, floor.held()) == (IntentState.FILLED, 0)
    else:
        assert outcome.state is IntentState.DENIED
        assert outcome.reason.startswith("short_selling: ")
        assert floor.held() == 10
    exits = {"target": ("10", "LMT"), "stop": ("10", "STP")}
    assert floor.working() == exits
    floor.bracket()  # as the service does
    assert floor.working() == ({} if allow_short else exits)


def test_closing_cancels_the_exits_first_and_ends_the_bracket(floor: Any) -> None:
    floor.bracket()
    with floor.session(client_ids=range(15, 16)) as session:
        outcome = close(floor, session)
        assert outcome is not None
        assert (outcome.state, outcome.filled, str(outcome.side)) == (IntentState.FILLED, 10, "SELL")
        assert close(floor, session) == outcome  # a clear closes nothing more
    assert floor.held() == 0
    assert floor.working() == {}
    assert floor.states() == {"entry": "filled", "target": "cancelled", "stop": "cancelled"}
    assert floor.legs()["entry"].bracket is BracketState.CLOSED
    floor.bracket()
    assert len(floor.orders()) == 4
    assert floor.alerts() == []


@pytest.mark.parametrize(("how", "left"), [({"share": 0.35}, 7), ({"quantity": 4}, 6), ({"quantity": 99}, 0)])
def test_what_is_left_has_its_stop_again(floor: Any, how: dict[str, float], left: int) -> None:
    floor.bracket()
    with floor.session() as session:
        assert close(floor, session, **how) is not None
    assert floor.held() == left
    assert floor.working() == ({"stop.2": (str(left), "STP")} if left else {})


@pytest.mark.parametrize(("state", "filled"), [(TradingState.REDUCING, 10), (TradingState.HALTED, 0)])
def test_a_task_closes_while_trading_is_reducing_and_not_while_it_is_halted(
    floor: Any, state: TradingState, filled: int
) -> None:
    floor.bracket()
    set_state(floor.database, "", state, by="t", reason="t")
    with floor.session() as session:
        outcome = close(floor, session)
    assert outcome is not None
    assert outcome.filled == filled
    assert floor.held() == 10 - filled
    if not filled:  # what it was not allowed to close is protected as before
        assert floor.working() == {"stop.2": ("10", "STP")}


def test_a_stop_that_fills_while_the_close_is_on_its_way_is_no_double_exit(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target fills behind the decision to close and before its cancel: nothing is left to sell."""
    floor.bracket(bracket={"stop": {"offset": 0.2}, "target": {"amount": 0.02}})
    begun = Units.of_strategy

    def filled_meanwhile(self: Any, *arguments: Any) -> Any:
        for _ in range(200):
            if "target" not in floor.working():
                break
            floor.gateway.control("clock", advance=1800)
        return begun(self, *arguments)

    monkeypatch.setattr(Units, "of_strategy", filled_meanwhile)
    with floor.session() as session:
        outcome = close(floor, session)
        assert outcome is not None
        assert (outcome.state, outcome.filled) == (IntentState.DENIED, 0)
        assert sum(p.quantity for p in session.positions()) == 0
    assert floor.held() == 0
    assert floor.working() == {}


def test_two_closes_at_once_sell_it_once(floor: Any) -> None:
    floor.bracket()
    with floor.session() as session:
        first, second = close(floor, session, "close-1"), close(floor, session, "close-2")
    assert first is not None
    assert second is None
    assert floor.held() == 0


def test_a_close_that_died_behind_its_cancels_leaves_a_position_that_is_protected_again(
    floor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.bracket()
    with floor.session() as session, monkeypatch.context() as patched:
        patched.setattr("airflow_ibkr_plugin.execution.reduce.work", _dies)
        with pytest.raises(KeyboardInterrupt):
            close(floor, session)
    assert floor.working() == {}
    with floor.database.read() as transaction:
        (entry,) = Units(transaction).open_entries(now=datetime.now(UTC))  # the service sees to it
    assert entry.order_ref == floor.legs()["entry"].order_ref
    floor.bracket()
    assert floor.working() == {"stop.2": ("10", "STP")}
    with floor.session() as session:  # and the retry of the close cancels that one
        outcome = close(floor, session)
    assert outcome is not None
    assert outcome.state is IntentState.FILLED
    assert floor.held() == 0
    assert floor.working() == {}


def _dies(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "given_reduction",
    [{"share": "0"}, {"share": "1.01"}, {"share": "NaN"}, {"quantity": "-1"}, {"share": "1", "quantity": "1"}],
)
def test_what_is_no_part_of_a_position_is_refused(given_reduction: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Reduction(**{name: Decimal(value) for name, value in given_reduction.items()})


@given(
    held=st.decimals("-1e6", "1e6", places=2).filter(lambda d: d != 0),
    share=st.one_of(st.none(), st.decimals("0.01", "1", places=2)),
    quantity=st.decimals("0.01", "1e7", places=2),
)
def test_no_more_than_is_held_is_ever_closed(held: Decimal, share: Decimal | None, quantity: Decimal) -> None:
    reduction = Reduction(share=share, quantity=None if share is not None else quantity)
    closed = reduction.of(held, KO)
    assert 0 <= closed <= abs(held)
    assert closed == abs(held) or closed % KO.size_increment == 0
    assert Reduction().of(held, KO) == abs(held)
