"""What a person says of an ambiguous order, over sockets: the simulated gateway and the unmodified client library."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import AmbiguousOrder, ConfigError, IntentBusy
from airflow_ibkr_plugin.execution import recover
from airflow_ibkr_plugin.execution.again import raise_generation
from airflow_ibkr_plugin.execution.declare import Declared, declare
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.intent_notes import IntentNotes
from airflow_ibkr_plugin.store.intents import Intents
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "SETTLE_SECONDS", 0.2)


@pytest.fixture
def attempt(spec: GatewaySpec, database: Database) -> Callable[..., str]:
    """One try of a task to buy ten SPY far below the market; returns the orderRef, however the try ended."""

    def once(*errors: type[BaseException]) -> str:
        with leased_session(spec, database, owner="t") as session:
            instrument = session.resolve(InstrumentSpec.parse("SPY"))
            key = IntentKey(installation="t", dag_id="demo", run_id="1", task_id="o", con_id=instrument.con_id)
            request = OrderRequest(
                key=key,
                strategy="demo",
                source=session.source,
                account=session.account,
                mode="paper",
                instrument=instrument,
                ticket=OrderTicket(
                    side=Side.BUY, quantity=Decimal(10), order_type=OrderType.LIMIT, limit_price=Decimal(1)
                ),
                wait_seconds=0.1,
                leave_working=True,
            )
            with pytest.raises(errors) if errors else nullcontext():
                execute(session, database, request, owner="t")
        return key.order_ref

    return once


def say(database: Database, spec: GatewaySpec, order_ref: str, what: Declared, reason: str = "looked in TWS") -> Any:
    return declare(database, order_ref, what, by="anna@desk", reason=reason, gateway_of=lambda _: spec)


def intent(database: Database, order_ref: str) -> Any:
    with database.read() as transaction:
        return Intents(transaction).by_order_ref(order_ref)


def notes(database: Database, order_ref: str) -> list[Any]:
    with database.read() as transaction:
        return IntentNotes(transaction).for_intent(intent(database, order_ref).id)


def test_what_never_reached_the_broker_is_abandoned_by_a_persons_word_and_may_be_traded_again(
    gateway: Any, spec: GatewaySpec, database: Database, attempt: Any
) -> None:
    gateway.control("drop_before_accept")
    order_ref = attempt(Exception)
    assert intent(database, order_ref).state is IntentState.AMBIGUOUS
    gateway.control("clock", advance=86_400)  # nobody can ask about yesterday
    attempt(AmbiguousOrder)
    assert say(database, spec, order_ref, Declared.NEVER_SENT).state is IntentState.ABANDONED
    row = intent(database, order_ref)
    assert row.reason == "anna@desk says never-sent: looked in TWS"
    (note,) = notes(database, order_ref)
    assert (note.noted_by, note.text) == (
        "anna@desk",
        "never-sent: looked in TWS (the broker, asked now, does not know it)",
    )
    assert raise_generation(database, "demo", "1", "o", by="anna@desk", reason="anew").generation == 1
    assert gateway.control("orders")["orders"] == []


def test_what_the_broker_knows_is_not_settled_by_anybodys_word(
    gateway: Any, spec: GatewaySpec, database: Database, attempt: Any
) -> None:
    gateway.control("drop_after_accept")
    order_ref = attempt(Exception)
    with pytest.raises(ConfigError, match=r"The broker knows order .*Submitted"):
        say(database, spec, order_ref, Declared.NEVER_SENT)
    with pytest.raises(ConfigError, match="The broker knows order"):
        say(database, spec, order_ref, Declared.ENDED)
    assert intent(database, order_ref).state is IntentState.AMBIGUOUS
    assert notes(database, order_ref) == []


def test_with_the_gateway_away_the_word_stands_alone_and_the_note_says_so(
    gateway: Any, spec: GatewaySpec, database: Database, attempt: Any, unused_port: int
) -> None:
    gateway.control("drop_before_accept")
    order_ref = attempt(Exception)
    say(database, replace(spec, port=unused_port), order_ref, Declared.NEVER_SENT)
    assert "the broker could not be asked: No gateway at" in notes(database, order_ref)[0].text


def test_a_connection_that_is_gone_or_leads_elsewhere_cannot_be_asked(
    gateway: Any, spec: GatewaySpec, database: Database, attempt: Any
) -> None:
    gateway.control("drop_before_accept")
    order_ref = attempt(Exception)
    with database.write() as transaction:
        row = Intents(transaction).by_order_ref(order_ref)
        assert row is not None
        row.source = "paper:elsewhere"

    def gone(conn_id: str) -> GatewaySpec:
        raise ConfigError(f"no connection {conn_id}")

    with pytest.raises(ConfigError, match="without a reason"):
        declare(database, order_ref, Declared.NEVER_SENT, by="a", reason="", gateway_of=gone)
    declare(database, order_ref, Declared.NEVER_SENT, by="a", reason="r", gateway_of=gone)
    assert "could not be asked: no connection elsewhere" in notes(database, order_ref)[0].text
    with database.write() as transaction:
        row = Intents(transaction).by_order_ref(order_ref)
        assert row is not None
        row.state = IntentState.AMBIGUOUS
    say(database, spec, order_ref, Declared.NEVER_SENT)
    assert "leads to simulator:ibkr_default now" in notes(database, order_ref)[1].text


def test_what_was_acknowledged_was_sent_and_can_only_have_ended(
    gateway: Any, spec: GatewaySpec, database: Database, attempt: Any
) -> None:
    order_ref = attempt()
    assert intent(database, order_ref).state is IntentState.WORKING
    with pytest.raises(ConfigError, match="is working, and not ambiguous"):
        say(database, spec, order_ref, Declared.ENDED)
    gateway.control("clock", advance=86_400)  # its day is over, and so is it
    attempt(AmbiguousOrder)
    with pytest.raises(ConfigError, match=r"acknowledged order .* once \(permId \d+\): it was sent"):
        say(database, spec, order_ref, Declared.NEVER_SENT)
    assert say(database, spec, order_ref, Declared.ENDED).state is IntentState.CANCELLED


def test_not_while_a_worker_is_at_it(gateway: Any, spec: GatewaySpec, database: Database, attempt: Any) -> None:
    gateway.control("drop_before_accept")
    order_ref = attempt(Exception)
    with database.write() as transaction:
        assert Intents(transaction).acquire_lease(
            intent(database, order_ref).id, "worker", now=datetime.now(UTC), seconds=60
        )
    with pytest.raises(IntentBusy):
        say(database, spec, order_ref, Declared.NEVER_SENT)
    assert intent(database, order_ref).state is IntentState.AMBIGUOUS


def test_one_that_died_while_sending_is_settled_once_its_lease_is_over(
    spec: GatewaySpec, database: Database, attempt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    monkeypatch.setattr(BrokerSession, "place", killed)
    order_ref = attempt(Killed)
    assert intent(database, order_ref).state is IntentState.SENDING
    assert say(database, spec, order_ref, Declared.NEVER_SENT).state is IntentState.ABANDONED


def test_an_order_that_is_not_there(spec: GatewaySpec, database: Database) -> None:
    with pytest.raises(ConfigError, match="There is no order aip-none"):
        say(database, spec, "aip-none", Declared.NEVER_SENT)
