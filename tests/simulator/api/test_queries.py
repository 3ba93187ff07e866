"""Unmodified ib_insync asks for time, contracts, history, quotes and the account."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import ib_insync as ibi
import pytest

from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

OPEN = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)


def stock(ib: ibi.IB, symbol: str = "AAPL", currency: str = "USD") -> ibi.Contract:
    return ib.qualifyContracts(ibi.Stock(symbol, "SMART", currency))[0]


def errors_of(ib: ibi.IB) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((request, code))
    return seen


def test_connect(simulator: SimulatorHandle, ib: ibi.IB) -> None:
    assert ib.client.serverVersion() == 176
    assert ib.managedAccounts() == [simulator.account]
    assert ib.reqCurrentTime() == OPEN
    values = {value.tag: value.value for value in ib.accountValues()}
    assert (values["NetLiquidation"], values["Simulator"]) == ("1000000.00", "airflow-ibkr-plugin")
    assert datetime.fromisoformat(values["SimulatedClock"]) == OPEN


def test_a_real_clock_says_so(start: Callable[..., SimulatorHandle], connect: Any) -> None:
    from airflow_ibkr_plugin.simulator.embedded import start_simulator

    with start_simulator() as handle:
        ib = connect(handle)
        assert abs((ib.reqCurrentTime() - datetime.now(UTC)).total_seconds()) < 5
        assert next(v.value for v in ib.accountValues() if v.tag == "SimulatedClock") == "false"
        ib.disconnect()


def test_requests_that_are_not_served_are_refused_by_name(ib: ibi.IB) -> None:
    seen: list[tuple[int, str]] = []
    ib.errorEvent += lambda request, code, text, contract: seen.append((code, text))
    assert not ib.reqSecDefOptParams("AAPL", "", "STK", 265598)
    assert (321, "reqSecDefOptParams is not served by this simulator") in seen


def test_a_used_client_id_is_refused(simulator: SimulatorHandle, ib: ibi.IB, connect: Any) -> None:
    other = ibi.IB()
    seen = errors_of(other)
    with pytest.raises((ConnectionError, TimeoutError)):
        other.connect("127.0.0.1", simulator.port, clientId=1, timeout=1)
    assert (-1, 326) in seen
    assert ib.reqCurrentTime() == OPEN
    assert connect(simulator, 2).isConnected()
    assert simulator.control("status")["clients"] == [1, 2]


def test_ib_insyncs_own_throttle_stays_under_the_meter(ib: ibi.IB) -> None:
    apple = stock(ib)
    answers = ib.run(_many(ib, apple))
    assert answers == [1] * 120


async def _many(ib: ibi.IB, contract: ibi.Contract) -> list[int]:
    import asyncio

    found = await asyncio.gather(*(ib.reqContractDetailsAsync(contract) for _ in range(120)))
    return [len(item) for item in found]


def test_a_client_without_throttle_is_cut_off(simulator: SimulatorHandle, connect: Any, until: Any) -> None:
    hasty = connect(simulator, 9)
    seen = errors_of(hasty)
    hasty.client.MaxRequests = 0
    for _ in range(300):
        hasty.client.reqCurrentTime()
    with pytest.raises(ConnectionError):
        until(lambda: not hasty.isConnected())
    assert (-1, 100) in seen


def test_daily_profit(ib: ibi.IB, until: Any) -> None:
    trade = ib.placeOrder(stock(ib), ibi.MarketOrder("BUY", 100))
    until(trade.isDone)
    pnl = ib.reqPnL("DU1234567")
    until(lambda: pnl.dailyPnL == pnl.dailyPnL)
    # Bought at the ask, valued at the last price one cent below it, one dollar of commission.
    assert (pnl.dailyPnL, pnl.unrealizedPnL, pnl.realizedPnL) == (-2.0, -2.0, 0.0)
