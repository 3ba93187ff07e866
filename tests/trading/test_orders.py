from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.trading.orders import (
    MAYBE_AT_BROKER,
    TERMINAL,
    TRANSITIONS,
    IntentKey,
    IntentState,
    OrderTicket,
    OrderType,
    Side,
    check_transition,
)

KEY = IntentKey(installation="i", dag_id="d", run_id="r", task_id="t", con_id=1)
_text = st.text(min_size=1, max_size=8).filter(lambda text: "\x1f" not in text)
keys = st.builds(
    IntentKey,
    installation=_text,
    dag_id=_text,
    run_id=_text,
    task_id=_text,
    con_id=st.integers(1, 9),
    leg=st.sampled_from(["entry", "stop"]),
    generation=st.integers(0, 2),
)


@given(one=keys, other=keys)
def test_two_intents_share_a_reference_only_if_they_are_the_same(one: IntentKey, other: IntentKey) -> None:
    assert (one.order_ref == other.order_ref) == (one == other)


def test_a_reference_stays_the_same_for_ever() -> None:
    # The broker keeps it: a change of the formula would make orders unknown that are there.
    assert KEY.order_ref == "aip-016f099f0d1430191cd0ec6cec79312b"
    assert replace(KEY, generation=1).order_ref != KEY.order_ref


def test_the_table_of_states() -> None:
    for current, new in product(IntentState, IntentState):
        if new in TRANSITIONS[current]:
            check_transition(current, new)
        else:
            with pytest.raises(ValueError, match="cannot go"):
                check_transition(current, new)
    assert not TERMINAL & MAYBE_AT_BROKER
    # Nothing reaches the broker without SENDING, and what was sent is never taken for unsent again.
    unsent = {IntentState.DECIDED, IntentState.RESERVED, IntentState.DENIED}
    for state in unsent:
        assert TRANSITIONS[state] & MAYBE_AT_BROKER <= {IntentState.SENDING}
    for state in MAYBE_AT_BROKER:
        assert not TRANSITIONS[state] & unsent
    assert following(IntentState.SENDING) - TERMINAL == MAYBE_AT_BROKER
    # An order that the broker has acknowledged is not sent again, nor given up without its word.
    for state in (IntentState.WORKING, IntentState.CANCELLING):
        assert not TRANSITIONS[state] & {IntentState.SENDING, IntentState.ABANDONED}
    assert IntentState.ABANDONED not in TRANSITIONS[IntentState.SENDING]
    # No intent is stuck for ever.
    assert all(following(state) & TERMINAL for state in set(IntentState) - TERMINAL)


def following(state: IntentState) -> set[IntentState]:
    """All states that can come after one."""
    found: set[IntentState] = set()
    todo = {state}
    while todo:
        todo = {new for current in todo for new in TRANSITIONS[current]} - found
        found |= todo
    return found


def test_the_sign_of_a_side() -> None:
    assert (Side.BUY.sign, Side.SELL.sign) == (1, -1)


@pytest.mark.parametrize(
    "fields",
    [
        {"quantity": Decimal(0)},
        {"quantity": Decimal("NaN")},
        {"order_type": OrderType.LIMIT},
        {"limit_price": Decimal(1)},
        {"order_type": OrderType.LIMIT, "limit_price": Decimal("NaN")},
        {"order_type": OrderType.LIMIT, "limit_price": Decimal(-1)},
        {"order_type": OrderType.LIMIT, "limit_price": Decimal(0)},
        {"order_type": OrderType.STOP, "stop_price": Decimal("Infinity")},
        {"order_type": OrderType.STOP_LIMIT, "limit_price": Decimal(1)},
    ],
)
def test_a_ticket_that_could_not_be_sent_cannot_be_made(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"positive|fit"):
        OrderTicket(**{"side": Side.BUY, "quantity": Decimal(1), **fields})  # type: ignore[arg-type]
