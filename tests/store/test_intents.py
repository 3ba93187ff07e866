from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from airflow_ibkr_plugin.errors import Family, StoreError
from airflow_ibkr_plugin.store.account_orders import AccountOrders
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.store.models import IntentTransition, OrderIntent
from airflow_ibkr_plugin.store.risk_decisions import RiskDecisions
from airflow_ibkr_plugin.trading.orders import TRANSITIONS, IntentState, OrderType, Side, TimeInForce
from airflow_ibkr_plugin.trading.risk import Outcome, RiskDecision, allow, clamp, deny

SOURCE = "simulator:ibkr_default"
S = IntentState
# A way from DECIDED to each state.
WAYS: dict[IntentState, tuple[IntentState, ...]] = {
    S.DECIDED: (),
    S.DENIED: (S.DENIED,),
    S.RESERVED: (S.RESERVED,),
    S.SENDING: (S.RESERVED, S.SENDING),
    S.AMBIGUOUS: (S.RESERVED, S.SENDING, S.AMBIGUOUS),
    S.WORKING: (S.RESERVED, S.SENDING, S.WORKING),
    S.CANCELLING: (S.RESERVED, S.SENDING, S.WORKING, S.CANCELLING),
    S.FILLED: (S.RESERVED, S.SENDING, S.FILLED),
    S.CANCELLED: (S.RESERVED, S.SENDING, S.CANCELLED),
    S.REJECTED: (S.RESERVED, S.SENDING, S.REJECTED),
    S.ABANDONED: (S.RESERVED, S.SENDING, S.AMBIGUOUS, S.ABANDONED),
}
MakeIntent = Callable[..., OrderIntent]


def transitions(database: Database, intent_id: int) -> list[IntentTransition]:
    query = select(IntentTransition).where(IntentTransition.intent_id == intent_id)
    with database.read() as session:
        return list(session.scalars(query.order_by(IntentTransition.id)))


def walk(database: Database, intent: OrderIntent, state: IntentState, at: datetime, **changes: Any) -> OrderIntent:
    for step in WAYS[state]:
        with database.write() as session:
            intent = Intents(session).transition(intent, step, at=at, reason=f"to {step}", **changes)
    return intent


def test_an_intent_is_made_once(database: Database, new_intent: Any, new_key: Any) -> None:
    key, fields = new_intent()
    with database.write() as session:
        first, created = Intents(session).get_or_create(key, **fields)
    assert created
    with database.write() as session:
        intents = Intents(session)
        second, created = intents.get_or_create(key, **(fields | {"quantity": Decimal(99), "state": S.RESERVED}))
        other, other_created = intents.get_or_create(new_key(generation=1), **fields)
    assert not created
    assert (second.id, second.quantity, second.state) == (first.id, Decimal(10), S.DECIDED)
    assert other_created
    assert other.order_ref != first.order_ref
    with database.read() as session:
        intents = Intents(session)
        assert intents.by_order_ref(key.order_ref).id == first.id  # type: ignore[union-attr]
        assert [i.id for i in intents.for_run("momentum", "run-1")] == [first.id, other.id]
        assert intents.for_run("momentum", "run-2") == []
        assert intents.get(4711) is None


def test_columns_come_back_as_they_were(
    database: Database, make_intent: MakeIntent, new_intent: Any, today: date
) -> None:
    intent = make_intent(limit_price=Decimal("100.25"), broker_day=today, tif=TimeInForce.GTC)
    with database.read() as session:
        row = Intents(session).get(intent.id)
    assert row is not None
    assert (row.side, row.order_type, row.tif, row.state) == (
        Side.BUY,
        OrderType.MARKET,
        TimeInForce.GTC,
        S.DECIDED,
    )
    assert row.state is S.DECIDED
    assert (row.limit_price, row.stop_price, row.broker_day) == (Decimal("100.25"), None, today)
    assert row.instrument == new_intent()[1]["instrument"]
    assert not row.outside_rth
    assert row.updated_at == row.created_at


def test_racing_tasks_make_one_intent(database: Database, race: Any, new_intent: Any) -> None:
    key, fields = new_intent()

    def work(database: Database, number: int) -> tuple[int, bool]:
        with database.write() as session:
            row, created = Intents(session).get_or_create(key, **fields)
            return row.id, created

    found = race(work, 8)
    assert len({row_id for row_id, _ in found}) == 1
    assert sum(created for _, created in found) == 1


@pytest.mark.parametrize("start", list(S))
def test_moves_follow_the_table(
    database: Database, make_intent: MakeIntent, new_key: Any, now: datetime, start: IntentState
) -> None:
    for target in S:
        intent = walk(database, make_intent(new_key(task_id=f"{start}-{target}")), start, now)
        if target in TRANSITIONS[start]:
            with database.write() as session:
                assert Intents(session).transition(intent, target, at=now, reason="").state is target
        else:
            with pytest.raises(ValueError, match="cannot go"), database.write() as session:
                Intents(session).transition(intent, target, at=now, reason="")
            with database.read() as session:
                assert Intents(session).get(intent.id).state is start  # type: ignore[union-attr]


def test_moves_are_recorded(database: Database, make_intent: MakeIntent, now: datetime, today: date) -> None:
    later = now + timedelta(seconds=5)
    intent = walk(database, make_intent(), S.RESERVED, now, broker_day=today)
    with database.write() as session:
        row = Intents(session).transition(intent, S.SENDING, at=later, reason="out", sent_at=later, order_id=12)
    assert (row.state, row.reason, row.updated_at, row.sent_at, row.order_id) == (S.SENDING, "out", later, later, 12)
    assert [(m.from_state, m.to_state, m.at, m.reason) for m in transitions(database, intent.id)] == [
        (S.DECIDED, S.RESERVED, now, "to reserved"),
        (S.RESERVED, S.SENDING, later, "out"),
    ]


def test_a_move_from_an_old_view_is_refused(database: Database, make_intent: MakeIntent, now: datetime) -> None:
    """SENDING to SENDING is in the table, so that a retry may send again; two senders at once must not."""
    old = walk(database, make_intent(), S.RESERVED, now)
    with database.write() as session:
        Intents(session).transition(old, S.SENDING, at=now, reason="")
        seen = Intents(session).get(old.id)
    assert seen is not None
    old.state = S.RESERVED  # as another process saw it before
    with pytest.raises(StoreError, match="another process has moved it") as caught, database.write() as session:
        Intents(session).transition(old, S.SENDING, at=now, reason="")
    assert caught.value.family is Family.RETRY


def test_one_of_many_movers_wins(database: Database, make_intent: MakeIntent, race: Any, now: datetime) -> None:
    intent = walk(database, make_intent(), S.RESERVED, now)

    def work(database: Database, number: int) -> bool:
        with database.read() as session:
            seen = Intents(session).get(intent.id)
        assert seen is not None
        if seen.state is not S.RESERVED:
            return False
        try:
            with database.write() as session:
                Intents(session).transition(seen, S.SENDING, at=now, reason=str(number))
        except StoreError:
            return False
        return True

    assert sum(race(work, 8)) == 1
    assert len(transitions(database, intent.id)) == 2


def test_a_transition_cannot_set_what_is_not_its_to_set(
    database: Database, make_intent: MakeIntent, now: datetime
) -> None:
    intent = make_intent()
    for name in ("order_ref", "updated_at", "no_such_column"):
        with pytest.raises(TypeError, match=name), database.write() as session:
            Intents(session).transition(intent, S.RESERVED, at=now, reason="", **{name: "x"})


def test_exactly_one_gets_the_lease(database: Database, make_intent: MakeIntent, race: Any, now: datetime) -> None:
    intent = make_intent()

    def work(database: Database, number: int) -> bool:
        with database.write() as session:
            return Intents(session).acquire_lease(intent.id, f"worker-{number}", now=now, seconds=30)

    assert sum(race(work, 8)) == 1

    def take_over(database: Database, number: int) -> bool:
        with database.write() as session:
            return Intents(session).acquire_lease(
                intent.id, f"next-{number}", now=now + timedelta(seconds=30), seconds=30
            )

    assert sum(race(take_over, 8)) == 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "renew", "release"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 20),  # seconds that pass before
        st.integers(1, 30),  # seconds asked for
    ),
    max_size=12,
)
_tasks = itertools.count(1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_leases_behave_as_the_model(
    database: Database, make_intent: MakeIntent, new_key: Any, now: datetime, steps: list[tuple[str, str, int, int]]
) -> None:
    intent = make_intent(new_key(task_id=f"lease-{next(_tasks)}"))
    holder, until, at = None, now, now
    for verb, owner, passed, seconds in steps:
        at += timedelta(seconds=passed)
        with database.write() as session:
            intents = Intents(session)
            if verb == "release":
                assert intents.release_lease(intent.id, owner) == (holder == owner)
                holder = None if holder == owner else holder
                continue
            if verb == "acquire":
                expected = holder in (None, owner) or until <= at
                assert intents.acquire_lease(intent.id, owner, now=at, seconds=seconds) == expected
            else:
                expected = holder == owner and until > at
                assert intents.renew_lease(intent.id, owner, now=at, seconds=seconds) == expected
        if expected:
            holder, until = owner, at + timedelta(seconds=seconds)
    with database.read() as session:
        row = Intents(session).get(intent.id)
    assert row is not None
    assert row.lease_owner == holder
    assert row.lease_until == (until if holder else None)


def test_count_on_day(database: Database, make_intent: MakeIntent, new_key: Any, now: datetime, today: date) -> None:
    sent = set(S) - {S.DECIDED, S.DENIED, S.RESERVED}
    for number, state in enumerate(S):
        sent_at = now if state in sent else None
        walk(database, make_intent(new_key(task_id=f"{number}"), broker_day=today, sent_at=sent_at), state, now)
    with database.read() as session:
        intents = Intents(session)
        assert intents.count_on_day("momentum", today) == len(sent) + 1  # the reserved one counts as well
        assert intents.count_on_day("momentum", today + timedelta(days=1)) == 0
        assert intents.count_on_day("other", today) == 0
    walk(database, make_intent(new_key(task_id="undated")), S.RESERVED, now)
    walk(database, make_intent(new_key(task_id="undated and given up")), S.ABANDONED, now)
    with database.read() as session:
        intents = Intents(session)
        assert intents.count_on_day("momentum", today) == len(sent) + 2
        assert intents.count_on_day("momentum", today + timedelta(days=1)) == 1


@pytest.mark.parametrize("state", list(S))
def test_only_what_was_never_sent_is_released(
    database: Database, make_intent: MakeIntent, now: datetime, today: date, state: IntentState
) -> None:
    intent = walk(database, make_intent(broker_day=today), state, now)
    with database.write() as session:
        released = Intents(session).release_unheld(SOURCE, "DU1", now=now)
    assert [row.id for row in released] == ([intent.id] if state is S.RESERVED else [])
    with database.read() as session:
        row = Intents(session).get(intent.id)
    assert row is not None
    assert row.state is (S.DECIDED if state is S.RESERVED else state)


def test_a_released_intent_counts_no_longer_and_says_why(
    database: Database, make_intent: MakeIntent, now: datetime, today: date
) -> None:
    intent = walk(database, make_intent(), S.RESERVED, now, broker_day=today, lease_owner="dead", lease_until=now)
    later = now + timedelta(minutes=5)
    with database.write() as session:
        intents = Intents(session)
        assert (len(AccountOrders(session, SOURCE, "DU1").open()), intents.count_on_day("momentum", today)) == (1, 1)
        (row,) = intents.release_unheld("simulator:another_connection", "DU1", now=later)
        assert (len(AccountOrders(session, SOURCE, "DU1").open()), intents.count_on_day("momentum", today)) == (0, 0)
        assert intents.release_unheld(SOURCE, "DU1", now=later) == []
    assert (row.lease_owner, row.lease_until) == (None, None)
    move = transitions(database, intent.id)[-1]
    assert (move.from_state, move.to_state, move.at) == (S.RESERVED, S.DECIDED, later)
    assert "nothing was sent" in move.reason


@pytest.mark.parametrize(
    ("source", "account", "after", "count"),
    [
        (SOURCE, "DU1", 30, 1),
        (SOURCE, "DU1", 29, 0),  # its worker may still send it
        (SOURCE, "DU2", 30, 0),
        ("paper:ibkr_default", "DU1", 30, 0),
    ],
)
def test_reservations_of_the_account_are_released_when_their_lease_has_run_out(
    database: Database, make_intent: MakeIntent, now: datetime, source: str, account: str, after: int, count: int
) -> None:
    intent = walk(database, make_intent(), S.RESERVED, now)
    with database.write() as session:
        assert Intents(session).acquire_lease(intent.id, "w", now=now, seconds=30)
    with database.write() as session:
        released = Intents(session).release_unheld(source, account, now=now + timedelta(seconds=after))
    assert len(released) == count


def test_an_intent_is_sent_or_released_never_both(
    database: Database, make_intent: MakeIntent, race: Any, now: datetime
) -> None:
    """The worker's clock is behind: it believes in its lease when the others see that it has run out."""
    intent = walk(database, make_intent(), S.RESERVED, now)
    with database.write() as session:
        assert Intents(session).acquire_lease(intent.id, "w", now=now, seconds=30)

    def work(database: Database, number: int) -> str:
        with database.write() as session:
            intents = Intents(session)
            if number % 2:
                return "released" if intents.release_unheld(SOURCE, "DU1", now=now + timedelta(seconds=30)) else ""
            if not intents.renew_lease(intent.id, "w", now=now + timedelta(seconds=29), seconds=30):
                return ""
            row = intents.get(intent.id)
            assert row is not None
            if row.state is S.SENDING:  # another attempt of the same worker
                return ""
            intents.transition(row, S.SENDING, at=now, reason="")
            return "sent"

    (done,) = filter(None, race(work, 8))
    with database.read() as session:
        row = Intents(session).get(intent.id)
    assert row is not None
    assert row.state is {"sent": S.SENDING, "released": S.DECIDED}[done]


def test_risk_decisions(database: Database, make_intent: MakeIntent, new_key: Any, now: datetime) -> None:
    first, second = make_intent(), make_intent(new_key(task_id="other"))
    decisions = [
        RiskDecision(rule="a", verdict=allow(limit=1, observed=0)),
        RiskDecision(rule="b", verdict=clamp(Decimal("2.5"), "too much", limit=3, observed=4)),
        RiskDecision(rule="c", verdict=deny("closed")),
    ]
    with database.write() as session:
        RiskDecisions(session).add_all(first.id, decisions, now)
        RiskDecisions(session).add_all(second.id, decisions[:1], now)
    with database.read() as session:
        rows = RiskDecisions(session).for_intent(first.id)
        of_run = RiskDecisions(session).for_run("momentum", "run-1")
        assert RiskDecisions(session).for_run("momentum", "run-2") == []
    assert [(r.rule, r.outcome, r.reason, r.limit_value, r.observed, r.quantity) for r in rows] == [
        ("a", Outcome.ALLOW, "", "1", "0", None),
        ("b", Outcome.CLAMP, "too much", "3", "4", Decimal("2.5")),
        ("c", Outcome.DENY, "closed", "", "", None),
    ]
    assert len(of_run) == 4
