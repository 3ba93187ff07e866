"""Which client library is used, and that what it gives is what ours gives."""

import importlib.util
import logging
from typing import Any

import pytest

from airflow_ibkr_plugin.broker import library
from airflow_ibkr_plugin.broker.loop import PrivateLoop
from airflow_ibkr_plugin.broker.session import BrokerSession
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ConfigError, PacingViolation
from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec


def test_without_a_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        library.load()


@pytest.mark.parametrize(("chosen", "level"), [(logging.NOTSET, logging.WARNING), (logging.DEBUG, logging.DEBUG)])
def test_the_library_says_no_more_than_was_chosen(chosen: int, level: int) -> None:
    logger = logging.getLogger(next(name for name in library.LIBRARIES if importlib.util.find_spec(name)))
    before = logger.level
    logger.setLevel(chosen)
    try:
        library.load()
        assert logger.level == level
    finally:
        logger.setLevel(before)


def test_the_same_bars_and_time_as_a_plain_script_gets(session: BrokerSession, spec: GatewaySpec) -> None:
    async def plain() -> list[Any]:
        ib = library.load().IB()
        await ib.connectAsync(spec.host, spec.port, clientId=30, timeout=30)
        contract = library.load().Stock("SPY", "SMART", "USD")
        bars = await ib.reqHistoricalDataAsync(contract, "", "1 Y", "1 day", "TRADES", True, 1)
        ib.disconnect()
        return list(bars)

    loop = PrivateLoop("plain")
    theirs = loop.run(plain())
    loop.close()
    ours = session.history(session.resolve(InstrumentSpec(symbol="SPY")), bar_size="1 day", duration="1 Y", end=None)

    assert [bar.time.date() for bar in ours] == [bar.date for bar in theirs]
    # The day that is forming moves on between the two.
    assert [(bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in ours[:-1]] == [
        (bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in theirs[:-1]
    ]


def test_a_broken_connection_leaves_other_users_of_the_library_alone(
    own_simulator: SimulatorHandle, own_spec: GatewaySpec, spec: GatewaySpec
) -> None:
    """The library announces a lost connection to the whole process; only its blocking calls listen to that."""
    with BrokerSession.open(own_spec, client_id=10), BrokerSession.open(spec, client_id=10) as bystander:
        own_simulator.stop()
        assert bystander.now()
        assert bystander.positions() == []


def test_a_pacing_violation_is_not_an_empty_answer(session: BrokerSession, simulator: SimulatorHandle) -> None:
    spy = session.resolve(InstrumentSpec(symbol="SPY"))
    simulator.control("pacing")
    with pytest.raises(PacingViolation) as caught:
        session.history(spy, bar_size="1 day", duration="1 M", end=None)
    assert caught.value.code == 162
    assert session.history(spy, bar_size="1 day", duration="1 M", end=None)
