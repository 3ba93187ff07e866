"""The seam against the simulated gateway, over a real socket, with whichever client library is installed."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import (
    AmbiguousContract,
    BrokerTimeout,
    GatewayUnavailable,
    NoMarketData,
    SessionInvalid,
    UnknownContract,
)
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle, start_simulator
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec

SPY = InstrumentSpec(symbol="SPY")
Impatient = Callable[[BrokerSession], AbstractContextManager[None]]


def test_a_session_knows_its_account_and_that_it_is_simulated(session: BrokerSession, spec: GatewaySpec) -> None:
    assert session.account == "DU1234567"
    assert session.simulated
    assert session.source == "simulator:ibkr_test"
    assert session.client_id in spec.client_ids


def test_the_clock_is_the_brokers(session: BrokerSession, clock: datetime) -> None:
    assert clock <= session.now() < clock + timedelta(minutes=5)
    assert session.now().tzinfo is UTC


def test_a_symbol_is_pinned_to_its_contract(session: BrokerSession) -> None:
    spy = session.resolve(SPY)

    assert (spy.con_id, spy.primary_exchange, spy.exchange) == (756733, "ARCA", "SMART")
    assert (spy.min_tick, spy.min_size, spy.size_increment) == (Decimal("0.01"), 1, 1)
    assert spy.liquid_hours
    assert "SPDR" in spy.long_name
    assert session.resolve(spy) == spy


def test_forex(session: BrokerSession) -> None:
    pair = session.resolve(InstrumentSpec.parse("EUR.USD"))
    assert (pair.con_id, pair.exchange, pair.name) == (12087792, "IDEALPRO", "EUR.USD")
    assert pair.min_tick == Decimal("0.00005")


def test_an_unknown_symbol(session: BrokerSession) -> None:
    with pytest.raises(UnknownContract, match="NOSUCH"):
        session.resolve(InstrumentSpec(symbol="NOSUCH"))


def test_an_ambiguous_symbol_names_candidates_and_what_to_add(session: BrokerSession) -> None:
    with pytest.raises(AmbiguousContract) as caught:
        session.resolve(InstrumentSpec(symbol="SHOP", currency=""))

    assert "NYSE" in caught.value.message
    assert "TSE" in caught.value.message
    assert "primary_exchange" in caught.value.remedy
    assert "currency" in caught.value.remedy
    narrowed = InstrumentSpec(symbol="SHOP", currency="", primary_exchange="TSE")
    assert session.resolve(narrowed).currency == "CAD"


def test_a_year_of_days(session: BrokerSession, clock: datetime) -> None:
    bars = session.history(session.resolve(SPY), bar_size="1 day", duration="1 Y", end=None)

    assert 245 <= len(bars) <= 260
    assert bars == sorted(bars, key=lambda bar: bar.time)
    assert all(bar.time.tzinfo is UTC and bar.time.time().isoformat() == "00:00:00" for bar in bars)
    assert all(bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high for bar in bars)
    assert bars[-1].time.date() == clock.date()


def test_intraday_bars_end_where_asked(session: BrokerSession, clock: datetime) -> None:
    end = clock.replace(minute=0, second=0, microsecond=0)

    bars = session.history(session.resolve(SPY), bar_size="1 min", duration="1800 S", end=end)

    assert len(bars) == 30
    assert bars[0].time == end - timedelta(minutes=30)
    assert bars[-1].time == end - timedelta(minutes=1)


def test_no_history_is_an_error(session: BrokerSession) -> None:
    with pytest.raises(NoMarketData, match="SPY"):
        session.history(session.resolve(SPY), bar_size="1 day", duration="5 D", end=datetime(1980, 1, 1, tzinfo=UTC))


def test_a_quote(session: BrokerSession) -> None:
    spy = session.resolve(SPY)

    quote = session.quote(spy)
    again = session.quote(spy)

    assert quote.con_id == again.con_id == spy.con_id
    assert not quote.delayed
    assert quote.bid is not None
    assert quote.ask is not None
    assert quote.last is not None
    assert 0 < quote.bid <= quote.ask
    assert quote.reference == (quote.bid + quote.ask) / 2


def test_an_untouched_account(session: BrokerSession) -> None:  # no test of this module trades
    snapshot = session.account_snapshot()

    assert (snapshot.account, snapshot.currency, snapshot.simulated) == ("DU1234567", "USD", True)
    assert snapshot.net_liquidation == snapshot.cash == 1_000_000
    assert snapshot.buying_power > 0
    assert snapshot.positions == ()
    assert Decimal(snapshot.values["NetLiquidation"]) == snapshot.net_liquidation
    assert session.positions() == session.executions() == []


def test_sessions_of_several_threads_do_not_meet(spec: GatewaySpec) -> None:
    """One session's end must not touch another's work; the library's own events are process-wide."""
    accounts: list[str] = []

    def work(client_id: int) -> None:
        for _ in range(3):
            with BrokerSession.open(spec, client_id=client_id) as session:
                accounts.append(f"{session.account} {len(session.history(session.resolve(SPY), **a_month))}")

    a_month = {"bar_size": "1 day", "duration": "1 M", "end": None}
    threads = [threading.Thread(target=work, args=(client_id,)) for client_id in spec.client_ids[:4]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(accounts) == 12
    assert len(set(accounts)) == 1


def test_several_threads_share_a_session(session: BrokerSession) -> None:
    spy, found = session.resolve(SPY), []
    jobs = (
        session.positions,
        session.executions,
        session.now,
        lambda: session.resolve(SPY),
        lambda: session.quote(spy),
    )
    threads = [threading.Thread(target=lambda job=job: found.append(job())) for job in jobs * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15


def test_a_session_works_inside_a_running_loop(spec: GatewaySpec) -> None:
    async def main() -> str:
        with BrokerSession.open(spec, client_id=spec.client_ids[0]) as session:
            return session.account

    assert asyncio.run(main()) == "DU1234567"


def test_a_client_id_is_free_as_soon_as_its_session_is_closed(spec: GatewaySpec) -> None:
    for _ in range(5):
        with BrokerSession.open(spec, client_id=spec.client_ids[0]) as session:
            session.now()


def test_a_closed_session_says_so(spec: GatewaySpec) -> None:
    session = BrokerSession.open(spec, client_id=spec.client_ids[0])
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.now()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ibkr-")]


def test_a_gateway_that_goes_away(own_simulator: SimulatorHandle, own_spec: GatewaySpec) -> None:
    with BrokerSession.open(own_spec, client_id=own_spec.client_ids[0]) as session:
        own_simulator.stop()
        with pytest.raises(GatewayUnavailable):
            session.positions()
        with pytest.raises(GatewayUnavailable):
            session.next_order_id()


def test_a_request_without_an_answer_times_out_alone(
    session: BrokerSession, simulator: SimulatorHandle, impatient: Impatient
) -> None:
    simulator.control("mute", messages=["contractDetailsEnd"])
    try:
        with impatient(session), pytest.raises(BrokerTimeout, match="SPY"):
            session.resolve(SPY)
    finally:
        simulator.control("mute", messages=[])
    assert session.resolve(SPY).con_id == 756733


def test_silence_of_a_gateway_that_lost_ibkr_says_why(
    session: BrokerSession, simulator: SimulatorHandle, impatient: Impatient
) -> None:
    simulator.control("mute", messages=["positionEnd"])
    try:
        simulator.control("error", client=10, id=-1, code=1100, message="Connectivity has been lost.")
        with impatient(session), pytest.raises(SessionInvalid, match="1100"):
            session.positions()
    finally:
        simulator.control("mute", messages=[])


@pytest.mark.parametrize("clock", [None, datetime(2026, 11, 20, 16, 0, tzinfo=UTC)])
def test_a_simulated_clock_is_told_apart_from_a_simulated_gateway(clock: datetime | None) -> None:
    with start_simulator(clock=clock) as handle:
        spec = GatewaySpec(conn_id="c", host=handle.host, port=handle.port, client_ids=range(1, 9), account="")
        with BrokerSession.open(spec, client_id=1) as session:
            assert session.simulated
            assert session.simulated_clock is (clock is not None)
