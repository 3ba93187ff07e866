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
    # What may be at the broker can never be denied any more, and nothing reaches the broker without SENDING.
    for state in MAYBE_AT_BROKER:
        assert IntentState.DENIED not in TRANSITIONS[state]
    for state in (IntentState.DECIDED, IntentState.RESERVED):
        assert TRANSITIONS[state] & MAYBE_AT_BROKER <= {IntentState.SENDING}


@pytest.mark.parametrize(
    "fields",
    [
        {"quantity": Decimal(0)},
        {"quantity": Decimal("NaN")},
        {"order_type": OrderType.LIMIT},
        {"limit_price": Decimal(1)},
        {"order_type": OrderType.LIMIT, "limit_price": Decimal("NaN")},
        {"order_type": OrderType.LIMIT, "limit_price": Decimal(-1)},
        {"order_type": OrderType.STOP_LIMIT, "limit_price": Decimal(1)},
    ],
)
def test_a_ticket_that_could_not_be_sent_cannot_be_made(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"positive|fit"):
        OrderTicket(**{"side": Side.BUY, "quantity": Decimal(1), **fields})  # type: ignore[arg-type]
