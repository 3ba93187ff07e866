"""Client ids, order ids and pins: what sessions share through the trading database."""

import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_ibkr_plugin.broker import connect
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.contracts import pin
from airflow_ibkr_plugin.broker.order_ids import allocate_order_id
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import (
    AmbiguousContract,
    ClientIdInUse,
    ConfigError,
    GatewayUnavailable,
    LiveTradingRefused,
    StoreError,
)
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.store.client_leases import ClientLeases
from airflow_ibkr_plugin.store.contract_pins import ContractPins
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec

SPY = InstrumentSpec(symbol="SPY")


def test_each_session_has_a_client_id_of_its_own(spec: GatewaySpec, database: Database) -> None:
    other_connection = replace(spec, conn_id="ibkr_other")
    with (
        leased_session(spec, database, owner="a") as first,
        leased_session(spec, database, owner="b") as second,
        leased_session(other_connection, database, owner="c") as third,
    ):
        assert [first.client_id, second.client_id, third.client_id] == [10, 11, 12]
    with leased_session(spec, database, owner="d") as again:
        assert again.client_id == 10


def test_ids_to_avoid_are_taken_where_there_are_no_others(spec: GatewaySpec, database: Database) -> None:
    with leased_session(spec, database, owner="a", avoid=[10, 11]) as session:
        assert session.client_id == 12
    with leased_session(spec, database, owner="a", avoid=spec.client_ids) as session:
        assert session.client_id == 10


def test_an_id_that_a_stranger_holds_is_passed_over(spec: GatewaySpec, database: Database) -> None:
    with BrokerSession.open(spec, client_id=10), leased_session(spec, database, owner="a") as session:
        assert session.client_id == 11
        # The stranger's id is nobody's lease.
        with database.write() as transaction:
            held = ClientLeases(transaction).acquire(spec.address, range(10, 11), "b", datetime.now(UTC), 1)
        assert held == 10


def test_no_id_left(spec: GatewaySpec, database: Database) -> None:
    narrow = replace(spec, client_ids=range(10, 11))
    second = leased_session(narrow, database, owner="b")
    with leased_session(narrow, database, owner="a"), pytest.raises(ClientIdInUse, match="10-10"):
        second.__enter__()
    third = leased_session(narrow, database, owner="c")
    with BrokerSession.open(narrow, client_id=10), pytest.raises(ClientIdInUse) as caught:
        third.__enter__()
    assert caught.value.code == 326


def test_a_lease_is_given_back_whatever_happens(spec: GatewaySpec, database: Database) -> None:
    narrow = replace(spec, client_ids=range(10, 11))
    with pytest.raises(RuntimeError), leased_session(narrow, database, owner="a"):
        raise RuntimeError("the work failed")
    refused = leased_session(replace(narrow, account="DU7654321"), database, owner="b")
    with pytest.raises(ConfigError):
        refused.__enter__()
    with leased_session(narrow, database, owner="c") as session:
        assert session.client_id == 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ibkr-")]


def test_the_works_own_error_counts_where_the_lease_cannot_be_given_back(
    spec: GatewaySpec, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(self: ClientLeases, *args: object) -> bool:
        raise StoreError("the trading database is away.")

    monkeypatch.setattr(ClientLeases, "release", away)
    with pytest.raises(RuntimeError, match="the work failed"), leased_session(spec, database, owner="a"):
        raise RuntimeError("the work failed")
    assert "not released: the trading database is away" in caplog.text


def test_a_lease_outlives_some_renewals_that_fail() -> None:
    assert connect.LEASE_SECONDS >= 3 * connect.RENEW_SECONDS


def test_a_lease_is_renewed_while_the_session_is_open(
    spec: GatewaySpec, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "RENEW_SECONDS", 0.01)
    renewed = threading.Event()
    renew = ClientLeases.renew

    def noted(self: ClientLeases, *args: object) -> bool:
        held = renew(self, *args)
        if held:
            renewed.set()
        return held

    monkeypatch.setattr(ClientLeases, "renew", noted)
    with leased_session(spec, database, owner="a"):
        assert renewed.wait(30)


def test_a_lease_that_ran_out_is_taken_again_as_soon_as_nobody_has_it(
    spec: GatewaySpec, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connect, "RENEW_SECONDS", 0.01)
    narrow = replace(spec, client_ids=range(10, 11))
    refused, taken = threading.Event(), threading.Event()
    acquire = ClientLeases.acquire

    def noted(self: ClientLeases, source: str, candidates: list[int], owner: str, *rest: Any) -> int | None:
        got = acquire(self, source, candidates, owner, *rest)
        if owner == "a":
            (refused if got is None else taken).set()
        return got

    with leased_session(narrow, database, owner="a"):
        monkeypatch.setattr(ClientLeases, "acquire", noted)
        with database.write() as transaction:  # the machine slept, and another came
            assert ClientLeases(transaction).release(spec.address, 10, "a")
            assert acquire(ClientLeases(transaction), spec.address, [10], "b", datetime.now(UTC), 600)
        assert refused.wait(30)
        assert not taken.is_set()
        with database.write() as transaction:  # the gateway did not let it in
            assert ClientLeases(transaction).release(spec.address, 10, "b")
        assert taken.wait(30)
    assert "had run out; lost." in caplog.text
    assert "had run out; taken again." in caplog.text
    with leased_session(narrow, database, owner="c") as session:  # given back at the end
        assert session.client_id == 10


def test_live_and_paper_are_kept_apart(spec: GatewaySpec, database: Database, clock: datetime) -> None:
    with (
        pytest.raises(LiveTradingRefused, match="simulated"),
        leased_session(replace(spec, live=True), database, owner="a"),
    ):
        pass
    with start_simulator(clock=clock, account="U1234567") as live:
        looks_live = replace(spec, port=live.port)
        with pytest.raises(LiveTradingRefused, match="U1234567"), leased_session(looks_live, database, owner="a"):
            pass


def test_an_account_that_is_not_managed(spec: GatewaySpec, database: Database) -> None:
    with (
        pytest.raises(ConfigError, match="DU7654321"),
        leased_session(replace(spec, account="DU7654321"), database, owner="a"),
    ):
        pass


def test_an_order_id_is_never_allocated_twice(spec: GatewaySpec, database: Database) -> None:
    """The gateway offers the same id at each log-in, as long as it has seen no order."""
    allocated = []
    for _ in range(3):
        with BrokerSession.open(spec, client_id=15) as session:
            assert session.next_order_id() == 1
            allocated.append(allocate_order_id(session, database))
    assert len(set(allocated)) == 3
    assert allocated == sorted(allocated)

    with BrokerSession.open(replace(spec, conn_id="other"), client_id=15) as session:
        assert allocate_order_id(session, database) > allocated[-1]


def test_a_symbol_stays_with_its_contract(session: BrokerSession, database: Database) -> None:
    spy = pin(session, database, SPY)
    assert pin(session, database, SPY) == spy
    with database.write() as transaction:
        assert ContractPins(transaction).get(session.source, SPY.key) == spy
        # As if the symbol had meant another contract when it was pinned.
        ContractPins(transaction).pin(session.source, SPY.key, replace(spy, con_id=1), datetime.now(UTC))

    with pytest.raises(AmbiguousContract, match="756733"):
        pin(session, database, SPY)


def test_what_cannot_be_resolved_is_not_pinned(session: BrokerSession, database: Database) -> None:
    shop = InstrumentSpec(symbol="SHOP", currency="")
    with pytest.raises(AmbiguousContract):
        pin(session, database, shop)
    with database.read() as transaction:
        assert ContractPins(transaction).get(session.source, shop.key) is None


def test_a_gateway_that_is_gone_keeps_no_lease(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec, database: Database
) -> None:
    narrow = replace(own_spec, client_ids=range(10, 11))
    with leased_session(narrow, database, owner="a"):
        own_simulator.stop()
    with pytest.raises(GatewayUnavailable), leased_session(narrow, database, owner="b"):
        pass
