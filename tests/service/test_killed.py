"""Services killed with SIGKILL at random moments, under faults of the broker: in the end the books are the broker's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.store.models import ExecutionRow
from airflow_ibkr_plugin.trading.orders import IntentState

Until = Callable[[str, Callable[[], Any]], Any]
FAULTS: list[dict[str, Any]] = [
    {"cmd": "drop"},
    {"cmd": "unnamed_fill", "count": 4},
    {"cmd": "delay", "messages": ["execDetails", "commissionReport"], "seconds": 0.7, "count": 12},
    {"cmd": "restart", "seconds": 3},
]
SYMBOLS = ["SPY", "QQQ", "AAPL", "MSFT"]


@pytest.mark.parametrize("seed", range(len(FAULTS)), ids=lambda seed: str(FAULTS[seed]["cmd"]))
@pytest.mark.usefixtures("quick")
def test_killed_at_any_instant_it_loses_nothing(
    floor: Any, servers: Any, until: Until, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    refs = [floor.leave_order(monkeypatch, run_id=symbol, symbol=symbol) for symbol in SYMBOLS]
    services = [servers.start(), servers.start()]
    leader = servers.wait_for_leader(*services)
    # It is let into its first connection, or not.
    if chance.random() < 0.5:
        until("connected", lambda: floor.gateway.control("status")["clients"])
    floor.gateway.control(**FAULTS[seed])
    floor.open_market()
    time.sleep(chance.uniform(0, 1.5))
    leader.kill()
    (other,) = (service for service in services if service is not leader)
    until("all filled", lambda: all(floor.intent(ref).state is IntentState.FILLED for ref in refs))
    # A commission that was late is asked for as well.
    until("all paid", lambda: all(fill.commission is not None for ref in refs for fill in floor.fills(ref)))
    assert other.poll() is None, servers.log.read_text()

    with leased_session(floor.spec, floor.database, owner="t") as session:
        broker = session.everything()
    assert len(broker.orders) == len(refs)
    with floor.database.read() as transaction:
        booked = list(transaction.scalars(select(ExecutionRow)))
    assert {(e.exec_id, e.quantity, e.price, e.commission) for e in broker.executions} == {
        (e.exec_id, e.quantity, e.price, e.commission) for e in booked
    }
    assert {row.strategy for row in booked} == {"demo"}
    assert floor.position() == sum(e.quantity for e in broker.executions) == 10 * len(refs)
