"""A login with several accounts, as a financial advisor has one."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ib_insync
import pytest
from ib_insync import ExecutionFilter, MarketOrder, Stock

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.simulator.account.funds import account_codes

if TYPE_CHECKING:
    from airflow_ibkr_plugin.simulator.embedded import SimulatorHandle

Until = Callable[[Callable[[], Any]], Any]

FIRST, SECOND = "DU1000001", "DU1000002"
AAPL = Stock("AAPL", "SMART", "USD")


@pytest.fixture
def advisor(start: Callable[..., SimulatorHandle], tmp_path: Path) -> SimulatorHandle:
    return start(account=f"{FIRST},{SECOND}", cash={"USD": Decimal(50_000)}, state=tmp_path / "state")


@pytest.fixture
def ib(advisor: SimulatorHandle, connect: Callable[..., ib_insync.IB]) -> ib_insync.IB:
    return connect(advisor)


def buy(ib: ib_insync.IB, until: Until, account: str, shares: int) -> ib_insync.Trade:
    order = MarketOrder("BUY" if shares > 0 else "SELL", abs(shares), tif="DAY", account=account)
    trade = ib.placeOrder(AAPL, order)
    until(lambda: trade.fills and trade.fills[-1].commissionReport.execId)
    return trade


def value(ib: ib_insync.IB, account: str, tag: str) -> Decimal:
    found = {item.currency: item.value for item in ib.accountValues(account) if item.tag == tag}
    return Decimal(found["USD"])


def test_each_account_has_its_own_books(ib: ib_insync.IB, until: Until) -> None:
    assert ib.managedAccounts() == [FIRST, SECOND]
    trade = buy(ib, until, SECOND, 40)
    assert trade.fills[0].execution.acctNumber == trade.order.account == SECOND
    until(lambda: value(ib, SECOND, "CashBalance") < 50_000)
    paid = Decimal(str(40 * trade.fills[0].execution.price)) + 1
    assert value(ib, SECOND, "CashBalance") == 50_000 - round(paid, 2)
    assert value(ib, FIRST, "CashBalance") == 50_000
    assert [(item.account, item.position) for item in ib.positions()] == [(SECOND, 40)]
    buy(ib, until, FIRST, -5)
    until(lambda: {(item.account, item.position) for item in ib.positions()} == {(FIRST, -5), (SECOND, 40)})
    filled = ib.reqExecutions(ExecutionFilter(acctCode=FIRST))
    assert [fill.execution.acctNumber for fill in filled] == [FIRST]
    summary = {item.account: item.value for item in ib.accountSummary() if item.tag == "GrossPositionValue"}
    assert Decimal(summary[SECOND]) / 40 == Decimal(summary[FIRST]) / 5
    profit = [ib.reqPnL(account) for account in (FIRST, SECOND)]
    until(lambda: all(item.dailyPnL == item.dailyPnL for item in profit))
    assert profit[0].unrealizedPnL != profit[1].unrealizedPnL


def test_an_order_must_name_its_account(ib: ib_insync.IB, until: Until) -> None:
    errors: list[tuple[int, str]] = []
    ib.errorEvent += lambda request, code, text, contract: errors.append((code, text))
    for account in ("", "DU9"):
        trade = ib.placeOrder(AAPL, MarketOrder("BUY", 1, tif="DAY", account=account))
        until(trade.isDone)
    assert (435, "You must specify an account.") in errors
    assert 321 in [code for code, _ in errors]
    # The funds are those of the account alone.
    trade = ib.placeOrder(AAPL, MarketOrder("BUY", 1500, tif="DAY", account=FIRST))
    until(trade.isDone)
    assert 201 in [code for code, _ in errors]
    ib.client.reqAccountUpdates(True, "")
    until(lambda: [code for code, _ in errors].count(321) == 2)


def test_updates_are_those_of_one_account(advisor: SimulatorHandle, raw: Callable[..., Any]) -> None:
    client = raw(advisor, 1)
    for account in (FIRST, SECOND):
        client.send(6, 2, 1, account)
        messages = []
        while (message := client.read())[0] != "54":
            messages.append(message)
        assert {message[5] for message in messages if message[0] == "6"} == {account}
        assert message[2] == account


def test_a_restart_finds_each_accounts_books(
    advisor: SimulatorHandle, ib: ib_insync.IB, until: Until,
    start: Callable[..., SimulatorHandle], connect: Callable[..., ib_insync.IB], tmp_path: Path,
) -> None:  # fmt: skip
    buy(ib, until, FIRST, 7)
    buy(ib, until, SECOND, 9)
    ib.disconnect()
    advisor.stop()
    again = connect(start(account=f"{FIRST},{SECOND}", cash={"USD": Decimal(50_000)}, state=tmp_path / "state"))
    assert {(item.account, item.position) for item in again.positions()} == {(FIRST, 7), (SECOND, 9)}
    assert value(again, FIRST, "CashBalance") > value(again, SECOND, "CashBalance")


def test_accounts_are_read_or_refused() -> None:
    assert account_codes("DU1, DU2") == ("DU1", "DU2")
    for text in ("", "DU1,", "DU1,DU1"):
        with pytest.raises(ConfigError, match="--account"):
            account_codes(text)
