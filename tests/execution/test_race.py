"""Eight processes, each a strategy of its own, race for one account limit, over sockets on one simulated gateway.

The gateway's clock stands still, so that prices do: what was within a limit when it was reserved is so at the end.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from airflow_ibkr_plugin import settings
from airflow_ibkr_plugin.broker.connect import leased_session
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.execution.place import execute
from airflow_ibkr_plugin.execution.request import OrderRequest
from airflow_ibkr_plugin.registry import get_registry
from airflow_ibkr_plugin.store.database import Database
from airflow_ibkr_plugin.store.limits import Limits
from airflow_ibkr_plugin.store.models import OrderIntent
from airflow_ibkr_plugin.trading.instruments import InstrumentSpec
from airflow_ibkr_plugin.trading.orders import IntentKey, IntentState, OrderTicket, OrderType, Side

PROCESSES = 8
SYMBOLS = ("SPY", "QQQ", "IWM")
ACCOUNT = "DU1234567"
CLOCK = "2026-03-02T15:00:00+00:00"
both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@dataclass(frozen=True)
class Gateway:
    """A simulated gateway in a process of its own: this one is forked, and must have no threads."""

    port: int
    control_port: int

    def control(self, **command: Any) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self.control_port), timeout=30) as sock:
            sock.sendall(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(sock.makefile().readline())
        return answer

    def spec(self, number: int) -> GatewaySpec:
        """Of one of two connections to the account."""
        ids = range(number * 10 + 1, number * 10 + 9)
        return GatewaySpec(
            conn_id=f"connection_{number % 2}", host="127.0.0.1", port=self.port, client_ids=ids, account=ACCOUNT
        )


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    command = [sys.executable, "-m", "airflow_ibkr_plugin.simulator", "--port", "0", "--control-port", "0"]
    command += ["--seed", "7", "--clock", CLOCK, "--account", ACCOUNT, "--log-level", "WARNING"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        running = Gateway(told["port"], told["control_port"])
        running.control(cmd="clock", set=CLOCK, freeze=True)
        yield running
        process.terminate()


@dataclass(frozen=True)
class Race:
    gateway: Gateway
    database: Database

    def limit(self, rule: str, **parameters: Any) -> None:
        with self.database.write() as session:
            Limits(session).change(ACCOUNT, rule, parameters, by="anna", reason="race", at=datetime.now(UTC))

    def run(self, **changes: Any) -> list[str]:
        """Two orders of each process; returns their states. Whatever a process raises, it was not to raise."""
        fork = multiprocessing.get_context("fork")
        barrier, answers = fork.Barrier(PROCESSES), fork.Queue()
        url = self.database.url.render_as_string(hide_password=False)

        def strategy(number: int) -> None:
            try:
                states = self._trade(Database(url), number, barrier, **changes)
                answers.put(states)
            except BaseException:
                answers.put([traceback.format_exc()])
                raise

        settings.load()  # Airflow is imported once, before the forks, as for its own workers
        get_registry()
        self.database.dispose()
        processes = [fork.Process(target=strategy, args=(number,), daemon=True) for number in range(PROCESSES)]
        for process in processes:
            process.start()
        found = [state for _ in processes for state in answers.get(timeout=120)]
        for process in processes:
            process.join(60)
            assert process.exitcode == 0, found
        return found

    def _trade(self, database: Database, number: int, barrier: Any, **changes: Any) -> list[str]:
        states = []
        sells = number < changes.pop("sellers", 0)
        with leased_session(self.gateway.spec(number), database, owner=f"w{number}") as session:
            instruments = [session.resolve(InstrumentSpec.parse(symbol)) for symbol in SYMBOLS]
            for run in range(2):
                instrument = instruments[(number + run) % len(changes.get("symbols", SYMBOLS))]
                request = OrderRequest(
                    key=IntentKey(
                        installation="t", dag_id=f"s{number}", run_id=str(run), task_id="o", con_id=instrument.con_id
                    ),
                    strategy=f"s{number}",
                    source=session.source,
                    account=session.account,
                    mode="paper",
                    instrument=instrument,
                    ticket=OrderTicket(
                        side=Side.SELL if sells else Side.BUY,
                        quantity=Decimal(10),
                        order_type=OrderType.LIMIT if changes.get("price") else OrderType.MARKET,
                        limit_price=changes.get("price"),
                    ),
                    wait_seconds=0.2 if changes.get("price") else 30.0,
                    leave_working=bool(changes.get("price")),
                    allow_short=True,
                )
                barrier.wait(60)
                states.append(execute(session, database, request, owner="t").state.value)
        return states

    def worth(self) -> dict[str, Decimal]:
        """What the account holds, by the gateway's own prices."""
        with leased_session(self.gateway.spec(9), self.database, owner="check") as session:
            positions = session.account_snapshot().positions
        return {held.symbol: held.quantity * held.market_price for held in positions if held.market_price}

    def orders(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.gateway.control(cmd="orders")["orders"]
        return found

    def intents(self) -> list[OrderIntent]:
        with self.database.read() as session:
            return list(session.scalars(select(OrderIntent)))


@pytest.fixture
def race(gateway: Gateway, database: Database) -> Race:
    return Race(gateway, database)


#: A position is marked at another price than its order was measured at: bid, ask or their middle. One order more than
#: the limit allows would be ten times as much.
SPREAD = Decimal("1.002")


@both_databases
def test_the_position_is_never_larger_than_its_limit(race: Race) -> None:
    race.limit("position_size", max_quantity=55)
    assert set(race.run(symbols=["SPY"])) == {"filled", "denied"}
    # A fill that the broker tells of before it is booked counts twice, so that less may be let pass, never more.
    assert 40 <= sum(Decimal(str(order["filled"])) for order in race.orders()) <= 55


@both_databases
@pytest.mark.parametrize("rule", ["gross_exposure", "net_exposure", "concentration"])
def test_the_account_s_exposure_is_never_larger_than_its_limit(race: Race, rule: str) -> None:
    if rule == "concentration":
        race.limit(rule, max_share=0.03)
        race.run(symbols=["SPY"])
        limit = Decimal(30_000)
    else:
        race.limit(rule, max=20_000)
        race.run(sellers=2 if rule == "net_exposure" else 0)
        limit = Decimal(20_000)
    worth = race.worth().values()
    total = abs(sum(worth)) if rule == "net_exposure" else sum(map(abs, worth))
    assert total <= limit * SPREAD
    # Most of what can be used is used; the worst case of the net figure leaves more room.
    assert total >= limit * Decimal("0.5" if rule == "net_exposure" else "0.75")


@both_databases
def test_no_order_is_worth_more_than_its_limit(race: Race) -> None:
    race.limit("order_notional", max=1500)
    assert set(race.run()) == {"filled"}
    worth = [row.quantity * row.reference_price for row in race.intents() if row.reference_price]
    assert len(worth) == 16
    assert max(worth) <= 1500


@both_databases
def test_no_more_orders_are_open_than_may_be(race: Race) -> None:
    race.limit("open_orders", max_account=6)
    states = race.run(price=Decimal(1))
    assert sum(order["status"] in ("Submitted", "PreSubmitted") for order in race.orders()) == 6
    assert (states.count(IntentState.WORKING), states.count(IntentState.DENIED)) == (6, 10)


@both_databases
def test_no_more_orders_are_sent_in_a_day_than_may_be(race: Race) -> None:
    race.limit("orders_per_day", max_account=7)
    assert race.run().count("filled") == len(race.orders()) == 7
