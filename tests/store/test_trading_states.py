from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.trading_commands import TradingCommands
from airflow_ibkr_plugin.store.trading_states import TradingStates
from airflow_ibkr_plugin.trading.orders import IntentKey
from airflow_ibkr_plugin.trading.trading_state import CommandKind, TradingState

HALTED, REDUCING, ACTIVE = TradingState.HALTED, TradingState.REDUCING, TradingState.ACTIVE


def command_fields(now: datetime, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "strategy": "",
        "state": HALTED,
        "flatten": False,
        "requested_by": "anna",
        "requested_at": now,
        "reason": "drill",
    }
    return fields | changes


def test_every_change_is_kept_with_who_when_why_from_what_to_what(database: Database, now: datetime) -> None:
    later = now + timedelta(minutes=1)
    with database.write() as session:
        states = TradingStates(session)
        assert states.change("demo", HALTED, by="anna", reason="drill", at=now)
        assert states.change("demo", HALTED, by="ben", reason="again", at=later) is None
        assert states.change("demo", ACTIVE, by="ben", reason="over", at=later)
    with database.read() as session:
        found = [
            (change.old_state, change.new_state, change.changed_by, change.reason, change.at)
            for change in TradingStates(session).changes("demo")
        ]
        assert found == [(ACTIVE, HALTED, "anna", "drill", now), (HALTED, ACTIVE, "ben", "over", later)]
        row = TradingStates(session).get("demo")
        assert row is not None
        assert (row.state, row.changed_by, row.version) == (ACTIVE, "ben", 2)
        assert TradingStates(session).get("") is None


def test_setting_a_state_that_never_was_changed_to_active_changes_nothing(database: Database, now: datetime) -> None:
    with database.write() as session:
        assert TradingStates(session).change("", ACTIVE, by="anna", reason="", at=now) is None
        assert TradingStates(session).changes("") == []


def test_a_mark_differs_after_a_change_there_and_back(database: Database, now: datetime) -> None:
    marks = []
    for state in (HALTED, ACTIVE, HALTED):
        with database.write() as session:
            TradingStates(session).change("demo", state, by="a", reason="r", at=now)
            TradingStates(session).change("other", state, by="a", reason="r", at=now)
            marks.append(TradingStates(session).effective("demo").mark)
    assert len(set(marks)) == 3


def test_a_change_waits_for_a_transaction_that_holds_the_state(database: Database, now: datetime) -> None:
    held, order = threading.Event(), []

    def halt() -> None:
        held.wait(30)
        with database.write() as session:
            TradingStates(session).change("", HALTED, by="anna", reason="drill", at=now)
            order.append("halted")

    thread = threading.Thread(target=halt)
    thread.start()
    with database.write() as session:
        TradingStates(session).hold()
        assert TradingStates(session).effective("demo").state is ACTIVE
        held.set()
        thread.join(0.3)
        assert TradingStates(session).effective("demo").state is ACTIVE
        order.append("sent")
    thread.join(30)
    assert order == ["sent", "halted"]


def test_many_hold_the_state_at_once(database: Database, backend: str, now: datetime) -> None:
    if backend == "sqlite":  # one writer at a time anyway
        return
    with database.write() as one, database.write() as two:
        TradingStates(one).hold()
        TradingStates(two).hold()
        assert TradingStates(two).effective("demo").state is ACTIVE


def test_a_command_is_made_once_and_is_about_the_intents_before_it(
    database: Database, now: datetime, make_intent: Any
) -> None:
    before = make_intent()
    with database.write() as session:
        command = TradingCommands(session).get_or_create("c1", **command_fields(now))
        assert command.last_intent_id == before.id
    after = make_intent(IntentKey(installation="i", dag_id="momentum", run_id="2", task_id="order", con_id=1))
    with database.write() as session:
        commands = TradingCommands(session)
        assert commands.get_or_create("c1", **command_fields(now, reason="other")).reason == "drill"
        assert commands.get_or_create("c1", **command_fields(now)).last_intent_id == before.id
        wanted = commands.wants_cancelled(before.id)
        assert wanted is not None
        assert wanted.id == "c1"
        assert commands.wants_cancelled(after.id) is None


def test_a_command_of_one_strategy_is_about_no_other(database: Database, now: datetime, make_intent: Any) -> None:
    intent = make_intent()
    other = make_intent(
        IntentKey(installation="i", dag_id="other", run_id="2", task_id="order", con_id=1), strategy="other"
    )
    with database.write() as session:
        commands = TradingCommands(session)
        commands.get_or_create("c1", **command_fields(now, strategy="momentum"))
        assert commands.wants_cancelled(intent.id)
        assert not commands.wants_cancelled(other.id)


def test_a_closing_is_about_its_symbol_and_is_not_ended_by_a_looser_state(
    database: Database, now: datetime, make_intent: Any
) -> None:
    intent = make_intent()
    fields = command_fields(now, strategy="momentum", kind=CommandKind.CLOSE, flatten=True)
    with database.write() as session:
        commands = TradingCommands(session)
        commands.get_or_create("c1", **fields, symbol="NONE")
        assert commands.wants_cancelled(intent.id) is None
        commands.get_or_create("c2", **fields, symbol=intent.symbol)
        assert commands.wants_cancelled(intent.id).id == "c2"
        commands.end("momentum", now)
        assert [command.id for command in commands.uncancelled()] == ["c1", "c2"]
        commands.get("c2").cancelled_at = now
        session.flush()
        assert [command.id for command in commands.unflattened()] == ["c2"]


def test_a_command_that_is_carried_out_or_ended_cancels_nothing_more(
    database: Database, now: datetime, make_intent: Any
) -> None:
    intent = make_intent()
    with database.write() as session:
        commands = TradingCommands(session)
        commands.get_or_create("c1", **command_fields(now))
        commands.get_or_create("c2", **command_fields(now, strategy="momentum"))
        assert [command.id for command in commands.uncancelled()] == ["c1", "c2"]
        commands.end("", now)
        session.expire_all()
        assert [command.id for command in commands.uncancelled()] == ["c2"]
        commands.get_or_create("c2", **command_fields(now)).cancelled_at = now
        session.flush()
        assert commands.wants_cancelled(intent.id) is None
